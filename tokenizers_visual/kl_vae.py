"""KL-VAE: pictures to continuous latents and back, a Gaussian posterior per latent, over diffusers' AutoencoderKL.

The network sees pictures in [-1, 1] and speaks raw latents; tokens are `(latent - shift) * scale`, so that they have
unit deviation for a generator. Loss: pixels + KL, and by choice the distance in a named feature network and a patch
discriminator, which learns in the same backward pass and the same optimizer (see `adversarial`).

Shapes: B batch, P picture channels, H W picture rows and columns, h w grid rows and columns, N = h * w tokens, C latent
channels.
Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752), appendix G.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import Channels, Config, ModelConfig
from nextok_mm.contracts import Batch, Loss, Tokenizer, Tokens
from nextok_mm.registry import register
from nextok_mm.rng import Rng


class Adversarial(Config):
    """A patch discriminator (hinge loss): its weight in the VAE's loss, first width and number of halvings."""

    weight: float = Field(0.1, gt=0)
    width: int = Field(32, gt=0, le=1 << 12, multiple_of=8)
    depth: int = Field(2, ge=1, le=6)


class Perceptual(Config):
    """A distance between feature maps: the network's name (see nextok_mm.features.pictures) and its weight."""

    net: str = "effnet-lite0-imagenet"
    weight: float = Field(0.1, gt=0)


class KLVAEConfig(ModelConfig):
    """A KL-VAE. `size` names a preset; `kl16` is the published geometry of MAR's and xAR's VAE (256 x 256 pictures).

    image_size: (rows, columns) of training pictures, others work too; encoder_attention and decoder_attention: levels
    (0: full resolution) with attention after every residual block; quant_conv: 1 x 1 convolutions around the latents;
    scale, shift: one number or one per latent channel; pixel: error in the [-1, 1] range; kl_weight: nats of a picture
    against the summed pixel errors of that picture, as in the LDM paper.
    """

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
    image_channels: int = Field(3, gt=0, le=1 << 10)
    image_size: tuple[int, int] = (256, 256)
    latent_channels: int = Field(16, gt=0, le=1 << 16)
    block_channels: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    block_layers: int = Field(2, ge=1, le=64)
    groups: int = Field(32, ge=1)
    mid_attention: bool = True
    encoder_attention: tuple[int, ...] = ()
    decoder_attention: tuple[int, ...] = ()
    quant_conv: bool = True
    scale: float | tuple[float, ...] = 1.0
    shift: float | tuple[float, ...] = 0.0
    pixel: Literal["l1", "l2"] = "l1"
    kl_weight: float = Field(1e-6, ge=0)
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None

    @property
    def stride(self) -> int:
        """Pixels per token along a side."""
        return 2 ** (len(self.block_channels) - 1)

    @model_validator(mode="after")
    def _consistent(self) -> "KLVAEConfig":
        if any(channels % self.groups for channels in self.block_channels):
            raise ValueError(f"block_channels {self.block_channels}: multiples of groups {self.groups} are accepted")
        levels = range(len(self.block_channels))
        if any(level not in levels for level in (*self.encoder_attention, *self.decoder_attention)):
            raise ValueError(f"encoder_attention, decoder_attention: levels 0 .. {levels[-1]} are accepted")
        if any(side <= 0 or side % self.stride for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: multiples of the stride {self.stride} are accepted")
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            if isinstance(value, tuple) and len(value) != self.latent_channels:
                raise ValueError(f"{name}: one number or {self.latent_channels} are accepted, got {len(value)}")
        return self


@register("tokenizer", "kl_vae")
class KLVAE(Tokenizer):
    """The model; see the module's text."""

    Config = KLVAEConfig
    config: KLVAEConfig  # type: ignore[assignment]
    net: Any
    discriminator: Any
    scale: Tensor
    shift: Tensor

    def __init__(self, config: KLVAEConfig):
        super().__init__()
        self.config = config
        self.net = _network(config)
        self.discriminator = (
            patch_discriminator(config.image_channels, config.adversarial) if config.adversarial else None
        )
        self._perceptual: list[Any] = []  # in a list: a fixed network is no part of this one's parameters
        self.register_buffer("scale", torch.tensor(config.scale, dtype=torch.float32), persistent=False)
        self.register_buffer("shift", torch.tensor(config.shift, dtype=torch.float32), persistent=False)

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """The token grid of a picture of `size` (height, width); ValueError where the stride doesn't divide it."""
        stride = self.config.stride
        if any(side < stride or side % stride for side in size):
            raise ValueError(f"picture size: got {size[0]} x {size[1]}, multiples of {stride} are accepted")
        return size[0] // stride, size[1] // stride

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
        pictures = self._decode(maps / self._map(self.scale) + self._map(self.shift))
        return (pictures.float() * 0.5 + 0.5).clamp(0, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images there and back through the posterior's mean: [B, P, H, W] in [0, 1]."""
        return self.decode(self.encode(images))

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Pixel error + KL, and the perceptual and adversarial terms where the config has them."""
        target = batch["images"] * 2 - 1
        mean, logvar = self._moments(batch["images"])
        latents = mean + (0.5 * logvar).exp() * rng.normal(*mean.shape[1:], like=mean)
        pictures = self._decode(latents).float()
        error = F.l1_loss if self.config.pixel == "l1" else F.mse_loss
        nats = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()
        parts = {"pixel": error(pictures, target.float()), "kl_nats": nats}
        total = parts["pixel"] + self.config.kl_weight * nats / target[0].numel()
        if self.config.perceptual:
            parts["perceptual"] = perceive(self._features(pictures.device), pictures * 0.5 + 0.5, target * 0.5 + 0.5)
            total = total + self.config.perceptual.weight * parts["perceptual"]
        if self.config.adversarial:
            parts["adversarial"], parts["discriminator"] = adversarial(self.discriminator, pictures, target)
            total = total + self.config.adversarial.weight * parts["adversarial"] + parts["discriminator"]
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise pictures in this model's shapes."""
        return {"images": rng.uniform(self.config.image_channels, *self.config.image_size)}

    def gradient_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        (self.net.enable_gradient_checkpointing if on else self.net.disable_gradient_checkpointing)()

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw mean and log variance [B, C, h, w], always in fp32: the exponential of a bf16 number is 1 % off."""
        if images.ndim != 4 or images.shape[1] != self.config.image_channels:
            shape, channels = tuple(images.shape), self.config.image_channels
            raise ValueError(f"images: got shape {shape}, accepted: [batch, {channels}, height, width]")
        self.grid(images.shape[-2:])
        hidden = self.net.encoder((images * 2 - 1).to(self.net.dtype))
        moments = self.net.quant_conv(hidden) if self.net.quant_conv is not None else hidden
        mean, logvar = moments.float().chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def _decode(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] -> pictures in [-1, 1], not clamped."""
        latents = latents.to(self.net.dtype)
        return self.net.decoder(self.net.post_quant_conv(latents) if self.net.post_quant_conv is not None else latents)

    def _map(self, value: Tensor) -> Tensor:
        """One number, or one per channel, as something that broadcasts over [B, C, h, w]."""
        return value.float().reshape(1, -1, 1, 1)

    def _features(self, device: torch.device) -> Any:
        if not self._perceptual:
            from nextok_mm.features.pictures import load_features

            assert self.config.perceptual is not None
            self._perceptual.append(load_features(self.config.perceptual.net))
        return self._perceptual[0].to(device)


def perceive(net: Any, pictures: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of channel-normalised feature maps, averaged over the maps (as LPIPS, no weights).

    Both are [B, P, H, W] in [0, 1]; net: see nextok_mm.features.pictures.
    """
    pairs = zip(net.maps(pictures), net.maps(target))
    return torch.stack([(F.normalize(a) - F.normalize(b)).square().sum(1).mean() for a, b in pairs]).mean()


def adversarial(discriminator: Any, pictures: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The autoencoder's and the discriminator's hinge terms, of pictures or clips.

    One backward serves both: the autoencoder's term sees the discriminator's weights detached, the discriminator's sees
    the reconstructions detached, so neither pushes the other's parameters.
    """
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    fooled = -functional_call(discriminator, frozen, (pictures,)).mean()
    real, fake = discriminator(target.float()), discriminator(pictures.detach())
    return fooled, 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def _to_tokens(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, N, C] in raster order."""
    return maps.flatten(2).transpose(1, 2)


def _network(config: KLVAEConfig) -> nn.Module:
    """diffusers' AutoencoderKL in this config's geometry; imported here because it costs seconds."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels, build = range(len(config.block_channels)), cast(Any, AutoencoderKL)  # its annotations say one-tuples
    return build(
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        down_block_types=tuple(f"{'Attn' * (i in config.encoder_attention)}DownEncoderBlock2D" for i in levels),
        up_block_types=tuple(f"{'Attn' * (i in config.decoder_attention)}UpDecoderBlock2D" for i in reversed(levels)),
        block_out_channels=config.block_channels,
        layers_per_block=config.block_layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        sample_size=max(config.image_size),
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.quant_conv,
        mid_block_add_attention=config.mid_attention,
    )


def patch_discriminator(channels: int, config: Adversarial) -> nn.Sequential:
    """Pictures [B, P, H, W] -> one logit per patch. GroupNorm, not BatchNorm: a row must not see its neighbours."""
    layers: list[nn.Module] = [nn.Conv2d(channels, config.width, 3, 1, 1), nn.LeakyReLU(0.2)]
    for level in range(config.depth):
        width, wider = (config.width * 2**i for i in (level, level + 1))
        layers += [nn.Conv2d(width, wider, 4, 2, 1), nn.GroupNorm(8, wider), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(config.width * 2**config.depth, 1, 3, 1, 1))
