"""Published binary autoencoders (`binaryae_ema.th`): one list of blocks a half becomes diffusers' levels.

No shape tells the groups of the norms (32, a constant of the published code), or whether training drew the bits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import read_weights
from . import described, plain_names, tensors

ROLE, KIND = "tokenizer", "bae"
LICENSE = "not stated (huggingface.co/xuantonglll/ELM)"
GROUPS = 32
_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_out": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and weights of a published file (or of a reference file with `w.` keys and a config)."""
    where = f"bae checkpoint {source}"
    weights = tensors(where, read_weights(source))
    weights = {key.removeprefix("w."): weights[key] for key in weights if key.startswith("w.")} or weights
    weights = {key.removeprefix("ae."): value for key, value in plain_names(weights).items()}
    try:
        return convert(weights, described(source))
    except (KeyError, IndexError, StopIteration) as error:
        raise ValueError(f"{where}: {error!r}, accepted: a published binary autoencoder") from None
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{where}: not in the published form: {' '.join(str(error).split())[:200]}") from None


def convert(official: dict[str, Tensor], config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and weights from official names; the discriminator and the unused `logsigma` are left behind."""
    down, up = _Blocks(official, "encoder"), _Blocks(official, "generator")
    norm_first = up.kind(0) == "norm"
    state = {
        "quantizer.proj.weight": official["quantize.proj.0.weight"],
        "quantizer.proj.bias": official["quantize.proj.0.bias"],
        "quantizer.vectors.weight": official["quantize.embed.weight"],
    }
    if norm_first:
        state |= up.take("norm_first")
    state |= down.take("encoder.conv_in") | up.take("decoder.conv_in") | _mid(up, "decoder")
    channels, layers, attention = _levels(down, state)
    state |= _mid(down, "encoder") | down.take("encoder.conv_norm_out") | down.take("encoder.conv_out")
    for level in range(len(channels)):
        _level(up, f"decoder.up_blocks.{level}", "up", state)
    state |= up.take("decoder.conv_norm_out") | up.take("decoder.conv_out")
    size = int(config.get("img_size", 256))
    fields = {
        "image_channels": official["encoder.blocks.0.weight"].shape[1],
        "image_size": (size, size),
        "bits": official["quantize.proj.0.weight"].shape[0],
        "embed": official["quantize.embed.weight"].shape[1],
        "block_channels": channels,
        "block_layers": layers,
        "groups": GROUPS,
        "attention": attention,
        "norm_first": norm_first,
        "stochastic": not config.get("deterministic", False),
    }
    return fields, state


class _Blocks:
    """The blocks of one half in order, each taken once."""

    def __init__(self, official: dict[str, Tensor], half: str):
        prefix = f"{half}.blocks."
        self.blocks: dict[int, dict[str, Tensor]] = {}
        for key, tensor in official.items():
            if key.startswith(prefix):
                index, _, rest = key.removeprefix(prefix).partition(".")
                if not index.isdecimal():
                    raise ValueError(f"unknown key {key!r}")
                self.blocks.setdefault(int(index), {})[rest] = tensor
        self.at = 0

    def kind(self, ahead: int = 0) -> str:
        """resnet, attention, resample, norm or conv: what the next block is."""
        block = self.blocks[self.at + ahead]
        for kind, part in {"resnet": "conv1.weight", "attention": "q.weight", "resample": "conv.weight"}.items():
            if part in block:
                return kind
        return "norm" if block["weight"].dim() == 1 else "conv"

    def take(self, name: str) -> dict[str, Tensor]:
        """The next block's weights under our name."""
        kind, block = self.kind(), self.blocks[self.at]
        self.at += 1
        if kind == "resample":
            return {f"{name}.{key}": value for key, value in block.items()}
        if kind in ("norm", "conv"):
            return {f"{name}.{key}": value for key, value in block.items()}
        return dict(_inside(block, name, kind))


def _inside(block: dict[str, Tensor], name: str, kind: str) -> Iterator[tuple[str, Tensor]]:
    """A residual or attention block: 1 x 1 convolutions become matrices, a shortcut that adds nothing is dropped."""
    parts = _RESNET if kind == "resnet" else _ATTENTION
    for key, value in block.items():
        part, _, leaf = key.rpartition(".")
        if part == "conv_out" and value.shape[0] == block["norm1.weight"].shape[0]:
            continue
        yield f"{name}.{parts[part]}.{leaf}", value[:, :, 0, 0] if kind == "attention" and value.dim() == 4 else value


def _mid(blocks: _Blocks, half: str) -> dict[str, Tensor]:
    """Residual block, attention, residual block."""
    names = ("resnets.0", "attentions.0", "resnets.1")
    return {key: value for name in names for key, value in blocks.take(f"{half}.mid_block.{name}").items()}


def _levels(blocks: _Blocks, state: dict[str, Tensor]) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """The encoder's levels: channels, residual blocks a level, levels with attention. The last has no resampling, and
    ends where residual, attention, residual, norm are left over (the middle)."""
    channels, counts, attention = [], [], []
    total = len(blocks.blocks)
    while True:
        level = len(channels)
        count, attended, width = _level(blocks, f"encoder.down_blocks.{level}", "down", state, stop=total - 5)
        channels.append(width)
        counts.append(count)
        attention += [level] if attended else []
        if blocks.at >= total - 5:
            return tuple(channels), counts[0], tuple(attention)


def _level(
    blocks: _Blocks, name: str, side: str, state: dict[str, Tensor], stop: int | None = None
) -> tuple[int, bool, int]:
    """Residual blocks with attention after each, or without, and a resampling where there is one."""
    count, attentions, width = 0, 0, 0
    while stop is None or blocks.at < stop:
        kind = blocks.kind()
        if kind == "resnet":
            width = blocks.blocks[blocks.at]["conv1.weight"].shape[0]
            state |= blocks.take(f"{name}.resnets.{count}")
            count += 1
        elif kind == "attention":
            state |= blocks.take(f"{name}.attentions.{attentions}")
            attentions += 1
        elif kind == "resample":
            state |= blocks.take(f"{name}.{side}samplers.0")
            break
        else:
            break
    return count, attentions > 0, width
