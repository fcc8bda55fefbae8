"""Tokens of a batch, and those of them that a generation is given."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch of pictures or clips, in raster order over their grid.

    Attributes:
        data: Latents [B, N, C] (floating point) or codes [B, N] (whole numbers).
        grid: Sides of the grid, whose product is N: (H, W), (T, H, W) or (N,).
        source: Fingerprint of the tokenizer that made them; empty where unknown.
    """

    data: Tensor
    grid: tuple[int, ...]
    source: str = ""

    @property
    def continuous(self) -> bool:
        """Whether the tokens are latents rather than codes."""
        return self.data.is_floating_point()


@dataclass(frozen=True)
class Known:
    """Known tokens, which a generation keeps as they are: in-painting, continuation, video prediction.

    Arrays and lists become tensors.

    Attributes:
        data: The known tokens, in the form of `Tokens.data` for n samples or for 1 that all share; or `Tokens`.
        mask: Which tokens are known: True (or 1) in a mask [N] or [n, N].
        source: Fingerprint of the tokenizer that made them, as of `Tokens`; "" where unknown.

    Raises:
        ValueError: One of them is no tensor, and can't become one.

    Example:
        >>> import torch
        >>> import nextok_mm as nx
        >>> from nextok_mm.contracts import Known
        >>> upper = torch.arange(16) < 8  # the upper half
        >>> known = Known(nx.tokenize("xar-fashion", torch.zeros(1, 1, 32, 32)), upper)
        >>> nx.generate("xar-fashion", labels=7, known=known, steps=2).images.shape
        torch.Size([1, 1, 32, 32])
    """

    data: Tensor
    mask: Tensor
    source: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.data, Tokens):
            object.__setattr__(self, "source", self.data.source)
        object.__setattr__(
            self, "data", _tensor("data", self.data.data if isinstance(self.data, Tokens) else self.data)
        )
        object.__setattr__(self, "mask", _tensor("mask", self.mask))

    def bool_mask(self) -> Tensor:
        """Read the mask.

        Returns:
            The mask as bool.

        Raises:
            ValueError: The mask holds anything but true and false, 1 and 0.
        """
        mask = self.mask
        if mask.is_floating_point() or mask.is_complex() or not torch.equal(mask.bool().to(mask.dtype), mask):
            raise ValueError(f"known: got a mask of {mask.dtype}, accepted: bool, True where a token is known")
        return mask.bool()

    def expanded(
        self, what: Literal["codes", "latents"], rows: int, *shape: int, num_codes: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Expand data and mask to every row, once they have been checked.

        Args:
            what: The tokens that the model has: `codes` (whole numbers of any dtype) or `latents` (floating point).
            rows: Number of samples.
            shape: Shape of the tokens of one sample, (N,) or (N, C).
            num_codes: Number of different codes; known ones have to be below it, and the others come as 0. None checks
                nothing.

        Returns:
            Data [rows, *shape], in int64 for codes and fp32 for latents, zeros where they are not known; and mask
            [rows, N].

        Raises:
            ValueError: Data or mask do not fit.
        """
        data, mask = self.data, self.bool_mask()
        mask = mask.expand(rows, -1) if mask.dim() == 1 else mask
        fits = mask.shape == (rows, shape[0]) and data.shape in ((1, *shape), (rows, *shape))
        numbers = "latents" if data.is_floating_point() else "codes"
        if not fits or numbers != what or data.is_complex() or data.dtype == torch.bool:
            sides = ", ".join(map(str, shape))
            raise ValueError(
                f"known: got data {tuple(data.shape)} of {data.dtype} and mask {tuple(self.mask.shape)}, accepted: "
                f"{what} [{rows} or 1, {sides}] and mask [{shape[0]}] or [{rows}, {shape[0]}]"
            )
        data = (data.long() if what == "codes" else data.float()).expand(rows, *shape)
        if what == "latents":
            data = torch.where(mask[..., None].to(data.device), data, 0)
            if not bool(data.isfinite().all()):
                raise ValueError("known: got NaN or infinity, accepted: finite numbers where a token is known")
        if num_codes is not None and data.numel():
            data = torch.where(mask, data, 0)
            if not 0 <= int(data.min()) <= int(data.max()) < num_codes:
                raise ValueError(
                    f"known: got codes {int(data.min())} to {int(data.max())}, accepted: 0 to {num_codes - 1}"
                )
        return data, mask


def _tensor(what: str, given: Any) -> Tensor:
    """What `Known` was given, as a tensor."""
    try:
        return given if isinstance(given, Tensor) else torch.as_tensor(np.array(given))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        got = type(given).__name__
        raise ValueError(f"known: got {got} as its {what}, accepted: a tensor, an array or a list of numbers") from None
