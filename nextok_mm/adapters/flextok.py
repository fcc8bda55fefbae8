"""Published FlexTok checkpoints (EPFL-VILAB/flextok_*): the composition they describe, and their key names -> ours.

A published file says in its metadata which parts its encoder and decoder are made of. That is READ AS DATA: a part is
recognised by the last word of its `_target_`, its fields are checked, and nothing it names is ever imported. Names
inside `module_dict` are free, so keys are mapped through the composition. An unknown part is refused by its name.

Our config keeps what differs between compositions; learned tables of positions are written out a row a place.

Published files hold their VAE as `vae.vae.*`, a diffusers AutoencoderKL, whose geometry is told by names and shapes and
whose scale by the description. Another one may take its place. Without any, what is converted works on latents.
"""

import ast
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checkpoint import from_pretrained, read_card, resolve
from . import kl_vae, plain_names

ROLE, KIND = "tokenizer", "flextok"
LICENSE = "Apple ML Research Model License: research only (EPFL-VILAB/flextok_*)"
HOLDS_TOKENIZER = True
"""A tokenizer given to `read` becomes a part of the model, its `vae`."""
MAX_DESCRIPTION = 1 << 20
_SILENT = {"PerSampleOp", "SequenceUnpacker", "DictKeyFilter"}
_MASKS = {"full": "two_way", "causal": "causal", "causal_last": "causal_last"}
Part = tuple[str, str, Mapping[str, Any]]
"""(last word of `_target_`, prefix of its keys, its fields)."""
Converted = tuple[dict[str, Any], dict[str, Tensor]]
"""(fields of a config, state dict)."""


def read(path: str | Path, tokenizer: str | Path | None = None) -> Converted:
    """A published .safetensors file, or a hub folder -> (fields of FlexTokConfig, our state dict).

    tokenizer: a VAE in place of the file's own: a checkpoint of kind kl_vae, or a diffusers folder.
    """
    vae = None if tokenizer is None else _read_vae(tokenizer)
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(file, "pt") as opened:
            described: Mapping[str, Any] = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"flextok checkpoint {file}: not a safetensors file ({str(error).splitlines()[0]})") from None
    beside = path / "config.json"
    if path.is_dir() and beside.is_file():
        if beside.stat().st_size > MAX_DESCRIPTION:
            raise ValueError(f"flextok checkpoint {beside}: over {MAX_DESCRIPTION} bytes")
        described = {**described, **_json(beside)}
    return convert(plain_names(weights), described, vae)


def note(fields: Mapping[str, Any]) -> str | None:
    """What is to be said about a converted model, in one line; None: nothing."""
    if fields.get("vae"):
        return None
    return (
        "it holds no VAE (or none with a scaling_factor), so it works on latents, not on pictures; to attach one, "
        "convert again with --tokenizer FOLDER (made by nextok convert kl_vae, or a diffusers folder, as a download of "
        "EPFL-VILAB/flextok_vae_c16)"
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError):
        raise ValueError(f"flextok checkpoint {path}: not JSON") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"flextok checkpoint {path}: an object is accepted, got {type(found).__name__}")
    return found


def convert(official: dict[str, Tensor], described: Mapping[str, Any], vae: Converted | None = None) -> Converted:
    """Official weights and their description -> (fields of FlexTokConfig, our state dict).

    vae: (fields of KLVAEConfig, its state dict) in place of the file's own; with neither, latents are the pictures.
    """
    rest = dict(official)
    try:
        own = _own_vae(rest)
        encoder = _Half("encoder", _parts("encoder", described["encoder"]), rest)
        decoder = _Half("decoder", _parts("decoder", described["decoder"]), rest)
        fields, state = _together(encoder, decoder, _plain("regularizer", described["regularizer"]))
        used, scale = vae or own, _scale(described) if vae or own else None
        if used and (scale or used[0].get("scale")):  # an own one that nothing says a scale of is of no use
            fields, state = _with_vae((fields, state), used, scale)
    except KeyError as error:
        raise ValueError(f"flextok checkpoint: {error} is missing") from None
    except (TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"flextok checkpoint: not in the published form: {str(error)[:200]}") from None
    if rest:
        raise ValueError(f"flextok checkpoint: unknown key {next(iter(rest))!r}")
    return fields, state


def _read_vae(name: str | Path) -> Converted:
    """Fields and weights of a VAE in our form (a folder or a shipped name) or in a diffusers folder."""
    folder = resolve(name)
    if any(folder.glob("diffusion_pytorch_model*")):
        return kl_vae.read_diffusers(folder)
    kind = read_card(folder).kind
    if kind != "kl_vae":
        raise ValueError(f"tokenizer {folder}: it holds a {kind}, accepted here: a kl_vae, or a diffusers folder")
    model = from_pretrained(folder, role="tokenizer")[0]
    fields = model.config.model_dump() | {"perceptual": None, "adversarial": None}  # of training alone
    return fields, {key: value for key, value in model.state_dict().items() if key.startswith("net.")}


def _own_vae(rest: dict[str, Tensor]) -> Converted | None:
    """The VAE that the weights hold, taken out of them; None where they hold none."""
    rest.pop("vae.logvar", None)  # of training alone
    own = {name.removeprefix("vae.vae."): rest.pop(name) for name in list(rest) if name.startswith("vae.vae.")}
    return kl_vae.convert_diffusers(own) if own else None


def _scale(described: Mapping[str, Any]) -> float | None:
    """What the description multiplies latents by; None where it leaves that to the VAE."""
    if "vae" not in described:
        return None
    fields = _plain("vae", described["vae"])
    if _target(fields) != "StableDiffusionVAE":
        raise ValueError(f"flextok checkpoint: unknown part {_target(fields)!r}, accepted: StableDiffusionVAE")
    scale = fields.get("scaling_factor")
    if scale is not None and (type(scale) not in (int, float) or not 0 < scale < math.inf):
        raise ValueError(f"flextok checkpoint: vae.scaling_factor: got {scale!r:.80}, accepted: a number above 0")
    return scale


def _with_vae(converted: Converted, vae: Converted, scale: float | None) -> Converted:
    """A model over latents -> the same over pictures. The official code knows a scale, no shift."""
    (fields, state), (theirs, weights) = converted, vae
    if theirs["latent_channels"] != fields["latent_channels"]:
        got, wanted = theirs["latent_channels"], fields["latent_channels"]
        raise ValueError(f"flextok checkpoint: a VAE of {got} latent channels, accepted: {wanted}")
    if scale is not None:
        theirs = {**theirs, "scale": scale, "shift": 0.0}
    stride = 2 ** (len(theirs["block_channels"]) - 1)
    size = tuple(side * stride for side in fields["latent_size"])
    fields = {
        **fields,
        "image_channels": theirs["image_channels"],
        "image_size": size,
        "vae": {**theirs, "image_size": size},
    }
    return fields, {**state, **{f"vae.{name}": value for name, value in weights.items()}}


def _plain(name: str, text: Any) -> Mapping[str, Any]:
    """A description as plain data: a mapping, or the text of one (JSON, or Python literals)."""
    if isinstance(text, str):
        if len(text) > MAX_DESCRIPTION:
            raise ValueError(f"flextok checkpoint: {name} has a description of {len(text)} characters")
        try:
            text = json.loads(text) if text.lstrip().startswith('{"') else ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(f"flextok checkpoint: the description of {name} is not plain data") from None
    if not isinstance(text, Mapping):
        raise ValueError(f"flextok checkpoint: the description of {name} is {type(text).__name__}, accepted: a mapping")
    return text


def _parts(half: str, text: Any) -> list[Part]:
    """The parts of one half, in order."""
    modules = _plain(half, text)["module_dict"]
    return [(_target(fields), f"{half}.module_dict.{name}.", fields) for name, fields in modules.items()]


def _target(fields: Mapping[str, Any]) -> str:
    return str(fields["_target_"]).rsplit(".", 1)[-1]


class _Half:
    """One half of the model, read part by part: `fields` of it, and tensors under our names without their prefix."""

    def __init__(self, half: str, parts: list[Part], weights: dict[str, Tensor]):
        self.half, self.weights = half, weights
        self.fields: dict[str, Any] = {}
        self.state: dict[str, Tensor] = {}
        self.group: dict[str, str] = {}  # key of the dict that parts hand on -> "patches" or "registers"
        self.order: list[str] = []
        for target, prefix, fields in parts:
            # Parts have capitals: nothing else of this class can be named by a file.
            named = target[:1].isupper()
            reader: Callable[..., None] | None = getattr(self, f"_{target}", None) if named else None
            if reader is None and target not in _SILENT:
                raise ValueError(f"flextok checkpoint: unknown part {target!r} in the {half}")
            if reader is not None:
                reader(prefix, fields)

    def _take(self, name: str) -> Tensor:
        return self.weights.pop(name)

    def _linear(self, ours: str, theirs: str, bias: bool = True) -> None:
        weight = self.state[f"{ours}.weight"] = self._take(f"{theirs}.weight")
        if bias:
            self.state[f"{ours}.bias"] = self.weights.pop(f"{theirs}.bias", weight.new_zeros(len(weight)))

    def _only(self, fields: Mapping[str, Any], **accepted: Any) -> None:
        """ValueError where a field, if it is there, has another value than the one that is built."""
        for name, value in accepted.items():
            if fields.get(name, value) != value:
                raise ValueError(
                    f"flextok checkpoint: {_target(fields)}.{name} is {fields[name]!r}, accepted: {value!r}"
                )

    # One method a part, named by the last word of its `_target_`.

    def _PatchEmbedder(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self.group[fields["patches_list_write_key"]] = "patches"
        first, second = fields["patch_sizes"]
        if first != second:
            raise ValueError(f"flextok checkpoint: patch_sizes {fields['patch_sizes']}, accepted: square ones")
        self.fields |= {"patch": first, "channels": fields["channels_in"]}
        self._linear("patch", f"{prefix}patch_proj")

    def _Registers1D(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self.group[fields["registers_write_key"]] = "registers"
        if f"{prefix}extra_registers" in self.weights:
            raise ValueError("flextok checkpoint: extra registers, accepted: none")
        self.state["registers"] = self._take(f"{prefix}registers")

    def _LinearLayer(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self.group[fields["write_key"]] = "registers"
        self._linear("from_code", f"{prefix}proj")

    def _PositionalEmbeddingAdder(self, prefix: str, fields: Mapping[str, Any]) -> None:
        group = self.group[fields["read_key"]]
        self.group[fields["write_key"]] = group
        kind, sizes = fields["posemb_type"], tuple(fields["max_sizes"])
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"flextok checkpoint: max_sizes {fields['max_sizes']!r}, accepted: whole numbers from 1")
        self.state[f"{group} positions"] = _table(kind, self._take(f"{prefix}posembs"), sizes)
        self.fields[f"{group} sizes"], self.fields[f"{group} kind"] = sizes, kind
        if group == "registers":
            self.order.append("positions")

    def _MaskedNestedDropout(self, prefix: str, fields: Mapping[str, Any]) -> None:
        mode = fields.get("size_sampling_mode")
        self.fields["nested_dropout"] = mode if mode in ("pow2", "uniform_pow2") else "uniform"  # of training alone
        self.state["mask_token"] = self._take(f"{prefix}dropout_mask_token")
        self.order.append("dropout")

    def _LearnedNullCond(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self.fields["null"] = "single" if fields.get("replace_with_single_token") else "token"
        self.fields["condition_dropout"] = fields.get("dropout_prob", 0.0)
        self.state["null_token"] = self._take(f"{prefix}nullcond")
        self.order.append("null")

    def _ZeroNullCond(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self.fields["null"], self.fields["condition_dropout"] = "zero", fields.get("dropout_prob", 0.0)
        self.order.append("null")

    def _TimestepEmbedder(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self._only(fields, frequency_embedding_size=256)
        self.fields["time_scale"] = 1000.0 / fields.get("max_timestep", 1.0)
        self._linear("up", f"{prefix}mlp.0")
        self._linear("out", f"{prefix}mlp.2")

    def _BlockWiseSequencePacker(self, prefix: str, fields: Mapping[str, Any]) -> None:
        order = [self.group[key] for key in fields["input_list_read_keys"]]
        if order != ["patches", "registers"]:
            raise ValueError(f"flextok checkpoint: packed as {order}, accepted: patches, then registers")
        mode = fields.get("mask_mode", "full")
        if mode not in _MASKS:
            raise ValueError(f"flextok checkpoint: mask_mode {mode!r}, accepted: {', '.join(_MASKS)}")
        self.fields["mask"] = _MASKS[mode]

    def _FlexTransformer(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self._only(fields, qk_norm=True, gated_mlp=True, qkv_bias=False, proj_bias=False, mlp_bias=False, mlp_ratio=4.0)
        width, depth = fields["dim"], fields["depth"]
        self.fields |= {"width": width, "heads": width // fields.get("head_dim", 64), "depth": depth}
        groups = fields.get("adaLN_expansion", 1) if fields.get("adaLN_emb_read_key") else 0
        if groups not in (0, 1, 2):
            raise ValueError(f"flextok checkpoint: adaLN_expansion {groups}, accepted: 1 or 2")
        self.fields["ada"] = ("none", "both", "group")[groups]
        ada: dict[str, list[Tensor]] = {"weight": [], "bias": []}
        for i in range(depth):
            theirs, ours = f"{prefix}blocks.{i}.", f"trunk.blocks.{i}."
            qkv = [self._take(f"{theirs}attn.w{name}.weight") for name in "qkv"]
            self.state[f"{ours}attention.qkv.weight"] = torch.cat(qkv)
            gate, up = (self._take(f"{theirs}mlp.fc{number}.weight") for number in (1, 3))
            self.state[f"{ours}mlp.gate_up.weight"] = torch.cat((gate, up))
            self._linear(f"{ours}attention.out", f"{theirs}attn.proj", bias=False)
            self._linear(f"{ours}mlp.out", f"{theirs}mlp.fc2", bias=False)
            for part in ada if groups else ():
                ada[part].append(_six(self._take(f"{theirs}adaLN_modulation.1.{part}"), groups))
        if groups:
            self.state |= {f"trunk.ada_{part}": torch.stack(values) for part, values in ada.items()}

    def _LinearHead(self, prefix: str, fields: Mapping[str, Any]) -> None:
        self._only(fields, use_mup_readout=False)
        self.fields["head_ada"] = bool(fields.get("adaLN_emb_read_key"))
        if self.fields["head_ada"]:
            self._linear("head_ada", f"{prefix}adaLN_modulation.1")
        self._linear("head", f"{prefix}proj")

    _ToPatchesLinearHead = _LinearHead


def _six(stacked: Tensor, groups: int) -> Tensor:
    """Theirs: gate, gate, shift, scale of attention, shift, scale of the MLP. Ours: gates, scales, shifts."""
    parts = stacked.unflatten(0, (groups, 6, -1))
    return parts[:, [0, 1, 3, 5, 2, 4]].flatten(0, 2)


def _table(kind: str, stored: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """A row a place: [places, D]. Theirs are [1, D, *sizes] (fixed) or one table an axis, [axes, 1, D, longest]."""
    if kind == "sincos":
        return stored[0].flatten(1).T.contiguous()
    if kind not in ("learnable_sum", "learnable_prod"):
        raise ValueError(f"flextok checkpoint: posemb_type {kind!r}, accepted: sincos, learnable_sum, learnable_prod")
    axes = [stored[axis, 0, :, :size].T for axis, size in enumerate(sizes)]  # [size, D]
    total = axes[0]
    for axis in axes[1:]:
        total = total[..., None, :] + axis if kind == "learnable_sum" else total[..., None, :] * axis
    return total.flatten(0, -2).contiguous()


def _together(encoder: _Half, decoder: _Half, regularizer: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both halves as one config and one state dict."""
    if _target(regularizer) != "FSQ":
        raise ValueError(f"flextok checkpoint: unknown part {_target(regularizer)!r}, accepted: FSQ")
    grid, patch, channels = decoder.fields["patches sizes"], decoder.fields["patch"], decoder.fields["channels"]
    registers, code = encoder.state["registers"], encoder.state["head.weight"]
    if "registers positions" in encoder.state:  # added to learned registers: one table does for both
        registers = registers + encoder.state.pop("registers positions")[: len(registers)]
    if encoder.fields["ada"] != "none" or encoder.fields["head_ada"]:
        raise ValueError("flextok checkpoint: the encoder is modulated, accepted: one that is not")
    learned = encoder.fields["patches kind"] != "sincos" or decoder.fields["patches kind"] != "sincos"
    size = tuple(side * patch for side in grid)
    fields: dict[str, Any] = {
        "image_channels": channels,
        "image_size": size,
        "latent_channels": channels,
        "latent_size": size,
        "patch": patch,
        "registers": len(registers),
        "levels": tuple(regularizer["levels"]),
        "positions": "learned" if learned else "sincos",
        "condition": tuple(decoder.order),
        "head_ada": decoder.fields["head_ada"],
    }
    fields |= {
        name: decoder.fields[name]
        for name in ("null", "condition_dropout", "nested_dropout", "time_scale")
        if name in decoder.fields
    }
    for name, half in (("encoder", encoder), ("decoder", decoder)):
        fields[name] = {key: half.fields[key] for key in ("width", "heads", "depth", "mask", "ada")}
    state = {"registers": registers, "mask_token": decoder.state["mask_token"]}
    if "null_token" in decoder.state:
        state["null_token"] = decoder.state["null_token"]
    if "positions" in decoder.order:
        state["register_positions"] = decoder.state["registers positions"][: len(registers)]
    if learned:
        state |= {f"{half.half}_positions": half.state["patches positions"] for half in (encoder, decoder)}
    moved = {
        encoder: {"patch.": "patch_in.", "head.": "to_code.", "trunk.": "encoder."},
        decoder: {
            **{"patch.": "noisy_patch_in.", "head.": "velocity_out.", "trunk.": "decoder."},
            **{"from_code.": "from_code.", "up.": "time.up.", "out.": "time.out.", "head_ada.": "head_ada."},
        },
    }
    for half, names in moved.items():
        for key, value in half.state.items():
            for old, new in names.items():
                if key.startswith(old):
                    state[new + key.removeprefix(old)] = value
    if code.shape[0] != len(fields["levels"]):
        raise ValueError(f"flextok checkpoint: {code.shape[0]} numbers a code, but levels {fields['levels']}")
    return fields, state
