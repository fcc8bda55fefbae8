"""The two halves of a convolutional autoencoder of pictures: residual blocks in levels, attention where it is wanted.

Modules have the names of diffusers' `AutoencoderKL`, so that its checkpoints load without a key map, and stand in its
order, which is the order of an optimizer's state. Tests hold the numbers against diffusers; importing that library
would take longer than drawing a picture.

Shapes: B batch, D width, H W rows and columns, N = H * W places.
Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752), after Esser et
al., Taming Transformers (arXiv 2012.09841), appendix A.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EPS = 1e-6
"""Of every norm."""


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1 x 1 convolution on x where the width changes."""

    def __init__(self, width: int, out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=EPS)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=EPS)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width, out, 1) if width != out else None

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, out, H, W]."""
        y = self.conv1(F.silu(self.norm1(x_BDHW)))
        y = self.conv2(F.silu(self.norm2(y)))
        if self.conv_shortcut is None:
            return x_BDHW + y
        # Contiguous, so that DDP finds its gradient laid out as the weight is.
        return self.conv_shortcut(x_BDHW.contiguous() if self.training else x_BDHW) + y


class Attention(nn.Module):
    """x + attention(norm(x)) among all places, with a single head."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """[B, D, H, W] -> the same shape."""
        y_BND = self.group_norm(x_BDHW.flatten(2)).transpose(1, 2)
        q, k, v = (project(y_BND)[:, None] for project in (self.to_q, self.to_k, self.to_v))
        y_BND = self.to_out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return y_BND.transpose(1, 2).reshape(x_BDHW.shape) + x_BDHW


class Downsample(nn.Module):
    """Half the rows and columns. Zeros are added at the end alone: an output stands for pixels 0 to 2, not -1 to 1."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, D, H / 2, W / 2]."""
        return self.conv(F.pad(x_BDHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the rows and columns: every value four times, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, D, 2 * H, 2 * W]."""
        if len(x_BDHW) >= 64 or 4 * x_BDHW.numel() > 2**31:
            x_BDHW = x_BDHW.contiguous()  # torch's kernel for channels-last pictures fails where they are many
        return self.conv(F.interpolate(x_BDHW, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks, attention after each of the first `attentions` of them, and a change of resolution."""

    def __init__(
        self,
        width: int,
        out: int,
        blocks: int,
        groups: int,
        attentions: int,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        resnets, attended = [], []
        for block in range(blocks):
            resnets.append(ResidualBlock(out if block else width, out, groups))
            if block < attentions:
                attended.append(Attention(out, groups))
        self.attentions, self.resnets = nn.ModuleList(attended), nn.ModuleList(resnets)
        if resample == "down":
            self.downsamplers = nn.ModuleList([Downsample(out)])
        elif resample == "up":
            self.upsamplers = nn.ModuleList([Upsample(out)])
        self.resample = None if resample is None else f"{resample}samplers"

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, out, H', W']."""
        for block, resnet in enumerate(self.resnets):
            x_BDHW = resnet(x_BDHW)
            if block < len(self.attentions):
                x_BDHW = self.attentions[block](x_BDHW)
        return x_BDHW if self.resample is None else getattr(self, self.resample)[0](x_BDHW)


class _Half(nn.Module):
    """What the encoder and the decoder have in common: their ends, whatever precision comes in, and saving memory."""

    conv_in: nn.Conv2d
    conv_out: nn.Conv2d
    conv_norm_out: nn.GroupNorm
    conv_act: nn.Module
    checkpointing = False

    def _pass(self, x_BDHW: Tensor, levels: Sequence[nn.Module]) -> Tensor:
        x_BDHW = self.conv_in(x_BDHW.to(self.conv_in.weight.dtype))
        for level in levels:
            if self.checkpointing and torch.is_grad_enabled():
                x_BDHW = checkpoint(level, x_BDHW, use_reentrant=False)  # pyright: ignore[reportAssignmentType]
            else:
                x_BDHW = level(x_BDHW)
        return self.conv_out(self.conv_act(self.conv_norm_out(x_BDHW)))


class Encoder(_Half):
    """Pictures [B, channels, H, W] -> [B, out, h, w], where h = H / 2 ** (levels - 1).

    widths: of the levels, finest first; blocks: residual blocks of a level; attention: levels (0: finest) that have it
    after every residual block; middle_attention: the coarsest level is followed by attention between two more blocks.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        attention: Collection[int] = (),
        middle_attention: bool = True,
    ):
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(before, width, blocks, groups, blocks * (i in attention), None if i == last else "down")
            for i, (before, width) in enumerate(zip((widths[0], *widths), widths))
        )
        self.mid_block = Level(widths[-1], widths[-1], 2, groups, int(middle_attention))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """See the class."""
        return self._pass(x_BDHW, (*self.down_blocks, self.mid_block))


class Decoder(_Half):
    """[B, channels, h, w] -> pictures [B, out, H, W]: the way back.

    The fields are the encoder's: `widths` and `attention` begin at the finest level here too.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        attention: Collection[int] = (),
        middle_attention: bool = True,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.up_blocks = nn.ModuleList()  # before the middle, as diffusers has them: the order of an optimizer's state
        self.mid_block = Level(widths[-1], widths[-1], 2, groups, int(middle_attention))
        for i, (before, width) in reversed(list(enumerate(zip((*widths[1:], widths[-1]), widths)))):
            self.up_blocks.append(Level(before, width, blocks, groups, blocks * (i in attention), "up" if i else None))
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=EPS)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[0], out, 3, padding=1)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """See the class."""
        return self._pass(x_BDHW, (self.mid_block, *self.up_blocks))
