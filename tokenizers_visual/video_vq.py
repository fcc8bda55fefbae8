"""Video VQ: clips to codes and back by a causal 3-D convolutional autoencoder with finite scalar quantization.

No frame sees a later one: convolutions are padded in time at the front alone, norms are taken frame by frame. The first
frame is encoded by itself, later ones in groups (of four at the published size), so a still picture is a clip of one
frame, and a clip of any length passes in constant memory: `encode_more` and `decode_more` carry the few frames that
each convolution still needs from one chunk to the next, and equal the whole pass.

Shapes: B batch, P picture channels, T frames, H W rows and columns; t h w the same of the code grid, N = t * h * w
codes, F numbers of a code, D width.
Source: the tokenizer of NBP (arXiv 2502.07737, section 4.1), after MAGVIT-v2 (2310.05737); FSQ from 2309.15505.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import Channels, ModelConfig
from nextok_mm.contracts import Batch, ClipTokenizer, Loss, Tokens
from nextok_mm.quantizers.fsq import FSQ, usage
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from ._causal3d import Carry, CausalConv3d, FrameNorm, Stack, Stride, Swish, Upsample, residual_units, unfold
from ._losses import Adversarial, Perceptual, PictureLoss, patch_discriminator


class VideoVQConfig(ModelConfig):
    """A video tokenizer. `size` names a preset; `published` is NBP's geometry (17 x 128 x 128 -> 5 x 16 x 16)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            image_channels=1,
            clip_size=(5, 8, 8),
            channels=(8, 16),
            strides=((2, 2, 2),),
            blocks=1,
            middle=0,
            groups=4,
            levels=(5, 5, 4),
        ),
        "moving": dict(
            image_channels=1,
            clip_size=(17, 64, 64),
            patch=8,
            channels=(48, 64, 96),
            strides=((2, 1, 1), (2, 1, 1)),
            up_kernel=1,
            blocks=1,
            middle=0,
            groups=8,
            levels=(8, 8, 8, 5),
            pixel="l2",
        ),
        "published": dict(bound="tan"),
    }
    image_channels: int = Field(
        3, gt=0, le=1 << 10, description="Number of channels of a frame: 1 is grey, 3 is color."
    )
    clip_size: tuple[int, int, int] = Field(
        default=(17, 128, 128),
        description="Frames, rows and columns of the training clips; other sizes can be encoded too.",
    )
    patch: int = Field(
        1,
        ge=1,
        le=1 << 10,
        description="Side in pixels of the patches that are folded into channels before anything else.",
    )
    channels: tuple[Channels, ...] = Field(
        (128, 256, 256, 512),
        min_length=1,
        max_length=16,
        description="Width of each level, from the finest to the coarsest.",
    )
    strides: tuple[Stride, ...] = Field(
        ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        max_length=16,
        description="Strides in time, rows and columns between one level and the next coarser one.",
    )
    blocks: int = Field(4, ge=1, le=64, description="Number of residual units per level.")
    middle: int = Field(4, ge=0, le=64, description="Number of further residual units at the coarsest level.")
    up_kernel: Literal[1, 3] = Field(
        default=3, description="Kernel size of the convolutions that make room for a finer level."
    )
    groups: int = Field(
        32,
        ge=1,
        description="Number of groups of every group normalization; it has to divide the widths of all levels.",
    )
    levels: tuple[int, ...] = Field(
        (8, 8, 8, 5, 5, 5),
        min_length=1,
        max_length=62,
        description="Levels of finite scalar quantization (FSQ), one number per channel of a code.",
    )
    bound: Literal["atanh", "tan"] = Field(
        default="atanh",
        description="How FSQ centers an even number of levels: atanh is exact, tan is an earlier form, which NBP "
        "was trained with.",
    )
    pixel: Literal["l1", "l2"] = Field(
        default="l1",
        description="Measure of the reconstruction error: l1 (absolute) or l2 (squared), of pixels in [0, 1].",
    )
    perceptual: Perceptual | None = Field(
        default=None, description="The perceptual loss that is added to the pixel error; null adds none."
    )
    adversarial: Adversarial | None = Field(
        default=None,
        description="The adversarial loss that is added to the pixel error; null trains without a discriminator.",
    )

    @property
    def stride(self) -> Stride:
        """Frames, rows and columns of a code: after the first frame, which has codes of its own."""
        time, rows, columns = (math.prod(sides) for sides in zip((1, self.patch, self.patch), *self.strides))
        return time, rows, columns

    @model_validator(mode="after")
    def _consistent(self) -> "VideoVQConfig":
        if any(width % self.groups for width in self.channels):
            raise ValueError(f"channels {self.channels}: multiples of groups {self.groups} are accepted")
        if len(self.strides) != len(self.channels) - 1 or any(side not in (1, 2) for s in self.strides for side in s):
            raise ValueError(f"strides: one (time, rows, columns) of 1 or 2 between two channels, got {self.strides}")
        if any(rows != columns for _, rows, columns in self.strides):
            raise ValueError(f"strides: rows and columns alike are accepted, got {self.strides}")
        code_grid(self.clip_size, self.stride, "clip_size")
        return self


def code_grid(size: Sequence[int], stride: Stride, what: str = "clip size") -> tuple[int, int, int]:
    """The code grid of a clip of `size` (frames, rows, columns); ValueError where the stride doesn't fit it."""
    time, rows, columns = stride
    fits = len(size) == 3 and min(size) >= 1 and (size[0] - 1) % time == 0
    if not fits or size[1] % rows or size[2] % columns:
        raise ValueError(
            f"{what}: got {tuple(size)}, accepted: (frames, rows, columns) with 1 + a multiple of {time} frames, "
            f"multiples of {rows} rows and {columns} columns"
        )
    return 1 + (size[0] - 1) // time, size[1] // rows, size[2] // columns


@register("tokenizer", "video_vq")
class VideoVQ(ClipTokenizer[VideoVQConfig]):
    """The model; see the module's text."""

    Config = VideoVQConfig

    def __init__(self, config: VideoVQConfig):
        super().__init__()
        self.config = config
        widths, groups, pixels = config.channels, config.groups, config.image_channels * config.patch**2
        encoder: list[nn.Module] = [CausalConv3d(pixels, widths[0])]
        for level, (before, width) in enumerate(zip((widths[0], *widths), widths)):
            if level:
                encoder += [CausalConv3d(before, before, stride=config.strides[level - 1])]
            encoder += residual_units(before, width, config.blocks, groups)
        last = widths[-1]
        encoder += [*residual_units(last, last, config.middle, groups), FrameNorm(groups, last), Swish(last)]
        to_codes = CausalConv3d(last, len(config.levels), kernel=1)
        # Codes begin spread over their levels: where they begin in the middle one, training can't tell them apart.
        nn.init.normal_(to_codes.conv.weight, std=1.7 / last**0.5)
        self.encoder = Stack([*encoder, to_codes])
        self.fsq = FSQ(config.levels, config.bound)
        decoder: list[nn.Module] = [CausalConv3d(len(config.levels), last)]
        decoder += residual_units(last, last, config.middle, groups)
        for level, (before, width) in reversed(list(enumerate(zip((*widths[1:], last), widths)))):
            if level < len(widths) - 1:
                decoder += [Upsample(before, config.strides[level], config.up_kernel)]
            decoder += residual_units(before, width, config.blocks, groups)
        decoder += [FrameNorm(groups, widths[0]), Swish(widths[0]), CausalConv3d(widths[0], pixels)]
        self.decoder = Stack(decoder)
        self.discriminator = patch_discriminator(config.image_channels, config.adversarial, dimensions=3)
        # The discriminator is shown [0, 1], unlike those of pictures: trainings that stopped so go on so.
        self.picture_loss = PictureLoss(config.pixel, config.perceptual, config.adversarial, critic_low=0)

    @property
    def size(self) -> tuple[int, int, int]:
        """(frames, rows, columns) of the clips that it was trained on."""
        return self.config.clip_size

    @property
    def num_codes(self) -> int:
        """How many different codes there are."""
        return self.fsq.size

    def grid(self, size: Sequence[int]) -> tuple[int, int, int]:
        """The code grid of a clip of `size` (frames, rows, columns); ValueError where the strides don't fit."""
        return code_grid(size, self.config.stride)

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Clips [B, P, T, H, W] in [0, 1] -> Tokens, codes [B, N]."""
        self._check(images)
        _, codes = self._codes(images)
        return Tokens(codes.flatten(1), self.grid(images.shape[2:]), source=fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Codes [B, N] -> clips [B, P, T, H, W] in [0, 1], fp32."""
        self._check_codes(tokens.data, tokens.grid)
        quantized = self.fsq.dequantize(tokens.data.unflatten(1, tokens.grid)).movedim(-1, 1)
        return self._clips(quantized).float().clamp(0, 1)

    def carry(self) -> Carry:
        """Nothing yet: the next chunk is the first."""
        return Carry()

    @torch.no_grad()
    def encode_more(self, clips: Tensor, carry: Carry) -> Tensor:
        """The next frames [B, P, T, H, W] -> their codes [B, t, h, w].

        The first chunk has 1 + a multiple of the stride in frames, later ones have multiples.
        """
        frames, time, first = clips.shape[2] if clips.ndim == 5 else 0, self.config.stride[0], not carry.begun
        self._check(clips, fits=first)
        if not frames or (frames - first) % time:
            raise ValueError(f"chunk: got {frames} frames, accepted: {'1 + ' if first else ''}a multiple of {time}")
        _, codes = self._codes(clips, carry)
        carry.begun = True
        return codes

    @torch.no_grad()
    def decode_more(self, codes: Tensor, carry: Carry) -> Tensor:
        """The next codes [B, t, h, w] -> their frames [B, P, T, H, W]: the very first codes give one frame."""
        self._check_codes(codes, codes.shape[1:])
        clips = self._clips(self.fsq.dequantize(codes).movedim(-1, 1), carry)
        carry.begun = True
        return clips.float().clamp(0, 1)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Pixel error, and the perceptual and adversarial terms where the config has them."""
        target = batch["images"]
        self._check(target)
        quantized, codes = self._codes(target)
        loss = self.picture_loss(self._clips(quantized).float(), target, self.discriminator)
        return loss.plus({}, measures=usage(codes, self.fsq.size))

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise clips in this model's shapes."""
        return {"images": rng.uniform(self.config.image_channels, *self.config.clip_size)[:n]}

    def _codes(self, clips: Tensor, carry: Carry | None = None) -> tuple[Tensor, Tensor]:
        """Clips -> quantized [B, F, t, h, w] and codes [B, t, h, w]."""
        x = self._folded(clips * 2 - 1).contiguous(memory_format=torch.channels_last_3d)
        quantized, codes = self.fsq(self.encoder(x, carry).movedim(1, -1))
        return quantized.movedim(-1, 1), codes

    def _clips(self, quantized: Tensor, carry: Carry | None = None) -> Tensor:
        """Quantized [B, F, t, h, w] -> clips [B, P, T, H, W] about [0, 1], not clamped."""
        x = self.decoder(quantized.contiguous(memory_format=torch.channels_last_3d), carry)
        side = self.config.patch
        return unfold(x, (1, side, side), first=True) * 0.5 + 0.5

    def _folded(self, clips: Tensor) -> Tensor:
        """[B, P, T, H, W] -> [B, P * patch ** 2, T, H / patch, W / patch]."""
        side = self.config.patch
        x = clips.unflatten(4, (-1, side)).unflatten(3, (-1, side))
        return x.permute(0, 4, 6, 1, 2, 3, 5).flatten(1, 3)

    def _check(self, clips: Tensor, fits: bool = True) -> None:
        channels = self.config.image_channels
        if clips.ndim != 5 or clips.shape[1] != channels:
            raise ValueError(
                f"clips: got shape {tuple(clips.shape)}, accepted: [batch, {channels}, frames, rows, columns]"
            )
        if fits:
            self.grid(clips.shape[2:])

    def _check_codes(self, codes: Tensor, grid: Sequence[int]) -> None:
        fits = len(grid) == 3 and math.prod(grid) == math.prod(codes.shape[1:])
        if codes.is_floating_point() or not fits or not codes.numel():
            got = f"{tuple(codes.shape)} of {codes.dtype} on the grid {tuple(grid)}"
            raise ValueError(f"codes: got {got}, accepted: whole numbers [batch, N] on a grid (frames, rows, columns)")
