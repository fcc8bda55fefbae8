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
from dataclasses import dataclass, field
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
_OURS = {
    "encoder": {"patch": "patch_in", "head": "to_code"},
    "decoder": {"patch": "noisy_patch_in", "head": "velocity_out"},
}
"""What both halves have, under our names."""
_MASKS = {"full": "two_way", "causal": "causal", "causal_last": "causal_last"}
Fields = Mapping[str, Any]
"""What a composition says of one part."""
Part = tuple[str, str, Fields]
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
        encoder = _read_half("encoder", described["encoder"], rest)
        decoder = _read_half("decoder", described["decoder"], rest)
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


@dataclass
class _Half:
    """One half of the model as far as its parts have been read: `fields` of it, `state` under our names.

    positions: of each group of tokens (patches, registers), the kind, the sizes and the table [places, D].
    """

    half: str
    weights: dict[str, Tensor]
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    state: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    group: dict[str, str] = field(default_factory=dict[str, str])  # key that parts hand on -> "patches" or "registers"
    order: list[str] = field(default_factory=list[str])
    positions: dict[str, tuple[str, tuple[int, ...], Tensor]] = field(
        default_factory=dict[str, tuple[str, tuple[int, ...], Tensor]]
    )

    def take(self, name: str) -> Tensor:
        """A published weight, which is used up by it."""
        return self.weights.pop(name)

    def linear(self, ours: str, theirs: str, bias: bool = True) -> None:
        """A linear layer of theirs, under our name; a missing bias is zeros."""
        weight = self.state[f"{ours}.weight"] = self.take(f"{theirs}.weight")
        if bias:
            self.state[f"{ours}.bias"] = self.weights.pop(f"{theirs}.bias", weight.new_zeros(len(weight)))


def _read_half(half: str, described: Any, weights: dict[str, Tensor]) -> _Half:
    """A half part by part, each by its reader; the weights that it uses are taken out of `weights`."""
    found = _Half(half, weights)
    for target, prefix, fields in _parts(half, described):
        if target not in _READERS:
            raise ValueError(f"flextok checkpoint: unknown part {target!r} in the {half}")
        _READERS[target](found, prefix, fields)
    return found


def _only(fields: Fields, **accepted: Any) -> None:
    """ValueError where a field, if it is there, has another value than the one that is built."""
    for name, value in accepted.items():
        if fields.get(name, value) != value:
            raise ValueError(f"flextok checkpoint: {_target(fields)}.{name} is {fields[name]!r}, accepted: {value!r}")


# One reader a part; `_READERS` says of which.


def _silent(half: _Half, prefix: str, fields: Fields) -> None:
    """A part without weights that our model does by itself."""


def _patch_embedder(half: _Half, prefix: str, fields: Fields) -> None:
    half.group[fields["patches_list_write_key"]] = "patches"
    first, second = fields["patch_sizes"]
    if first != second:
        raise ValueError(f"flextok checkpoint: patch_sizes {fields['patch_sizes']}, accepted: square ones")
    half.fields |= {"patch": first, "channels": fields["channels_in"]}
    half.linear(_OURS[half.half]["patch"], f"{prefix}patch_proj")


def _registers(half: _Half, prefix: str, fields: Fields) -> None:
    half.group[fields["registers_write_key"]] = "registers"
    if f"{prefix}extra_registers" in half.weights:
        raise ValueError("flextok checkpoint: extra registers, accepted: none")
    half.state["registers"] = half.take(f"{prefix}registers")


def _linear_layer(half: _Half, prefix: str, fields: Fields) -> None:
    half.group[fields["write_key"]] = "registers"
    half.linear("from_code", f"{prefix}proj")


def _positions(half: _Half, prefix: str, fields: Fields) -> None:
    group = half.group[fields["read_key"]]
    half.group[fields["write_key"]] = group
    kind, sizes = fields["posemb_type"], tuple(fields["max_sizes"])
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"flextok checkpoint: max_sizes {fields['max_sizes']!r}, accepted: whole numbers from 1")
    half.positions[group] = kind, sizes, _table(kind, half.take(f"{prefix}posembs"), sizes)
    if group == "registers":
        half.order.append("positions")


def _nested_dropout(half: _Half, prefix: str, fields: Fields) -> None:
    mode = fields.get("size_sampling_mode")
    half.fields["nested_dropout"] = mode if mode in ("pow2", "uniform_pow2") else "uniform"  # of training alone
    half.state["mask_token"] = half.take(f"{prefix}dropout_mask_token")
    half.order.append("dropout")


def _learned_null(half: _Half, prefix: str, fields: Fields) -> None:
    half.fields["null"] = "single" if fields.get("replace_with_single_token") else "token"
    half.fields["condition_dropout"] = fields.get("dropout_prob", 0.0)
    half.state["null_token"] = half.take(f"{prefix}nullcond")
    half.order.append("null")


def _zero_null(half: _Half, prefix: str, fields: Fields) -> None:
    half.fields |= {"null": "zero", "condition_dropout": fields.get("dropout_prob", 0.0)}
    half.order.append("null")


def _time(half: _Half, prefix: str, fields: Fields) -> None:
    _only(fields, frequency_embedding_size=256)
    half.fields["time_scale"] = 1000.0 / fields.get("max_timestep", 1.0)
    half.linear("time.up", f"{prefix}mlp.0")
    half.linear("time.out", f"{prefix}mlp.2")


def _packer(half: _Half, prefix: str, fields: Fields) -> None:
    order = [half.group[key] for key in fields["input_list_read_keys"]]
    if order != ["patches", "registers"]:
        raise ValueError(f"flextok checkpoint: packed as {order}, accepted: patches, then registers")
    mode = fields.get("mask_mode", "full")
    if mode not in _MASKS:
        raise ValueError(f"flextok checkpoint: mask_mode {mode!r}, accepted: {', '.join(_MASKS)}")
    half.fields["mask"] = _MASKS[mode]


def _transformer(half: _Half, prefix: str, fields: Fields) -> None:
    _only(fields, qk_norm=True, gated_mlp=True, qkv_bias=False, proj_bias=False, mlp_bias=False, mlp_ratio=4.0)
    width, depth, trunk = fields["dim"], fields["depth"], half.half
    half.fields |= {"width": width, "heads": width // fields.get("head_dim", 64), "depth": depth}
    groups = fields.get("adaLN_expansion", 1) if fields.get("adaLN_emb_read_key") else 0
    if groups not in (0, 1, 2):
        raise ValueError(f"flextok checkpoint: adaLN_expansion {groups}, accepted: 1 or 2")
    half.fields["ada"] = ("none", "both", "group")[groups]
    ada: dict[str, list[Tensor]] = {"weight": [], "bias": []}
    for i in range(depth):
        theirs, ours = f"{prefix}blocks.{i}.", f"{trunk}.blocks.{i}."
        qkv = [half.take(f"{theirs}attn.w{name}.weight") for name in "qkv"]
        half.state[f"{ours}attention.qkv.weight"] = torch.cat(qkv)
        gate, up = (half.take(f"{theirs}mlp.fc{number}.weight") for number in (1, 3))
        half.state[f"{ours}mlp.gate_up.weight"] = torch.cat((gate, up))
        half.linear(f"{ours}attention.out", f"{theirs}attn.proj", bias=False)
        half.linear(f"{ours}mlp.out", f"{theirs}mlp.fc2", bias=False)
        for part in ada if groups else ():
            ada[part].append(_six(half.take(f"{theirs}adaLN_modulation.1.{part}"), groups))
    if groups:
        half.state |= {f"{trunk}.ada_{part}": torch.stack(values) for part, values in ada.items()}


def _head(half: _Half, prefix: str, fields: Fields) -> None:
    _only(fields, use_mup_readout=False)
    half.fields["head_ada"] = bool(fields.get("adaLN_emb_read_key"))
    if half.fields["head_ada"]:
        half.linear("head_ada", f"{prefix}adaLN_modulation.1")
    half.linear(_OURS[half.half]["head"], f"{prefix}proj")


_READERS: dict[str, Callable[[_Half, str, Fields], None]] = {
    "PatchEmbedder": _patch_embedder,
    "Registers1D": _registers,
    "LinearLayer": _linear_layer,
    "PositionalEmbeddingAdder": _positions,
    "MaskedNestedDropout": _nested_dropout,
    "LearnedNullCond": _learned_null,
    "ZeroNullCond": _zero_null,
    "TimestepEmbedder": _time,
    "BlockWiseSequencePacker": _packer,
    "FlexTransformer": _transformer,
    "LinearHead": _head,
    "ToPatchesLinearHead": _head,
    **dict.fromkeys(("PerSampleOp", "SequenceUnpacker", "DictKeyFilter"), _silent),
}
"""The last word of a part's `_target_` -> what reads it."""


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


def _together(encoder: _Half, decoder: _Half, regularizer: Fields) -> Converted:
    """Both halves as one config and one state dict."""
    if _target(regularizer) != "FSQ":
        raise ValueError(f"flextok checkpoint: unknown part {_target(regularizer)!r}, accepted: FSQ")
    halves = {"encoder": encoder, "decoder": decoder}
    patches = {name: half.positions["patches"] for name, half in halves.items()}
    patch, channels, grid = decoder.fields["patch"], decoder.fields["channels"], patches["decoder"][1]
    registers, code = encoder.state["registers"], encoder.state["to_code.weight"]
    if "registers" in encoder.positions:  # added to learned registers: one table does for both
        registers = registers + encoder.positions["registers"][2][: len(registers)]
    if encoder.fields["ada"] != "none" or encoder.fields["head_ada"]:
        raise ValueError("flextok checkpoint: the encoder is modulated, accepted: one that is not")
    learned = any(kind != "sincos" for kind, _, _ in patches.values())
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
    named = ("null", "condition_dropout", "nested_dropout", "time_scale")
    fields |= {name: decoder.fields[name] for name in named if name in decoder.fields}
    for name, half in halves.items():
        fields[name] = {key: half.fields[key] for key in ("width", "heads", "depth", "mask", "ada")}
    if code.shape[0] != len(fields["levels"]):
        raise ValueError(f"flextok checkpoint: {code.shape[0]} numbers a code, but levels {fields['levels']}")
    state = {**encoder.state, **decoder.state, "registers": registers}
    if "positions" in decoder.order:
        state["register_positions"] = decoder.positions["registers"][2][: len(registers)]
    if learned:
        state |= {f"{name}_positions": table for name, (_, _, table) in patches.items()}
    return fields, state
