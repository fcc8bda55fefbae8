"""KL-VAE: pictures to continuous latents and back, with a Gaussian posterior per latent.

The network sees pictures in [-1, 1] and speaks raw latents; tokens are `(latent - shift) * scale`, so that they have
unit deviation for a generator. Loss: pixels + KL, and by choice a perceptual and an adversarial term (see _losses).

Shapes: B batch, P picture channels, H W picture rows and columns, h w grid rows and columns, N = h * w tokens, C latent
channels.
Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752), appendix G.
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import Channels
from nextok_mm.contracts import Batch, Loss, Tokens
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from ._conv import ConvTokenizer, Geometry
from ._conv2d import Decoder, Encoder
from ._losses import Adversarial, Perceptual, patch_discriminator


class KLVAEConfig(Geometry):
    """A KL-VAE. `size` names a preset; `kl16` is the published geometry of MAR's and xAR's VAE (256 x 256 pictures)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            image_channels=1, image_size=(8, 8), latent_channels=4, block_channels=(8, 16), block_layers=1, groups=4
        ),
        "fashion": dict(
            image_channels=1,
            image_size=(32, 32),
            latent_channels=16,
            block_channels=(16, 32, 64, 64),
            block_layers=1,
            groups=8,
        ),
        "emoji": dict(
            image_size=(64, 64), latent_channels=8, block_channels=(16, 32, 64, 64), block_layers=1, groups=8
        ),
        "kl16": dict(block_channels=(128, 128, 256, 256, 512), encoder_attention=(4,), scale=0.2325),
    }
    image_channels: int = Field(
        3, gt=0, le=1 << 10, description="Number of channels of a picture: 1 is grey, 3 is color."
    )
    image_size: tuple[int, int] = Field(
        default=(256, 256),
        description="Rows and columns of the training pictures, in pixels; other sizes can be encoded too.",
    )
    latent_channels: int = Field(16, gt=0, le=1 << 16, description="Number of channels of a latent.")
    block_channels: tuple[Channels, ...] = Field(
        min_length=1,
        max_length=16,
        description="Width of each level, from full resolution to the coarsest; each level halves the sides.",
    )
    block_layers: int = Field(2, ge=1, le=64, description="Number of residual blocks per level.")
    groups: int = Field(
        32,
        ge=1,
        description="Number of groups of every group normalization; it has to divide the widths of all levels.",
    )
    mid_attention: bool = Field(
        default=True,
        description="Attend at the coarsest resolution, between encoder and latents and between latents and decoder.",
    )
    encoder_attention: tuple[int, ...] = Field(
        default=(), description="Levels of the encoder with attention after every residual block; 0 is full resolution."
    )
    decoder_attention: tuple[int, ...] = Field(
        default=(), description="Levels of the decoder with attention after every residual block; 0 is full resolution."
    )
    quant_conv: bool = Field(default=True, description="Put 1 x 1 convolutions before and behind the latents.")
    scale: float | tuple[float, ...] = Field(
        default=1.0, description="Factor of a token, which is (latent - shift) * scale: one number, or one per channel."
    )
    shift: float | tuple[float, ...] = Field(
        default=0.0, description="Offset that is subtracted from a latent: one number, or one per channel."
    )
    pixel: Literal["l1", "l2"] = Field(
        default="l1",
        description="Measure of the reconstruction error: l1 (absolute) or l2 (squared), of pixels in [-1, 1].",
    )
    kl_weight: float = Field(
        1e-6,
        ge=0,
        description="Weight of the KL divergence, in nats per picture, against the error summed over the "
        "picture's pixels, as in the LDM paper.",
    )
    perceptual: Perceptual | None = Field(
        default=None, description="The perceptual loss that is added to the pixel error; null adds none."
    )
    adversarial: Adversarial | None = Field(
        default=None,
        description="The adversarial loss that is added to the pixel error; null trains without a discriminator.",
    )

    @model_validator(mode="after")
    def _per_channel(self) -> "KLVAEConfig":
        levels = range(len(self.block_channels))
        if any(level not in levels for level in (*self.encoder_attention, *self.decoder_attention)):
            raise ValueError(f"encoder_attention, decoder_attention: levels 0 .. {levels[-1]} are accepted")
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            if isinstance(value, tuple) and len(value) != self.latent_channels:
                raise ValueError(f"{name}: one number or {self.latent_channels} are accepted, got {len(value)}")
        return self


class Autoencoder(nn.Module):
    """The network: pictures in [-1, 1] to the moments of their latents, latents to pictures."""

    def __init__(self, config: KLVAEConfig):
        super().__init__()
        widths, blocks, groups = config.block_channels, config.block_layers, config.groups
        channels, latents, middle = config.image_channels, config.latent_channels, config.mid_attention
        self.encoder = Encoder(channels, 2 * latents, widths, blocks, groups, config.encoder_attention, middle)
        self.decoder = Decoder(latents, channels, widths, blocks + 1, groups, config.decoder_attention, middle)
        self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(latents, latents, 1) if config.quant_conv else None

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures [B, P, H, W] -> mean and log variance [B, 2 * C, h, w]."""
        hidden = self.encoder(pictures)
        return hidden if self.quant_conv is None else self.quant_conv(hidden)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> pictures [B, P, H, W], not clamped."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents.to(self.post_quant_conv.weight.dtype))
        return self.decoder(latents)


@register("tokenizer", "kl_vae")
class KLVAE(ConvTokenizer[KLVAEConfig]):
    """The model; see the module's text."""

    Config = KLVAEConfig
    scale: Tensor
    shift: Tensor

    def __init__(self, config: KLVAEConfig):
        super().__init__(config, low=-1)
        self.net = Autoencoder(config)
        self.discriminator = patch_discriminator(config.image_channels, config.adversarial)
        self.register_buffer("scale", torch.tensor(config.scale, dtype=torch.float32), persistent=False)
        self.register_buffer("shift", torch.tensor(config.shift, dtype=torch.float32), persistent=False)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, P, H, W] in [0, 1] -> mean and standard deviation of the tokens, each [B, N, C] in fp32."""
        mean, logvar = self._moments(images)
        return _to_tokens((mean - self._map(self.shift)) * self._map(self.scale)), _to_tokens(
            (0.5 * logvar).exp() * self._map(self.scale)
        )

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Images [B, P, H, W] in [0, 1] -> Tokens [B, N, C]; the posterior's mean without `rng`, a sample with it."""
        mean, std = self.posterior(images)
        data = mean if rng is None else mean + std * rng.normal(*mean.shape[1:], like=mean)
        return Tokens(data, self.grid(images.shape[-2:]), source=fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens [B, N, C] -> images [B, P, H, W] in [0, 1], fp32."""
        h, w = tokens.grid
        maps = tokens.data.float().transpose(1, 2).unflatten(2, (h, w))
        pictures = self.net.decode(maps / self._map(self.scale) + self._map(self.shift))
        return (pictures.float() * 0.5 + 0.5).clamp(0, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images there and back through the posterior's mean: [B, P, H, W] in [0, 1]."""
        return self.decode(self.encode(images))

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Pixel error + KL, and the perceptual and adversarial terms where the config has them."""
        target = batch["images"] * 2 - 1
        mean, logvar = self._moments(batch["images"])
        latents = mean + (0.5 * logvar).exp() * rng.normal(*mean.shape[1:], like=mean)
        nats_B = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
        loss = self.picture_loss(self.net.decode(latents).float(), target, self.discriminator)
        return loss.plus({"kl_nats": nats_B}, {"kl_nats": self.config.kl_weight / target[0].numel()})

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw mean and log variance [B, C, h, w], always in fp32: the exponential of a bf16 number is 1 % off."""
        moments = self.net.encode(self.checked(images) * 2 - 1)
        mean, logvar = moments.float().chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def _map(self, value: Tensor) -> Tensor:
        """One number, or one per channel, as something that broadcasts over [B, C, h, w]."""
        return value.float().reshape(1, -1, 1, 1)


def _to_tokens(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, N, C] in raster order."""
    return maps.flatten(2).transpose(1, 2)
