"""Pocket TTS's published codec, keys `mimi.*`, as a `speech_vae`. Sizes from the shapes, rates from the configuration.

The file that holds it holds the language model too (`flow_lm.*`, see pocket_tts), which is passed over here. Layer
scales become part of the matrices before them, exactly; there is no noise in this autoencoder.

What a file doesn't say by its shapes is read from its metadata `config`, and else is the published: 24 kHz, heads of 64
channels, a window of 250, dilations of 2 ** unit.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import read_weights
from . import described, numbered, plain_names, tensors
from .pocket_tts import CODEC, LICENSE, PREFIX, weights_file

ROLE, KIND = "tokenizer", "speech_vae"

__all__ = ["KIND", "LICENSE", "ROLE", "convert", "read"]
_LAYER = {
    "self_attn.in_proj.weight": "attention.qkv.weight",
    "linear1.weight": "mlp.up.weight",
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
}
_SCALED = {
    "self_attn.out_proj.weight": ("attention.out.weight", "layer_scale_1.scale"),
    "linear2.weight": ("mlp.out.weight", "layer_scale_2.scale"),
}


def read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and weights of a published file, or of the folder that holds it as its only .safetensors file."""
    path = weights_file(source)
    told = described(path)
    return convert(plain_names(tensors(f"Pocket TTS checkpoint {path}", read_weights(path))), told)


def convert(official: Mapping[str, Tensor], config: Any = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Turn an official state dict into ours.

    Args:
        official: Tensors by their official names; those of the language model are passed over.
        config: The official configuration, whole or its part `mimi`, as data; None is the published one.

    Returns:
        The fields of SpeechVAEConfig, and our state dict.

    Raises:
        ValueError: A weight is missing or not known.
    """
    rest = {key.removeprefix(CODEC): value for key, value in official.items() if key.startswith(CODEC)}
    strange = [key for key in official if not key.startswith((PREFIX, CODEC))]
    told: Any = config if isinstance(config, dict) else {}
    try:
        if strange:
            raise ValueError(f"unknown key {min(strange)!r}")
        state: dict[str, Tensor] = {}
        shape = _stacks(rest, state)
        depth = _transformers(rest, state)
        state["net.decoder_in.conv.weight"] = rest.pop("quantizer.output_proj.weight")
        state["net.down.conv.weight"] = rest.pop("downsample.conv.conv.weight")
        state["net.up.pair.conv.weight"] = _pairs(rest.pop("upsample.convtr.convtr.weight"), depthwise=True)
        if rest:
            raise ValueError(f"unknown key {CODEC + min(rest)!r}")
        return _fields(state, shape, depth, told.get("mimi", told)), state
    except KeyError as error:
        raise ValueError(f"Pocket TTS checkpoint: no weight {CODEC}{error.args[0]}") from None
    except (ValueError, IndexError, RuntimeError, TypeError, AttributeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"Pocket TTS checkpoint: not in the published form: {reason}") from None


def _stacks(rest: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Any]:
    """The convolutions of both stacks, which count their layers alike; the kinds of layers of each."""
    kinds = {"conv": "conv", "convtr": "transpose", "block": "unit", "": "elu"}
    shape: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        prefix, found = f"{side}.model.", list[str]()
        for layer in range(numbered(rest, prefix)):
            names = [name for name in rest if name.startswith(f"{prefix}{layer}.")]
            begins = (name.removeprefix(f"{prefix}{layer}.").partition(".")[0] for name in names)
            kind = kinds[next(begins, "")]
            found.append(kind)
            for theirs, ours in _layer(kind).items():
                for part in ("weight", "bias"):
                    tensor = rest.pop(f"{prefix}{layer}.{theirs}.{part}")
                    if kind == "transpose" and part == "weight":
                        tensor, name = _pairs(tensor), "pair.conv.weight"
                    else:
                        name = f"{ours}.{part}".lstrip(".")
                    state[f"net.{side}.{layer}.{name}"] = tensor
        shape[side] = found
    return shape


def _pairs(weight: Tensor, depthwise: bool = False) -> Tensor:
    """The weight [in, out, 2 * stride] of a transposed convolution as that of a convolution of two inputs, [out *
    stride, in, 2]: the earlier input makes what the kernel's second half did."""
    halves = weight.unflatten(2, (2, -1)).flip(2)  # [in, out, 2, stride]
    if depthwise:
        return halves.permute(0, 1, 3, 2).reshape(-1, 1, 2).contiguous()
    return halves.permute(1, 3, 0, 2).flatten(0, 1).contiguous()


def _layer(kind: str) -> dict[str, str]:
    """Names in a layer of theirs -> names in ours."""
    return {
        "conv": {"conv": "conv"},
        "transpose": {"convtr": ""},
        "unit": {"block.1.conv": "spread.conv", "block.3.conv": "mix.conv"},
        "elu": {},
    }[kind]


def _transformers(rest: dict[str, Tensor], state: dict[str, Tensor]) -> int:
    """The weights of both transformers; how many blocks each has."""
    depth = 0
    for side in ("encoder", "decoder"):
        prefix = f"{side}_transformer.transformer.layers."
        depth = numbered(rest, prefix)
        for layer in range(depth):
            before, after = f"{prefix}{layer}.", f"net.{side}_transformer.backbone.blocks.{layer}."
            state |= {after + ours: rest.pop(before + theirs) for theirs, ours in _LAYER.items()}
            for theirs, (ours, scale) in _SCALED.items():
                state[after + ours] = rest.pop(before + theirs) * rest.pop(before + scale)[:, None]
    return depth


def _fields(state: Mapping[str, Tensor], shape: Mapping[str, Any], depth: int, told: Any) -> dict[str, Any]:
    seanet, transformer = told.get("seanet", {}), told.get("transformer", {})

    def kernel(name: str) -> int:
        return state[f"{name}.weight"].shape[2]

    encoder, last = shape["encoder"], len(shape["encoder"]) - 1
    width, channels = state["net.encoder.0.conv.weight"].shape[:2]
    strided = [i for i, kind in enumerate(encoder) if kind == "conv" and i not in (0, last)]
    units = encoder[: strided[0]].count("unit")
    ratios = tuple(kernel(f"net.encoder.{layer}.conv") // 2 for layer in strided)
    inner = state["net.decoder_in.conv.weight"].shape[0]
    first = state["net.encoder.1.spread.conv.weight"] if units else None
    rate = int(told.get("sample_rate", 24_000))
    if seanet.get("pad_mode", "constant") != "constant":
        raise ValueError(f"pad_mode: got {seanet['pad_mode']!r}, accepted: constant")
    token_stride = kernel("net.down.conv") // 2
    return {
        "rate": rate,
        "sound_channels": channels,
        "sound_size": math.prod(ratios) * token_stride * max(1, round(rate / (math.prod(ratios) * token_stride))),
        "width": width,
        "ratios": ratios,
        "token_stride": token_stride,
        "inner_width": inner,
        "latent_channels": state["net.decoder_in.conv.weight"].shape[1],
        "kernel": kernel("net.encoder.0.conv"),
        "last_kernel": kernel(f"net.encoder.{last}.conv"),
        "residual_kernel": 3 if first is None else first.shape[2],
        "residual_units": units,
        "dilation": int(seanet.get("dilation_base", 2)),
        "narrow": 2 if first is None else max(1, width // first.shape[0]),
        "transformer": {
            "depth": depth,
            "heads": int(transformer.get("num_heads", max(1, inner // 64))),
            "mlp_hidden": state["net.encoder_transformer.backbone.blocks.0.mlp.up.weight"].shape[0],
            "window": int(transformer.get("context", 250)),
            "layer_scale": float(transformer.get("layer_scale", 0.01)),
        },
        "deviation": 0.0,
    }
