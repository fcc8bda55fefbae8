"""Causal 3-D convolutions for clips: no frame sees a later one, so a clip of any length passes in constant memory.

Convolutions are padded in time at the front alone, norms are taken frame by frame, and a `Carry` hands the few frames
that each convolution still needs from one chunk to the next: chunks one after another equal the whole clip.

Shapes: B batch, D width, T frames, H W rows and columns.
Source: MAGVIT-v2 (arXiv 2310.05737), section 3.2, in the form of NBP's tokenizer (2502.07737, section 4.1).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stride = tuple[int, int, int]
"""Of time, rows and columns."""


class Carry:
    """What a pass over a long clip hands on from chunk to chunk: the last frames that each convolution still needs."""

    def __init__(self):
        self.frames: dict[nn.Module, Tensor] = {}
        self.begun = False


class CausalConv3d(nn.Module):
    """A convolution that sees no later frame; its borders, in space and before the first frame, repeat the edge."""

    def __init__(self, width: int, out: int, kernel: int = 3, stride: Stride = (1, 1, 1)):
        super().__init__()
        self.conv = nn.Conv3d(width, out, kernel, stride)
        self.history, self.border = kernel - 1, kernel // 2
        self.kept = kernel - stride[0]

    def forward(self, x_BDTHW: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T, H, W] -> [B, out, T', H', W']; with `carry` these are the frames behind those of the last call."""
        begun, border = carry is not None and carry.begun, self.border
        if begun and self.kept:
            x_BDTHW = torch.cat((carry.frames[self], x_BDTHW), dim=2)  # pyright: ignore[reportOptionalMemberAccess]
        if carry is not None and self.kept:
            source = x_BDTHW if x_BDTHW.shape[2] >= self.kept else self._pad(x_BDTHW, self.history, 0)
            carry.frames[self] = source[:, :, -self.kept :]
        return self.conv(self._pad(x_BDTHW, 0 if begun else self.history, border) if self.history else x_BDTHW)

    def _pad(self, x: Tensor, front: int, border: int) -> Tensor:
        return F.pad(x, (border, border, border, border, front, 0), mode="replicate")


class FrameNorm(nn.GroupNorm):
    """GroupNorm of each frame by itself, so that no frame knows of another."""

    def forward(self, x_BDTHW: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T, H, W] -> the same shape."""
        frames = x_BDTHW.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class Swish(nn.Module):
    """x * sigmoid(beta * x) with a learned beta for each channel."""

    def __init__(self, width: int):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(width))

    def forward(self, x_BDTHW: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T, H, W] -> the same shape."""
        return x_BDTHW * torch.sigmoid(self.beta[:, None, None, None] * x_BDTHW)


class ResidualUnit(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1 x 1 convolution on x where the width changes."""

    def __init__(self, width: int, out: int, groups: int):
        super().__init__()
        self.norm1, self.swish1, self.conv1 = FrameNorm(groups, width), Swish(width), CausalConv3d(width, out)
        self.norm2, self.swish2, self.conv2 = FrameNorm(groups, out), Swish(out), CausalConv3d(out, out)
        self.skip = CausalConv3d(width, out, kernel=1) if width != out else None

    def forward(self, x_BDTHW: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T, H, W] -> [B, out, T, H, W]."""
        y = self.conv1(self.swish1(self.norm1(x_BDTHW)), carry)
        y = self.conv2(self.swish2(self.norm2(y)), carry)
        return y + (x_BDTHW if self.skip is None else self.skip(x_BDTHW))


class Upsample(nn.Module):
    """Channels become frames, rows and columns; of the first frame only its last copy stays."""

    def __init__(self, width: int, stride: Stride, kernel: int):
        super().__init__()
        self.stride = stride
        self.conv = CausalConv3d(width, width * math.prod(stride), kernel)

    def forward(self, x_BDTHW: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, T, H, W] -> [B, D, T', H', W']."""
        return unfold(self.conv(x_BDTHW, carry), self.stride, first=carry is None or not carry.begun)


def unfold(x_BDTHW: Tensor, stride: Stride, first: bool) -> Tensor:
    """Depth to space: [B, s * D, T, H, W] -> [B, D, T * s1, H * s2, W * s3]; `first` drops the first frame's copies."""
    time, rows, columns = stride
    x = x_BDTHW.unflatten(1, (time, rows, columns, -1)).permute(0, 4, 5, 1, 6, 2, 7, 3)
    x = x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return x[:, :, time - 1 :] if first else x


class Stack(nn.ModuleList):
    """Layers one after another, all with the same carry."""

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """Through all of them."""
        for layer in self:
            x = layer(x, carry)
        return x


def residual_units(before: int, width: int, count: int, groups: int) -> list[nn.Module]:
    """`count` residual units in a row, from `before` channels to `width`."""
    return [ResidualUnit(before if unit == 0 else width, width, groups) for unit in range(count)]
