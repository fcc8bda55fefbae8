"""Published NBP tokenizers (`magvit2_ucf.pt`, `magvit2_k600.pt`): official key names -> ours. Key maps only.

The layers stand in the same order here; theirs count the (weightless) rearrangement behind an upsampling convolution as
a layer of its own. Theirs see pictures in [0, 1] where ours see [-1, 1], so the first and last layer are rescaled.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import read_weights
from . import plain_names, tensors

ROLE, KIND = "tokenizer", "video_vq"
LICENSE = "MIT (RenShuhuai-Andy/NBP)"

UNIT = {
    "fn.0.weight": "norm1.weight",
    "fn.0.bias": "norm1.bias",
    "fn.1.beta": "swish1.beta",
    "fn.2.conv.weight": "conv1.conv.weight",
    "fn.2.conv.bias": "conv1.conv.bias",
    "fn.3.weight": "norm2.weight",
    "fn.3.bias": "norm2.bias",
    "fn.4.beta": "swish2.beta",
    "fn.5.conv.weight": "conv2.conv.weight",
    "fn.5.conv.bias": "conv2.conv.bias",
    "residual_fn.0.conv.weight": "skip.conv.weight",
    "residual_fn.0.conv.bias": "skip.conv.bias",
}
"""Names inside a residual unit."""
_OTHERS = re.compile(r"(discr|vgg|multiscale_discrs)\b.*|zero|quantizers\..*")
_LEVELS = {6: (8, 8, 8, 5, 5, 5)}
_STRIDES = {4: (1, 2, 2), 8: (2, 2, 2)}
Layers = dict[int, dict[str, Tensor]]


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a published file -> (fields of VideoVQConfig, our state dict)."""
    data: Any = read_weights(path)
    weights = tensors(f"NBP tokenizer {path}", data.get("model_state_dict", data))
    return convert(plain_names(weights))


def convert(official: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official state dict -> (fields of VideoVQConfig, our state dict). ValueError names a key that isn't known."""
    weights = {key: value for key, value in official.items() if not _OTHERS.fullmatch(key)}
    try:
        encoder, decoder = _layers(weights, "encoder_layers"), _layers(weights, "decoder_layers")
        if len(weights) != sum(len(layer) for half in (encoder, decoder) for layer in half.values()):
            raise ValueError(f"unknown key {next(k for k in weights if '_layers.' not in k)!r}")
        fields = _fields(encoder, decoder)
        state = _named(encoder, "encoder", len(encoder) - 1) | _named(decoder, "decoder", None)
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise ValueError(f"NBP tokenizer: not in the official form: {error}") from None
    first, last = "encoder.0.conv", f"decoder.{len(decoder) - 1}.conv"
    # theirs(x) = ours(2 x - 1): exact at the borders too, which repeat the edge.
    state[f"{first}.bias"] = state[f"{first}.bias"] + state[f"{first}.weight"].sum((1, 2, 3, 4)) / 2
    state[f"{first}.weight"] = state[f"{first}.weight"] / 2
    state[f"{last}.bias"], state[f"{last}.weight"] = state[f"{last}.bias"] * 2 - 1, state[f"{last}.weight"] * 2
    return fields, state


def _layers(weights: Mapping[str, Tensor], half: str) -> Layers:
    """The weights of each layer that has any, by its official index, in order."""
    found: Layers = {}
    for key, value in weights.items():
        name, _, rest = key.partition(".")
        if name == half:
            index, _, leaf = rest.partition(".")
            if not index.isdecimal():
                raise ValueError(f"unknown key {key!r}")
            found.setdefault(int(index), {})[leaf] = value
    if not found:
        raise ValueError(f"no {half}")
    return dict(sorted(found.items()))


def _named(layers: Layers, half: str, pointwise: int | None) -> dict[str, Tensor]:
    """Our names; `pointwise` is the place of the encoder's last convolution, which is a bare one over there."""
    state = {}
    for place, (index, layer) in enumerate(layers.items()):
        followed = half == "decoder" and index + 1 not in layers and place + 1 < len(layers)  # by a rearrangement
        for leaf, value in layer.items():
            if place == pointwise:
                ours = f"conv.{leaf}"
            elif leaf in UNIT:
                ours = UNIT[leaf]
            elif leaf in ("conv.weight", "conv.bias"):
                ours = f"conv.{leaf}" if followed else leaf
            elif leaf in ("weight", "bias", "beta"):
                ours = leaf
            else:
                raise ValueError(f"unknown key {half}_layers.{index}.{leaf!r}")
            state[f"{half}.{place}.{ours}"] = value.flatten() if leaf.endswith("beta") else value
    return state


def _fields(encoder: Layers, decoder: Layers) -> dict[str, Any]:
    """The geometry: widths and counts from the encoder, strides from how the decoder's convolutions widen."""
    levels: list[list[int]] = [[]]  # output widths of the residual units of each level
    for layer in list(encoder.values())[1:-1]:
        if "conv.weight" in layer:
            levels.append([])
        elif "fn.2.conv.weight" in layer:
            levels[-1].append(layer["fn.2.conv.weight"].shape[0])
    widened = [w["conv.weight"] for w in decoder.values() if "conv.weight" in w][1:-1]
    strides = [_STRIDES[weight.shape[0] // weight.shape[1]] for weight in widened]
    pixels = encoder[0]["conv.weight"].shape[1]
    numbers = list(encoder.values())[-1]["weight"].shape[0]
    blocks = len(levels[0])
    time = 2 ** sum(stride[0] == 2 for stride in strides)
    side = 8 * math.prod(stride[1] for stride in strides)
    return {
        "image_channels": pixels,
        "clip_size": (1 + 4 * time, 2 * side, 2 * side),
        "channels": tuple(level[-1] for level in levels),
        "strides": tuple(reversed(strides)),
        "blocks": blocks,
        "middle": len(levels[-1]) - blocks,
        "levels": _LEVELS[numbers],
        "bound": "tan",
    }
