"""Published KL-VAEs -> ours: CompVis files (MAR's `kl16.ckpt`, LDM first stages) and diffusers folders. Key maps only.

Our names are diffusers' behind `net.`. CompVis counts decoder levels from the finest (diffusers: from the coarsest),
has 1 x 1 convolutions where diffusers has matrices (attention projections), and other names.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import read_weights
from . import numbered, plain_names, tensors

ROLE, KIND = "tokenizer", "kl_vae"
LICENSE = "the checkpoint's own (MAR's code and weights: MIT)"

GROUPS = 32
"""Groups of the normalisations: a constant of CompVis' code, and diffusers' default, that no tensor tells."""
SCALES = {(5, 16): 0.2325, (4, 4): 0.18215}
"""(levels, latent channels) -> the published scale of that geometry (MAR's KL-16, LDM's KL-8); the file doesn't say."""
_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers before 0.18


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a CompVis file or a diffusers folder -> (fields of KLVAEConfig, our state dict)."""
    path = Path(path)
    if path.is_dir():
        return read_diffusers(path)
    weights: Any = read_weights(path)
    for name in ("model", "state_dict"):
        if isinstance(weights.get(name), dict):
            weights = weights[name]
    return convert(plain_names(tensors(f"KL-VAE checkpoint {path}", weights)))


def convert(compvis: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A CompVis state dict -> (fields of KLVAEConfig, our state dict); ValueError names a key that isn't known.

    `loss.*` (LDM keeps its discriminator and LPIPS network in the same file) is left behind.
    """
    weights = {key: value for key, value in compvis.items() if not str(key).startswith("loss.")}
    try:
        fields = _compvis_fields(weights)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"KL-VAE checkpoint: not in CompVis' form: {error}") from None
    names = _compvis_names(fields)
    state = {}
    for key, value in weights.items():
        module, _, leaf = key.rpartition(".")
        if module not in names or leaf not in ("weight", "bias"):
            raise ValueError(f"KL-VAE checkpoint: unknown key {key!r}")
        ours = names[module]
        is_matrix = ".to_" in ours and value.ndim == 4
        state[f"net.{ours}.{leaf}"] = value[:, :, 0, 0] if is_matrix else value
    return fields, state


def _compvis_fields(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The geometry, from names and shapes."""
    levels, layers = numbered(weights, "encoder.down."), numbered(weights, "encoder.down.0.block.")
    latents = weights["decoder.conv_in.weight"].shape[1]
    return {
        "image_channels": weights["encoder.conv_in.weight"].shape[1],
        "latent_channels": latents,
        "block_channels": tuple(weights[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)),
        "block_layers": layers,
        "groups": GROUPS,
        "mid_attention": "encoder.mid.attn_1.q.weight" in weights,
        "encoder_attention": tuple(i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in weights),
        "decoder_attention": tuple(i for i in range(levels) if f"decoder.up.{i}.attn.0.q.weight" in weights),
        "quant_conv": "quant_conv.weight" in weights,
        "scale": SCALES.get((levels, latents), 1.0),
    }


def _compvis_names(fields: dict[str, Any]) -> dict[str, str]:
    """Every module with weights that this geometry can have: CompVis' name -> diffusers' name."""
    levels, layers = len(fields["block_channels"]), fields["block_layers"]
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half, side, count in (("encoder", "down", layers), ("decoder", "up", layers + 1)):
        names |= {f"{half}.{end}": f"{half}.{end}" for end in ("conv_in", "conv_out")}
        names[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        for index in (1, 2):
            names |= _inside(f"{half}.mid.block_{index}", f"{half}.mid_block.resnets.{index - 1}", _RESNET)
        names |= _inside(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", _ATTENTION)
        for level in range(levels):
            theirs = f"{half}.{side}.{level}"
            ours = f"{half}.{side}_blocks.{level if side == 'down' else levels - 1 - level}"
            names[f"{theirs}.{side}sample.conv"] = f"{ours}.{side}samplers.0.conv"
            for index in range(count):
                names |= _inside(f"{theirs}.block.{index}", f"{ours}.resnets.{index}", _RESNET)
                names |= _inside(f"{theirs}.attn.{index}", f"{ours}.attentions.{index}", _ATTENTION)
    return names


def _inside(theirs: str, ours: str, parts: dict[str, str]) -> dict[str, str]:
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in parts.items()}


def read_diffusers(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A diffusers AutoencoderKL folder (config.json and safetensors, read as data) -> (fields, our state dict)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        fields = _diffusers_fields({key: value for key, value in config.items() if not key.startswith("_")})
    except OSError:
        raise ValueError(f"diffusers folder {folder}: no config.json") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"diffusers folder {folder}: config.json: {error}") from None
    files = [folder / f"diffusion_pytorch_model{variant}.safetensors" for variant in ("", ".fp16")]
    found = [file for file in files if file.is_file()]
    if not found:
        raise ValueError(f"diffusers folder {folder}: no {files[0].name}; pickled .bin weights aren't read")
    return fields, _diffusers_state(plain_names(read_weights(found[0])))


def convert_diffusers(weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A diffusers state dict without its config -> (fields of KLVAEConfig, our state dict).

    The fields are what names and shapes tell, so neither `scale` nor `image_size`. ValueError in one line.
    """
    try:
        return _diffusers_shapes(weights), _diffusers_state(weights)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"KL-VAE checkpoint: not in diffusers' form: {error}") from None


def _diffusers_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names, which are diffusers' of today, and matrices where older ones have 1 x 1 convolutions."""
    state = {}
    for key, value in weights.items():
        *path, part, leaf = ("net." + key).split(".")
        if ".attentions." in key:
            part = _OLD_ATTENTION.get(part, part)
            value = value[:, :, 0, 0] if value.ndim == 4 else value
        state[".".join((*path, part, leaf))] = value
    return state


def _diffusers_shapes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """The geometry, from names and shapes."""

    def attends(block: str) -> bool:
        return any(key.startswith(f"{block}.attentions.") for key in weights)

    levels = numbered(weights, "encoder.down_blocks.")
    return {
        "image_channels": weights["encoder.conv_in.weight"].shape[1],
        "latent_channels": weights["decoder.conv_in.weight"].shape[1],
        "block_channels": tuple(
            weights[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)
        ),
        "block_layers": numbered(weights, "encoder.down_blocks.0.resnets."),
        "groups": GROUPS,
        "mid_attention": attends("encoder.mid_block"),
        "encoder_attention": tuple(i for i in range(levels) if attends(f"encoder.down_blocks.{i}")),
        "decoder_attention": tuple(levels - 1 - i for i in range(levels) if attends(f"decoder.up_blocks.{i}")),
        "quant_conv": "quant_conv.weight" in weights,
    }


def _diffusers_fields(config: dict[str, Any]) -> dict[str, Any]:
    """KLVAEConfig's fields for a diffusers config; ValueError for what our network has no field for."""
    config = dict(config)
    levels = len(config["block_out_channels"])
    down, up = config.pop("down_block_types"), config.pop("up_block_types")
    size = config.pop("sample_size", 256)
    mean, std = config.pop("latents_mean", None), config.pop("latents_std", None)
    scale, shift = config.pop("scaling_factor", 1.0), config.pop("shift_factor", None) or 0.0
    if mean is not None and std is not None:
        scale, shift = tuple(scale / s for s in std), tuple(mean)
    fields = {
        "image_channels": config.pop("in_channels"),
        "image_size": (size, size) if isinstance(size, int) else tuple(size),
        "latent_channels": config.pop("latent_channels"),
        "block_channels": tuple(config.pop("block_out_channels")),
        "block_layers": config.pop("layers_per_block"),
        "groups": config.pop("norm_num_groups", 32),
        "mid_attention": config.pop("mid_block_add_attention", True),
        "encoder_attention": tuple(i for i, kind in enumerate(down) if kind.startswith("Attn")),
        "decoder_attention": tuple(levels - 1 - i for i, kind in enumerate(up) if kind.startswith("Attn")),
        "quant_conv": config.pop("use_quant_conv", True),
        "scale": scale,
        "shift": shift,
    }
    expected = {"out_channels": fields["image_channels"], "act_fn": "silu", "use_post_quant_conv": fields["quant_conv"]}
    for name, value in expected.items():
        if (given := config.pop(name, value)) != value:
            raise ValueError(f"{name}: got {given!r}, accepted: {value!r}")
    config.pop("force_upcast", None)  # how diffusers' pipelines run it, not what it computes
    kinds = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"}
    if config or not {*down, *up} <= kinds:
        raise ValueError(f"unknown: {', '.join(sorted({*config, *down, *up} - kinds))}")
    return fields
