"""Causal convolutions of sounds: no output sees a later sample, and chunks one after another equal the whole.

A `Carry` hands on what each layer still needs, its last inputs. So a stream of any length passes in constant memory.

Shapes: B batch, D width, T samples or frames.
Sources: SEANet (arXiv 2009.02095) in the causal form of SoundStream (2107.03312), section III, and Mimi (2410.00037).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextok_mm.sequence.cache import KVCache


@dataclass
class Carry:
    """What a pass over a long sound hands on from chunk to chunk, by layer."""

    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    caches: dict[nn.Module, KVCache] = field(default_factory=dict)
    held: Tensor | None = None
    """What a decoder has made and can't give yet."""


class CausalConv1d(nn.Module):
    """A convolution whose last input is that of its output; before the first there are zeros, or the first repeated."""

    def __init__(
        self,
        width: int,
        out: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        before: Literal["zeros", "first"] = "zeros",
    ):
        super().__init__()
        self.conv = nn.Conv1d(width, out, kernel, stride, dilation=dilation, groups=groups, bias=bias)
        self.reach, self.before = (kernel - 1) * dilation + 1 - stride, before

    def forward(self, x_BDT: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T] -> [B, out, T / stride]; with `carry` T is what follows the last call's."""
        if self.reach > 0:
            past = None if carry is None else carry.inputs.get(self)
            if past is None:
                repeated = x_BDT[:, :, :1] if self.before == "first" else x_BDT.new_zeros(1, 1, 1)
                past = repeated.expand(len(x_BDT), x_BDT.shape[1], self.reach)
            x_BDT = torch.cat((past, x_BDT), dim=2)
            if carry is not None:
                carry.inputs[self] = x_BDT[:, :, x_BDT.shape[2] - self.reach :]
        return self.conv(x_BDT)


class CausalTranspose1d(nn.Module):
    """A transposed convolution of kernel 2 * stride, whose every output is made of one input and the one before.

    So it is a convolution of two inputs to `stride` outputs at once: nothing is left over for the next chunk, and what
    is carried is the last input.
    """

    def __init__(self, width: int, out: int, stride: int, groups: int = 1, bias: bool = True):
        super().__init__()
        self.pair = CausalConv1d(width, out * stride, 2, groups=groups, bias=False)
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        self.stride = stride

    def forward(self, x_BDT: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T] -> [B, out, T * stride]."""
        y = self.pair(x_BDT, carry).unflatten(1, (-1, self.stride)).transpose(2, 3).flatten(2)
        return y if self.bias is None else y + self.bias[:, None]


class Residual(nn.Module):
    """x + two convolutions behind ELUs, the first dilated and the second of one sample, over a narrower width."""

    def __init__(self, width: int, narrow: int, kernel: int, dilation: int):
        super().__init__()
        self.spread = CausalConv1d(width, narrow, kernel, dilation=dilation)
        self.mix = CausalConv1d(narrow, width, 1)

    def forward(self, x_BDT: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T] -> the same shape."""
        return x_BDT + self.mix(F.elu(self.spread(F.elu(x_BDT), carry), inplace=True), carry)


class Elu(nn.Module):
    """The activation, with a place for a carry."""

    def forward(self, x_BDT: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T] -> the same shape."""
        return F.elu(x_BDT, inplace=True)


class Stack(nn.ModuleList):
    """Layers one after another, all of which take the carry."""

    def forward(self, x_BDT: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T] -> [B, out, T']."""
        for layer in self:
            x_BDT = layer(x_BDT, carry)
        return x_BDT
