"""What people hand in, as what models read: pictures and clips in every usual form, tokens, whole numbers.

Every mistake is one ValueError that says what was given and what is accepted, before any network runs.

Shapes: B pictures or clips, C channels, T frames, H W rows and columns, N tokens.
"""

import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..config import shown
from ..contracts import ClipTokenizer, OrderedTokenizer, Tokenizer, Tokens
from ..media import clips as video
from ..media import pictures as media
from ..media.pictures import Fit

Images = Tensor | np.ndarray | Image.Image | str | Path | Sequence[Any]
"""A tensor, an array, a Pillow picture, a file's name, or a list of those."""
TOLERANCE = 1e-3  # outside [0, 1]: what resizing and short floats leave over


def whole(name: str, value: Any, least: int | None = None, most: int | None = None, accepted: str = "") -> int:
    """A whole number of Python, numpy or torch as an `int`, from `least` to `most`; ValueError in one line for anything
    else, a bool too. accepted: what the message says, else "a whole number (from `least` to `most`)"."""
    try:
        number = (
            None if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")) else operator.index(value)
        )
    except TypeError:
        number = None
    low = least if least is not None else number
    high = most if most is not None else number
    if number is None or low is None or high is None or not low <= number <= high:
        bounds = ("" if least is None else f" from {least}") + ("" if most is None else f" to {most}")
        raise ValueError(f"{name}: got {shown(value)}, accepted: {accepted or 'a whole number' + bounds}")
    return number


def sides(columns: int | None, zoom: int | None) -> tuple[int | None, int | None]:
    """How a grid is laid out, as whole numbers from 1; None is left to the grid."""
    given = (("columns", columns), ("zoom", zoom))
    first, second = (None if value is None else whole(name, value, 1) for name, value in given)
    return first, second


def images(given: Any, tokenizer: Tokenizer, fit: Fit = "exact") -> Tensor:
    """Pictures [B, C, H, W], or clips [B, C, T, H, W] for a tokenizer of clips, as floats in [0, 1], C the tokenizer's.

    given: tensors [B, C, H, W] or [C, H, W]; arrays, which may have their channels last, as most do; bytes (uint8) or
    floats in [0, 1]; a Pillow picture or a file's name, which are brought to the tokenizer's size and channels (fit: as
    of media.read_image); or a list of those. Grey becomes colour where that is wanted, colour never becomes grey
    unasked. ValueError in one line for anything else.
    """
    parts = list(given) if isinstance(given, list | tuple) else [given]
    if not parts:
        raise ValueError("images: got none in the list, accepted: at least one")
    found = [_images(part, tokenizer, fit) for part in parts]
    if len(sizes := sorted({tuple(part.shape[2:]) for part in found})) > 1:
        got = " and ".join(" x ".join(map(str, size)) for size in sizes[:2])
        raise ValueError(f"images: got {got} pixels in one list, accepted: all of one size")
    return torch.cat(found)


def read(path: str | Path, tokenizer: Tokenizer, fit: Fit = "exact") -> Tensor:
    """A picture file in the tokenizer's channels and size, [1, C, H, W], or the first frames of a video file."""
    config: Any = tokenizer.config
    if isinstance(tokenizer, ClipTokenizer):
        return video.read_clip(path, config.image_channels, tokenizer.size, fit)
    return media.read_image(path, config.image_channels, tuple(config.image_size), fit)


def tokens(given: Any, tokenizer: Tokenizer) -> Tokens:
    """Tokens that a tokenizer can decode, on its device, checked against its grid, channels and number of codes.

    given: `Tokens`; or latents [B, N, C], codes [B, N], or those of one picture, as a tensor, an array or a list, on
    the grid that the tokenizer was trained on (which may be spelled out: [B, H, W]). Ordered codes may be fewer.
    """
    grid = None if tokenizer.size is None else tuple(tokenizer.grid(tokenizer.size))
    if isinstance(given, Tokens):
        data, own, source = given.data, tuple(given.grid), given.source
    else:
        data, own, source = _tensor("tokens", given), grid, ""
        if own is None:
            raise ValueError("tokens: got no grid, accepted: Tokens(data, grid) for this tokenizer")
        data = _batched(data, own, isinstance(tokenizer, OrderedTokenizer), tokenizer.codes is None)
    shape = tuple(data.shape)
    if not data.numel():
        raise ValueError(f"tokens: got shape {shape}, accepted: those of one picture or more")
    channels = getattr(tokenizer.config, "latent_channels", None) if tokenizer.codes is None else None
    count = math.prod(own)
    fits = data.dim() == (3 if tokenizer.codes is None else 2) and (grid is None or len(own) == len(grid))
    if fits and isinstance(tokenizer, OrderedTokenizer):
        fits = 1 <= shape[1] <= (count if grid is None else math.prod(grid))
    elif fits:
        fits = shape[1] == count and channels in (None, shape[-1])
    if tokenizer.codes is None:
        fits = fits and data.is_floating_point()
    else:
        fits = fits and not (data.is_floating_point() or data.is_complex() or data.dtype == torch.bool)
    if not fits:
        raise ValueError(f"tokens: got {data.dtype} {shape} on a grid of {own}, accepted: {_accepted(tokenizer, grid)}")
    if tokenizer.codes is None:
        if not bool(data.isfinite().all()):
            raise ValueError("tokens: got NaN or infinity, accepted: finite numbers")
        return Tokens(data.to(tokenizer.device), own, source)
    data = data.long()
    low, high = int(data.min()), int(data.max())
    if not 0 <= low <= high < tokenizer.codes:
        raise ValueError(f"tokens: got codes {low} to {high}, accepted: 0 to {tokenizer.codes - 1}")
    return Tokens(data.to(tokenizer.device), own, source)


def check_pictures(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """The tokenizer, if it is one of pictures; ValueError for one whose "pictures" are the latents of a missing VAE."""
    channels = getattr(tokenizer.config, "image_channels", None)
    if channels not in (None, 1, 3):
        raise ValueError(
            f"tokenizer: {name} works on latents of {channels} channels, not on pictures, since it holds no VAE; "
            "accepted: the same converted with its VAE (nextok convert ... --tokenizer VAE)"
        )
    return tokenizer


def _images(given: Any, tokenizer: Tokenizer, fit: Fit) -> Tensor:
    """One of `images`: a file, a Pillow picture, a tensor or an array."""
    moving, config = isinstance(tokenizer, ClipTokenizer), _config(tokenizer)
    if isinstance(given, str | Path):
        return read(given, tokenizer, fit)
    if isinstance(given, Image.Image):
        if 0 in given.size:
            raise ValueError(f"picture: got {given.width} x {given.height} pixels, accepted: one pixel or more")
        if moving:
            raise ValueError("images: got a picture, accepted: clips, as an array [frames, height, width, channels]")
        try:
            picture = ImageOps.exif_transpose(given)
            return media.to_tensor(picture, config.image_channels, tuple(config.image_size), fit)
        except (OSError, SyntaxError) as error:  # a file that Pillow opened, but reads only now
            raise ValueError(f"picture: damaged ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(given, Tensor) and not hasattr(given, "__array__"):
        raise ValueError(
            f"images: got {type(given).__name__}, accepted: a tensor, an array, a Pillow picture, a file's name, "
            "or a list of those"
        )
    x = _tensor("images", given)
    x = _channels_first(x, config.image_channels, 5 if moving else 4, last=not isinstance(given, Tensor))
    x = _unit(x)
    return x if x.dtype == next(tokenizer.parameters()).dtype else x.float()


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


def _batched(data: Tensor, grid: tuple[int, ...], ordered: bool, latents: bool) -> Tensor:
    """Tokens [B, N] or [B, N, C], whose grid may be spelled out, and which may lack the batch."""
    tail = 1 if latents else 0
    places = tuple(data.shape)[: data.dim() - tail]
    if len(grid) > 1 and places[-len(grid) :] == grid:
        data = data.flatten(len(places) - len(grid), len(places) - 1)
        places = (*places[: -len(grid)], math.prod(grid))
    one = len(places) == 1 and (ordered or places[0] == math.prod(grid))
    return data[None] if one else data


def _accepted(tokenizer: Tokenizer, grid: tuple[int, ...] | None) -> str:
    """What tokens of a tokenizer look like, in words."""
    count = "N" if grid is None else f"{math.prod(grid)}"
    on = "" if grid is None or len(grid) == 1 else f", or Tokens with a grid of {len(grid)} sides and as many places"
    if tokenizer.codes is None:
        return f"latents [B, {count}, {getattr(tokenizer.config, 'latent_channels', 'C')}] in floating point{on}"
    up_to = "1 to " if isinstance(tokenizer, OrderedTokenizer) else ""
    return f"whole numbers from 0 to {tokenizer.codes - 1}, [B, {up_to}{count}]{on}"


def _tensor(what: str, given: Any) -> Tensor:
    """A tensor, an array or a list of numbers as a tensor."""
    if isinstance(given, Tensor) and (given.layout != torch.strided or given.is_meta):
        raise ValueError(f"{what}: got a {given.layout} tensor on {given.device}, accepted: a plain one with numbers")
    try:
        return given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.array(given, order="C"))
    except (TypeError, ValueError, RuntimeError):
        kind = getattr(given, "dtype", type(given).__name__)
        raise ValueError(f"{what}: got {kind}, accepted: a tensor, an array or a list of numbers") from None


def _config(tokenizer: Tokenizer) -> Any:
    return tokenizer.config
