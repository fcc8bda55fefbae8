"""BAE, the binary autoencoder: pictures to a grid of binary codes and back. No codebook is learned, so none collapses.

Every place of the grid has n bits, each drawn from its own Bernoulli distribution (or its likelier value), with the
gradient passed straight through; the decoder sees the sum of one learned vector for every bit that is 1. Encoder and
decoder are those of a VAE (diffusers' parts). A code is its bits read as a number, the first bit counting most.
Loss: pixels, and by choice p (1 - p) of the bits, a perceptual and an adversarial term as in kl_vae.

Shapes: B batch, P picture channels, H W picture rows and columns, h w grid rows and columns, N = h * w tokens, n bits.
Sources: Wang et al., Binary Latent Diffusion (arXiv 2304.04820); Wu et al. (arXiv 2410.16257), section 3.1.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import ModelConfig
from nextok_mm.contracts import Batch, Loss, Tokenizer, Tokens
from nextok_mm.quantizers.binary import BinaryQuantizer
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from .kl_vae import Adversarial, Perceptual, adversarial, patch_discriminator, perceive


class BAEConfig(ModelConfig):
    """A BAE. `size` names a preset; bae16 to bae24 are the published ones (256 x 256 pictures, 16 x 16 codes).

    bits: of a code; embed: width of the vectors that stand for them; attention: levels (0: full resolution) with
    attention after every residual block; norm_first: the decoder normalises its input; stochastic: training draws the
    bits (encoding does where it is given an rng), else each takes its likelier value; bits_weight: of p (1 - p).
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            image_channels=1, image_size=(8, 8), bits=6, embed=16, block_channels=(8, 16), block_layers=1, groups=4
        ),
        "fashion": dict(
            image_channels=1,
            image_size=(32, 32),
            bits=24,
            embed=64,
            block_channels=(16, 32, 64, 64),
            block_layers=1,
            groups=8,
            attention=(),
        ),
        **{f"bae{bits}": dict(bits=bits, block_channels=(128, 128, 256, 256, 512)) for bits in (16, 20, 24)},
    }
    image_channels: int = Field(default=3, gt=0)
    image_size: tuple[int, int] = (256, 256)
    bits: int = Field(gt=0, le=62)
    embed: int = Field(default=256, gt=0)
    block_channels: tuple[int, ...] = Field(min_length=1)
    block_layers: int = Field(default=2, ge=1)
    groups: int = Field(default=32, ge=1)
    attention: tuple[int, ...] = (-1,)
    norm_first: bool = False
    stochastic: bool = True
    pixel: Literal["l1", "l2"] = "l1"
    bits_weight: float = Field(default=0.0, ge=0)
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None

    @property
    def stride(self) -> int:
        """Pixels per code along a side."""
        return 2 ** (len(self.block_channels) - 1)

    @model_validator(mode="after")
    def _consistent(self) -> "BAEConfig":
        normed = (*self.block_channels, *([self.embed] if self.norm_first else []))
        if any(channels % self.groups for channels in normed):
            raise ValueError(f"block_channels, embed {normed}: multiples of groups {self.groups} are accepted")
        levels = len(self.block_channels)
        if any(not -levels <= level < levels for level in self.attention):
            raise ValueError(f"attention {self.attention}: levels 0 to {levels - 1} (-1: the last) are accepted")
        if any(side <= 0 or side % self.stride for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: multiples of the stride {self.stride} are accepted")
        return self


@register("tokenizer", "bae")
class BAE(Tokenizer):
    """The model; see the module's text."""

    Config = BAEConfig
    config: BAEConfig  # type: ignore[assignment]
    discriminator: Any

    def __init__(self, config: BAEConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = _networks(config)
        self.quantizer = BinaryQuantizer(config.bits, config.embed)
        self.norm_first = nn.GroupNorm(config.groups, config.embed, eps=1e-6) if config.norm_first else nn.Identity()
        self.discriminator = (
            patch_discriminator(config.image_channels, config.adversarial) if config.adversarial else None
        )
        self._perceptual: list[Any] = []  # in a list: a fixed network is no part of this one's parameters

    @property
    def codes(self) -> int:
        """2 ** bits."""
        return 2**self.config.bits

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """The grid of codes of a picture of `size` (height, width); ValueError where the stride doesn't divide it."""
        stride = self.config.stride
        if any(side < stride or side % stride for side in size):
            raise ValueError(f"picture size: got {size[0]} x {size[1]}, multiples of {stride} are accepted")
        return size[0] // stride, size[1] // stride

    def chances(self, images: Tensor) -> Tensor:
        """Images [B, P, H, W] in [0, 1] -> how likely each bit is 1, [B, n, h, w] in fp32."""
        if images.ndim != 4 or images.shape[1] != self.config.image_channels:
            shape, channels = tuple(images.shape), self.config.image_channels
            raise ValueError(f"images: got shape {shape}, accepted: [batch, {channels}, height, width]")
        self.grid(images.shape[-2:])
        return self.quantizer.chances(self.encoder(images))

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Images [B, P, H, W] in [0, 1] -> Tokens [B, N]; the likelier value of every bit, drawn bits with an `rng`
        where the model is stochastic."""
        chances = self.chances(images)
        bits = self.quantizer.bits(chances, rng if self.config.stochastic else None)
        return Tokens(self.quantizer.to_codes(bits).flatten(1), self.grid(images.shape[-2:]), source=fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens [B, N] -> images [B, P, H, W] in [0, 1], fp32. ValueError for codes out of range."""
        codes = tokens.data
        if codes.is_floating_point():
            raise ValueError(f"codes: got {codes.dtype}, accepted: whole numbers from 0 to {self.codes - 1}")
        if not tokens.source and codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codes:
            got = f"{int(codes.min())} to {int(codes.max())}"
            raise ValueError(f"codes: got {got}, accepted: 0 to {self.codes - 1}")
        return self._decode(self.quantizer.to_bits(codes.unflatten(1, tokens.grid))).float().clamp(0, 1)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Pixel error, and p (1 - p), the perceptual and the adversarial terms where the config has them."""
        target = batch["images"]
        chances = self.chances(target)
        bits = self.quantizer.bits(chances, rng if self.config.stochastic else None)
        pictures = self._decode(bits + chances - chances.detach()).float()  # straight through
        error = F.l1_loss if self.config.pixel == "l1" else F.mse_loss
        parts = {"pixel": error(pictures, target.float()), "undecided": (chances * (1 - chances)).mean()}
        total = parts["pixel"] + self.config.bits_weight * parts["undecided"]
        if self.config.perceptual:
            parts["perceptual"] = perceive(self._features(pictures.device), pictures, target)
            total = total + self.config.perceptual.weight * parts["perceptual"]
        if self.config.adversarial:
            terms = adversarial(self.discriminator, pictures * 2 - 1, target * 2 - 1)
            parts["adversarial"], parts["discriminator"] = terms
            total = total + self.config.adversarial.weight * parts["adversarial"] + parts["discriminator"]
        parts["entropy"] = self.quantizer.entropy(bits)
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise pictures in this model's shapes."""
        return {"images": rng.uniform(self.config.image_channels, *self.config.image_size)}

    def _decode(self, bits: Tensor) -> Tensor:
        """Bits [B, n, h, w] -> pictures, not clamped."""
        return self.decoder(self.norm_first(self.quantizer.embed(bits)))

    def _features(self, device: torch.device) -> Any:
        if not self._perceptual:
            from nextok_mm.eval.features import load_features

            assert self.config.perceptual is not None
            self._perceptual.append(load_features(self.config.perceptual.net))
        return self._perceptual[0].to(device)


def _networks(config: BAEConfig) -> tuple[Any, Any]:
    """diffusers' VAE encoder and decoder in this geometry, without the activation before the last convolution."""
    from diffusers.models.autoencoders.vae import Decoder, Encoder

    count = len(config.block_channels)
    attended = {level % count for level in config.attention}
    shape: dict[str, Any] = dict(block_out_channels=config.block_channels, norm_num_groups=config.groups)
    encoder = Encoder(
        in_channels=config.image_channels,
        out_channels=config.embed,
        down_block_types=tuple(f"{'Attn' * (i in attended)}DownEncoderBlock2D" for i in range(count)),
        layers_per_block=config.block_layers,
        double_z=False,
        **shape,
    )
    decoder = Decoder(
        in_channels=config.embed,
        out_channels=config.image_channels,
        up_block_types=tuple(f"{'Attn' * (i in attended)}UpDecoderBlock2D" for i in reversed(range(count))),
        layers_per_block=config.block_layers - 1,  # diffusers' decoders have one more
        **shape,
    )
    encoder.conv_act = decoder.conv_act = nn.Identity()  # type: ignore[assignment]
    return encoder, decoder
