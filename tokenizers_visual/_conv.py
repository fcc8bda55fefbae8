"""What tokenizers made of convolutions share: their geometry, diffusers' encoder and decoder, the losses of pictures.

Shapes: B batch, P picture channels, H W picture rows and columns, h w grid rows and columns, C channels of a token.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from nextok_mm.config import Channels, ModelConfig
from nextok_mm.contracts import Batch, Tokenizer
from nextok_mm.rng import Rng

from .kl_vae import Adversarial, Perceptual, adversarial, patch_discriminator, perceive


class ConvConfig(ModelConfig):
    """The geometry and the losses.

    image_size: (rows, columns) of training pictures, others work too; attention: levels (0: full resolution, -1: the
    last) with attention after every residual block; pixel: error of pictures in [0, 1].
    """

    image_channels: int = Field(default=3, gt=0, le=1 << 10)
    image_size: tuple[int, int] = (256, 256)
    block_channels: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    block_layers: int = Field(default=2, ge=1, le=64)
    groups: int = Field(default=32, ge=1)
    attention: tuple[int, ...] = (-1,)
    pixel: Literal["l1", "l2"] = "l1"
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None

    @property
    def stride(self) -> int:
        """Pixels per token along a side."""
        return 2 ** (len(self.block_channels) - 1)

    @model_validator(mode="after")
    def _geometry(self) -> "ConvConfig":
        if any(channels % self.groups for channels in self.block_channels):
            raise ValueError(f"block_channels {self.block_channels}: multiples of groups {self.groups} are accepted")
        levels = len(self.block_channels)
        if any(not -levels <= level < levels for level in self.attention):
            raise ValueError(f"attention {self.attention}: levels 0 to {levels - 1} (-1: the last) are accepted")
        if any(side <= 0 or side % self.stride for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: multiples of the stride {self.stride} are accepted")
        return self


class ConvTokenizer(Tokenizer):
    """An encoder to [B, C, h, w], a decoder back, and by choice a discriminator; pictures are in [0, 1] throughout."""

    config: ConvConfig  # type: ignore[assignment]
    encoder: Any
    decoder: Any
    discriminator: Any

    def __init__(self, config: ConvConfig, channels: int):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _networks(config, channels)
        self.discriminator = (
            patch_discriminator(config.image_channels, config.adversarial) if config.adversarial else None
        )
        self._perceptual: list[Any] = []  # in a list: a fixed network is no part of this one's parameters

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """The token grid of a picture of `size` (height, width); ValueError where the stride doesn't divide it."""
        stride = self.config.stride
        if any(side < stride or side % stride for side in size):
            raise ValueError(f"picture size: got {size[0]} x {size[1]}, multiples of {stride} are accepted")
        return size[0] // stride, size[1] // stride

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise pictures in this model's shapes."""
        return {"images": rng.uniform(self.config.image_channels, *self.config.image_size)}

    def hidden(self, images: Tensor) -> Tensor:
        """Images [B, P, H, W] in [0, 1] -> what the encoder says [B, C, h, w]; ValueError for another shape."""
        if images.ndim != 4 or images.shape[1] != self.config.image_channels:
            shape, channels = tuple(images.shape), self.config.image_channels
            raise ValueError(f"images: got shape {shape}, accepted: [batch, {channels}, height, width]")
        self.grid(images.shape[-2:])
        return self.encoder(images.to(self.encoder.conv_in.weight.dtype))

    def compare(self, pictures: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pictures [B, P, H, W] that came back (not clamped), and its parts: pixels, and the perceptual and
        adversarial terms where the config has them."""
        error = F.l1_loss if self.config.pixel == "l1" else F.mse_loss
        parts = {"pixel": error(pictures, target.float())}
        total = parts["pixel"]
        if self.config.perceptual:
            parts["perceptual"] = perceive(self._features(pictures.device), pictures, target)
            total = total + self.config.perceptual.weight * parts["perceptual"]
        if self.config.adversarial:
            terms = adversarial(self.discriminator, pictures * 2 - 1, target * 2 - 1)
            parts["adversarial"], parts["discriminator"] = terms
            total = total + self.config.adversarial.weight * parts["adversarial"] + parts["discriminator"]
        return total, parts

    def _features(self, device: torch.device) -> Any:
        if not self._perceptual:
            from nextok_mm.features.pictures import load_features

            assert self.config.perceptual is not None
            self._perceptual.append(load_features(self.config.perceptual.net))
        return self._perceptual[0].to(device)


def _networks(config: ConvConfig, channels: int) -> tuple[Any, Any]:
    """diffusers' VAE encoder and decoder in this geometry; imported here because it costs seconds."""
    from diffusers.models.autoencoders.vae import Decoder, Encoder

    count = len(config.block_channels)
    attended = {level % count for level in config.attention}
    shape: dict[str, Any] = dict(block_out_channels=config.block_channels, norm_num_groups=config.groups)
    encoder = Encoder(
        in_channels=config.image_channels,
        out_channels=channels,
        down_block_types=tuple(f"{'Attn' * (i in attended)}DownEncoderBlock2D" for i in range(count)),
        layers_per_block=config.block_layers,
        double_z=False,
        **shape,
    )
    decoder = Decoder(
        in_channels=channels,
        out_channels=config.image_channels,
        up_block_types=tuple(f"{'Attn' * (i in attended)}UpDecoderBlock2D" for i in reversed(range(count))),
        layers_per_block=config.block_layers - 1,  # diffusers' decoders have one more
        **shape,
    )
    return encoder, decoder
