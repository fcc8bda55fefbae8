"""BAE, the binary autoencoder: pictures to a grid of binary codes and back. No codebook is learned, so none collapses.

Every place of the grid has n bits, each drawn from its own Bernoulli distribution (or its likelier value), with the
gradient passed straight through; the decoder sees the sum of one learned vector for every bit that is 1. Encoder and
decoder are those of a VAE. A code is its bits read as a number, the first bit counting most.
Loss: pixels, and by choice p (1 - p) of the bits, a perceptual and an adversarial term (see _losses).

Shapes: B batch, P picture channels, H W picture rows and columns, h w grid rows and columns, N = h * w tokens, n bits.
Sources: Wang et al., Binary Latent Diffusion (arXiv 2304.04820); Wu et al. (arXiv 2410.16257), section 3.1.
"""

from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.contracts import Batch, Loss, Tokens
from nextok_mm.quantizers import check_codes
from nextok_mm.quantizers.binary import BinaryQuantizer
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from ._conv import ConvConfig, ConvTokenizer
from ._losses import patch_discriminator


class BAEConfig(ConvConfig):
    """A BAE. `size` names a preset; bae16 to bae24 are the published ones (256 x 256 pictures, 16 x 16 codes)."""

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
    bits: int = Field(gt=0, le=62, description="Number of bits of a code.")
    embed: int = Field(
        default=256, gt=0, le=1 << 16, description="Width of the vectors that the decoder reads in place of the bits."
    )
    norm_first: bool = Field(default=False, description="Normalize the decoder's input.")
    stochastic: bool = Field(
        default=True,
        description="Draw the bits in training, and in encoding with an rng; otherwise each bit takes its "
        "likelier value.",
    )
    bits_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of p (1 - p) in the loss, where p is the probability of a bit; it makes bits decided.",
    )

    @model_validator(mode="after")
    def _normed(self) -> "BAEConfig":
        if self.norm_first and self.embed % self.groups:
            raise ValueError(f"embed {self.embed}: multiples of groups {self.groups} are accepted with norm_first")
        return self


@register("tokenizer", "bae")
class BAE(ConvTokenizer[BAEConfig]):
    """The model; see the module's text."""

    Config = BAEConfig

    def __init__(self, config: BAEConfig):
        super().__init__(config)
        self.encoder, self.decoder = config.halves(config.embed)
        # The published networks have no activation before their last convolutions.
        self.encoder.conv_act, self.decoder.conv_act = nn.Identity(), nn.Identity()
        self.discriminator = patch_discriminator(config.image_channels, config.adversarial)
        self.quantizer = BinaryQuantizer(config.bits, config.embed)
        self.norm_first = nn.GroupNorm(config.groups, config.embed, eps=1e-6) if config.norm_first else nn.Identity()

    @property
    def num_codes(self) -> int:
        """2 ** bits."""
        return 2**self.config.bits

    def chances(self, images: Tensor) -> Tensor:
        """Images [B, P, H, W] in [0, 1] -> how likely each bit is 1, [B, n, h, w] in fp32."""
        return self.quantizer.chances(self.encoder(self.checked(images)))

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Images [B, P, H, W] in [0, 1] -> Tokens [B, N]; the likelier value of every bit, drawn bits with an `rng`
        where the model is stochastic."""
        chances = self.chances(images)
        bits = self.quantizer.bits(chances, rng if self.config.stochastic else None)
        return Tokens(self.quantizer.to_codes(bits).flatten(1), self.grid(images.shape[-2:]), source=fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens [B, N] -> images [B, P, H, W] in [0, 1], fp32. ValueError for codes out of range."""
        check_codes(tokens.data, self.num_codes)
        return self._decode(self.quantizer.to_bits(tokens.data.unflatten(1, tokens.grid))).float().clamp(0, 1)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Pixel error, and p (1 - p), the perceptual and the adversarial terms where the config has them."""
        target = batch["images"]
        chances = self.chances(target)
        bits = self.quantizer.bits(chances, rng if self.config.stochastic else None)
        pictures = self._decode(bits + chances - chances.detach()).float()  # straight through
        loss = self.picture_loss(pictures, target, self.discriminator)
        undecided, weights = {"undecided": chances * (1 - chances)}, {"undecided": self.config.bits_weight}
        return loss.plus(undecided, weights, {"entropy": self.quantizer.entropy(bits)})

    def _decode(self, bits: Tensor) -> Tensor:
        """Bits [B, n, h, w] -> pictures, not clamped."""
        return self.decoder(self.norm_first(self.quantizer.embed(bits)))
