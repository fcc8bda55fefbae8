"""What people hand in, as what models read: tokens and whole numbers. (Pictures and clips: see nextok_mm.media.)

Every mistake is one ValueError that says what was given and what is accepted, before any network runs.

Shapes: B pictures or clips, C channels, N tokens.
"""

import math
import operator
from typing import Any, cast

import torch
from torch import Tensor

from ..config import shown
from ..contracts import Known, OrderedTokenizer, Tokenizer, Tokens
from ..media.arrays import as_tensor


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


def tokens(given: Any, tokenizer: Tokenizer) -> Tokens:
    """Tokens that a tokenizer can decode, on its device, checked against its grid, channels and number of codes.

    given: `Tokens`; or latents [B, N, C], codes [B, N], or those of one picture, as a tensor, an array or a list, on
    the grid that the tokenizer was trained on (which may be spelled out: [B, H, W]). Ordered codes may be fewer.
    """
    grid = None if tokenizer.size is None else tuple(tokenizer.grid(tokenizer.size))
    if isinstance(given, Tokens):
        data, own, source = as_tensor("tokens", given.data), tuple(given.grid), given.source
    else:
        data, own, source = as_tensor("tokens", given), grid, ""
        if own is None:
            raise ValueError("tokens: got no grid, accepted: Tokens(data, grid) for this tokenizer")
        data = _batched(data, own, isinstance(tokenizer, OrderedTokenizer), tokenizer.num_codes is None)
    shape = tuple(data.shape)
    if not data.numel():
        raise ValueError(f"tokens: got shape {shape}, accepted: those of one picture or more")
    channels = getattr(tokenizer.config, "latent_channels", None) if tokenizer.num_codes is None else None
    count = math.prod(own)
    fits = data.dim() == (3 if tokenizer.num_codes is None else 2) and (grid is None or len(own) == len(grid))
    if fits and isinstance(tokenizer, OrderedTokenizer):
        fits = 1 <= shape[1] <= (count if grid is None else math.prod(grid))
    elif fits:
        fits = shape[1] == count and channels in (None, shape[-1])
    if tokenizer.num_codes is None:
        fits = fits and data.is_floating_point()
    else:
        fits = fits and not (data.is_floating_point() or data.is_complex() or data.dtype == torch.bool)
    if not fits:
        raise ValueError(f"tokens: got {data.dtype} {shape} on a grid of {own}, accepted: {_accepted(tokenizer, grid)}")
    if tokenizer.num_codes is None:
        if not bool(data.isfinite().all()):
            raise ValueError("tokens: got NaN or infinity, accepted: finite numbers")
        return Tokens(data.to(tokenizer.device), own, source)
    data = data.long()
    low, high = int(data.min()), int(data.max())
    if not 0 <= low <= high < tokenizer.num_codes:
        raise ValueError(f"tokens: got codes {low} to {high}, accepted: 0 to {tokenizer.num_codes - 1}")
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
    if tokenizer.num_codes is None:
        return f"latents [B, {count}, {getattr(tokenizer.config, 'latent_channels', 'C')}] in floating point{on}"
    up_to = "1 to " if isinstance(tokenizer, OrderedTokenizer) else ""
    return f"whole numbers from 0 to {tokenizer.num_codes - 1}, [B, {up_to}{count}]{on}"


def rows_of(known: Known | None, rows: range, n: int) -> Known | None:
    """The part of `known` that belongs to these rows, where it has one for each of the n."""
    if known is None:
        return None
    if not isinstance(cast(Any, known), Known):
        accepted = "nextok_mm.contracts.Known(data, mask), tokens and which of them are known"
        raise ValueError(f"known: got {type(known).__name__}, accepted: {accepted}")
    if known.data.shape[:1] not in ((1,), (n,)) or (known.mask.dim() == 2 and len(known.mask) != n):
        got = f"data {tuple(known.data.shape)} and mask {tuple(known.mask.shape)}"
        raise ValueError(f"known: got {got}, accepted: data of 1 or {n} rows, a mask of none or {n}")
    mask = known.bool_mask()
    data = known.data[rows.start : rows.stop] if len(known.data) == n else known.data
    each = mask.dim() == 2 and len(mask) == n
    return Known(data, mask[rows.start : rows.stop] if each else mask, known.source)


def device(name: str | None) -> torch.device:
    """A device by its name, or the best that is here; ValueError in one line for one that isn't."""
    if name is not None:
        try:
            torch.zeros(1, device=name).cpu()  # a name that torch knows may still be absent here
            return torch.device(name)
        except (RuntimeError, AssertionError):
            here = [kind for kind, there in _accelerators().items() if there]
            raise ValueError(f"device: got {name!r}, accepted here: {', '.join(['cpu', *here])}") from None
    return torch.device(next((kind for kind, there in _accelerators().items() if there), "cpu"))


def _accelerators() -> dict[str, bool]:
    """Which of those that are chosen by themselves are there, the first one first."""
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
