"""What tokenizers share whose encoder and decoder are `_conv2d`'s: geometry, grid, checks, and the loss of pictures.

Shapes: B batch, P picture channels, H W picture rows and columns, h w grid rows and columns, C channels of a token.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field, model_validator
from torch import Tensor

from nextok_mm.config import Channels, ModelConfig
from nextok_mm.contracts import Batch, Tokenizer
from nextok_mm.rng import Rng

from ._conv2d import Decoder, Encoder
from ._losses import Adversarial, Perceptual, PictureLoss


class Geometry(ModelConfig):
    """What the configs of convolutional tokenizers have in common.

    Each kind lists these fields itself: their order goes into the fingerprint, which caches of tokens are known by.
    """

    if TYPE_CHECKING:
        image_channels: int
        image_size: tuple[int, int]
        block_channels: tuple[int, ...]
        block_layers: int
        groups: int
        pixel: Literal["l1", "l2"]
        perceptual: Perceptual | None
        adversarial: Adversarial | None

    @property
    def stride(self) -> int:
        """Pixels per token along a side."""
        return 2 ** (len(self.block_channels) - 1)

    @model_validator(mode="after")
    def _fits(self) -> "Geometry":
        if any(channels % self.groups for channels in self.block_channels):
            raise ValueError(f"block_channels {self.block_channels}: multiples of groups {self.groups} are accepted")
        if any(side <= 0 or side % self.stride for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: multiples of the stride {self.stride} are accepted")
        return self


class ConvConfig(Geometry):
    """The geometry and the losses of a tokenizer of codes."""

    image_channels: int = Field(
        default=3, gt=0, le=1 << 10, description="Number of channels of a picture: 1 is grey, 3 is color."
    )
    image_size: tuple[int, int] = Field(
        default=(256, 256),
        description="Rows and columns of the training pictures, in pixels; other sizes can be encoded too.",
    )
    block_channels: tuple[Channels, ...] = Field(
        min_length=1,
        max_length=16,
        description="Width of each level, from full resolution to the coarsest; each level halves the sides.",
    )
    block_layers: int = Field(default=2, ge=1, le=64, description="Number of residual blocks per level.")
    groups: int = Field(
        default=32,
        ge=1,
        description="Number of groups of every group normalization; it has to divide the widths of all levels.",
    )
    attention: tuple[int, ...] = Field(
        default=(-1,),
        description="Levels with attention after every residual block: 0 is full resolution, -1 is the coarsest.",
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

    @model_validator(mode="after")
    def _levels(self) -> "ConvConfig":
        levels = len(self.block_channels)
        if any(not -levels <= level < levels for level in self.attention):
            raise ValueError(f"attention {self.attention}: levels 0 to {levels - 1} (-1: the last) are accepted")
        return self

    def halves(self, channels: int) -> tuple[Encoder, Decoder]:
        """An encoder to [B, channels, h, w], and a decoder from there back to pictures."""
        attended = {level % len(self.block_channels) for level in self.attention}
        shape = (self.block_channels, self.block_layers, self.groups, attended)
        encoder = Encoder(self.image_channels, channels, *shape)
        return encoder, Decoder(channels, self.image_channels, *shape)


GeometryT = TypeVar("GeometryT", bound=Geometry)


class ConvTokenizer(Tokenizer[GeometryT]):
    """A tokenizer of pictures in [0, 1] by convolutions, with a discriminator by choice.

    low: the network itself speaks of pictures in [low, 1], 0 or -1.
    """

    def __init__(self, config: GeometryT, low: int = 0):
        super().__init__()
        self.config = config
        self.picture_loss = PictureLoss(config.pixel, config.perceptual, config.adversarial, low)

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """The token grid of a picture of `size` (height, width); ValueError where the stride doesn't divide it."""
        stride = self.config.stride
        if any(side < stride or side % stride for side in size):
            raise ValueError(f"picture size: got {size[0]} x {size[1]}, multiples of {stride} are accepted")
        return size[0] // stride, size[1] // stride

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise pictures in this model's shapes."""
        return {"images": rng.uniform(self.config.image_channels, *self.config.image_size)}

    def checked(self, images: Tensor) -> Tensor:
        """The images; ValueError in one line where they aren't [B, P, H, W], or the stride doesn't divide them."""
        if images.ndim != 4 or images.shape[1] != self.config.image_channels:
            shape, channels = tuple(images.shape), self.config.image_channels
            raise ValueError(f"images: got shape {shape}, accepted: [batch, {channels}, height, width]")
        self.grid(images.shape[-2:])
        return images
