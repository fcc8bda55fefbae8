"""Arrays and tensors of pictures and clips as people have them, as [B, C, (T,) H, W] in [0, 1].

Shapes: B samples, C channels, T frames, H W rows and columns.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-3  # outside [0, 1]: what resizing and short floats leave over


def from_array(given: Any, channels: int, rank: int) -> Tensor:
    """A tensor or an array as floats [B, C, ...] of this rank, C = channels.

    Tensors may lack the batch; arrays may have their channels last, as most do; bytes (uint8) become floats. Grey
    becomes colour where that is wanted, colour never becomes grey unasked. ValueError in one line for anything else.
    """
    if not isinstance(given, Tensor) and not hasattr(given, "__array__"):
        raise ValueError(
            f"images: got {type(given).__name__}, accepted: a tensor, an array, a Pillow picture, a file's name, "
            "or a list of those"
        )
    x = _channels_first(as_tensor("images", given), channels, rank, last=not isinstance(given, Tensor))
    x = _unit(x)
    return x.float() if x.dtype == torch.float64 else x


def _channels_first(x: Tensor, channels: int, rank: int, last: bool) -> Tensor:
    """A tensor as [B, C, (T,) H, W]. last: whether channels at the end are the likelier reading."""
    shape, sides = tuple(x.shape), "T, H, W" if rank == 5 else "H, W"
    axis = None
    if x.dim() == 2 and rank == 4:
        x, axis = x[None], 0
    elif x.dim() in (rank - 1, rank):
        ends = [x.dim() - rank + 1, x.dim() - 1]
        ends = ends[::-1] if last else ends
        axis = next((a for wanted in ((channels,), (1, 3)) for a in ends if x.shape[a] in wanted), None)
    if axis is None or not x.numel():
        raise ValueError(
            f"images: got {x.dtype} of shape {shape}, accepted: one or more as [B, {channels}, {sides}] or "
            f"[B, {sides}, {channels}], in floating point of numbers in [0, 1], or as bytes"
        )
    x = x.movedim(axis, x.dim() - rank + 1)
    x = x if x.dim() == rank else x[None]
    if x.shape[1] == 1 < channels:
        x = x.expand(-1, channels, *[-1] * (rank - 2))  # grey is a colour
    elif x.shape[1] != channels:
        raise ValueError(
            f"images: got {x.shape[1]} channels (shape {shape}), accepted: {channels}; images.mean(1, keepdim=True) "
            "makes them grey, and files and Pillow pictures are brought to it"
        )
    return x


def _unit(x: Tensor) -> Tensor:
    """Floats in [0, 1]: bytes are divided by 255; ValueError for numbers of another range, with what would help."""
    if x.dtype == torch.uint8:
        return x.float() / 255
    if not x.is_floating_point():
        raise ValueError(f"images: got {x.dtype}, accepted: floating point of numbers in [0, 1], or bytes (uint8)")
    if not bool(x.isfinite().all()):
        raise ValueError("images: got NaN or infinity, accepted: numbers in [0, 1]")
    low, high = float(x.min()), float(x.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        help_ = ""
        if low >= 0 and 2 < high <= 255:
            help_ = "; divide them by 255"
        elif -1 - TOLERANCE <= low < -0.5 and high <= 1 + TOLERANCE:
            help_ = "; (images + 1) / 2 brings [-1, 1] there"
        elif low >= -0.5 and high <= 1.5:
            help_ = "; images.clip(0, 1) cuts them"
        raise ValueError(f"images: got numbers from {low:.4g} to {high:.4g}, accepted: numbers in [0, 1]{help_}")
    return x


def as_tensor(what: str, given: Any) -> Tensor:
    """A tensor, an array or a list of numbers as a tensor."""
    if isinstance(given, Tensor) and (given.layout != torch.strided or given.is_meta):
        raise ValueError(f"{what}: got a {given.layout} tensor on {given.device}, accepted: a plain one with numbers")
    try:
        return given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.array(given, order="C"))
    except (TypeError, ValueError, RuntimeError):
        kind = getattr(given, "dtype", type(given).__name__)
        raise ValueError(f"{what}: got {kind}, accepted: a tensor, an array or a list of numbers") from None
