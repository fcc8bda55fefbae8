"""Finite scalar quantization: every number of a vector is rounded to one of a few levels, and the code counts them.

No codebook is learned, so none can collapse. Everything here runs in fp32: a rounding has no tolerance.
Shapes: [..., F] vectors of F = len(levels) numbers, [...] codes below product(levels).
Source: Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple (arXiv 2309.15505), section 3.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from . import check_codes


class FSQConfig(Config):
    """Finite scalar quantization; the number of codes is the product of the levels."""

    kind: Literal["fsq"] = Field(default="fsq", description="Name of this quantizer, which selects this config.")
    levels: tuple[int, ...] = Field(
        min_length=1, max_length=62, description="Number of values of each channel of a vector."
    )

    @property
    def width(self) -> int:
        """F, the numbers of a vector."""
        return len(self.levels)


class FSQ(nn.Module):
    """The quantizer: [..., F] -> quantized [..., F] in [-1, 1] and codes [...]; the first number counts fastest.

    bound: how an even number of levels is centred, atanh (exactly, as the paper's code does) or tan (as an earlier
    version of it, which NBP's tokenizers were trained with). ValueError for fewer than two levels, or more codes than
    int64 can count.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int], bound: Literal["atanh", "tan"] = "atanh"):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels: got {list(levels)}, accepted: one or more whole numbers from 2")
        if math.prod(levels) >= 1 << 63:
            raise ValueError(f"levels: got {list(levels)}, {math.prod(levels)} codes, accepted: fewer than 2 ** 63")
        self.size, self.shape = math.prod(levels), bound
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.int64), persistent=False)
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.int64), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Any numbers [..., F] -> (quantized, codes). The gradient passes through the rounding."""
        with torch.autocast(z.device.type, enabled=False):
            bounded = self.bound(z.float())
            # From a thousand levels on, the margin of `bound` reaches the next whole number: the outermost levels end.
            rounded = bounded.round().clamp(-(self.levels // 2), (self.levels - 1) // 2)
            codes = ((rounded.detach().long() + self.levels // 2) * self.basis).sum(-1)
            return (bounded + (rounded - bounded).detach()) / (self.levels // 2), codes

    def scaled(self, z: Tensor) -> Tensor:
        """The quantized numbers before their rounding."""
        with torch.autocast(z.device.type, enabled=False):
            return self.bound(z.float()) / (self.levels // 2)

    def bound(self, z: Tensor) -> Tensor:
        """Squash to the range that rounds to exactly L values; an even L needs it shifted by half a step."""
        margin, centre = (1e-3, torch.atanh) if self.shape == "atanh" else (-1e-3, torch.tan)
        half = (self.levels - 1) * (1 + margin) / 2
        offset = 0.5 * (self.levels % 2 == 0)
        return torch.tanh(z + centre(offset / half)) * half - offset

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [...] -> quantized [..., F]. ValueError for codes out of range."""
        check_codes(codes, self.size)
        steps = codes.long()[..., None] // self.basis % self.levels
        return (steps - self.levels // 2).float() / (self.levels // 2)


def usage(codes: Tensor, size: int) -> dict[str, Tensor]:
    """How much of a codebook a batch of codes uses: share of the codes seen, and perplexity (1 to size)."""
    codes = codes.flatten()
    counts = torch.zeros(size, device=codes.device).scatter_add_(0, codes, torch.ones_like(codes, dtype=torch.float32))
    shares = counts / counts.sum()
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    return {"code_usage": (counts > 0).float().mean(), "code_perplexity": entropy.exp()}
