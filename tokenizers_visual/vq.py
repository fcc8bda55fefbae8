"""A grid of codes: pictures through a convolutional autoencoder whose middle is quantized, by VQ or by FSQ.

Every place of the grid is one code. Loss: pixels, the codebook's terms, and by choice a perceptual and an adversarial
term (see _losses).

Shapes: B batch, P picture channels, H W picture rows and columns, h w grid rows and columns, N = h * w tokens,
F numbers of a code.
Sources: van den Oord et al., Neural Discrete Representation Learning (arXiv 1711.00937); Esser et al., Taming
Transformers (arXiv 2012.09841), section 3.1, for the perceptual and adversarial terms.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from nextok_mm.checkpoint import fingerprint
from nextok_mm.contracts import Batch, Loss, Tokens
from nextok_mm.quantizers.fsq import FSQ, FSQConfig, usage
from nextok_mm.quantizers.vq import VQ, VQConfig
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from ._conv import ConvConfig, ConvTokenizer
from ._losses import patch_discriminator


class VQTokenizerConfig(ConvConfig):
    """A quantized autoencoder. `size` names a preset; `kind` of the quantizer (vq, fsq) decides its other fields."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            image_channels=1,
            image_size=(8, 8),
            block_channels=(8, 16),
            block_layers=1,
            groups=4,
            quantizer=dict(kind="vq", size=32, width=4),
        ),
        "fashion": dict(
            image_channels=1,
            image_size=(32, 32),
            block_channels=(16, 32, 64, 64),
            block_layers=1,
            groups=8,
            attention=(),
            quantizer=dict(kind="fsq", levels=(8, 8, 5, 5)),
        ),
    }
    quantizer: Annotated[
        VQConfig | FSQConfig,
        Field(
            discriminator="kind",
            description="The quantizer between encoder and decoder: kind vq or fsq, and the fields of that one.",
        ),
    ]


@register("tokenizer", "vq")
class VQTokenizer(ConvTokenizer[VQTokenizerConfig]):
    """The model; see the module's text."""

    Config = VQTokenizerConfig

    def __init__(self, config: VQTokenizerConfig):
        super().__init__(config)
        chosen = config.quantizer
        self.encoder, self.decoder = config.halves(chosen.width)
        self.discriminator = patch_discriminator(config.image_channels, config.adversarial)
        self.quantizer = VQ(chosen) if isinstance(chosen, VQConfig) else FSQ(chosen.levels)

    @property
    def num_codes(self) -> int:
        """Different codes of a place."""
        return self.quantizer.size

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Images [B, P, H, W] in [0, 1] -> Tokens [B, N]; no chance is involved."""
        _, codes, *_ = self.quantizer(self.encoder(self.checked(images)).movedim(1, -1))
        return Tokens(codes.flatten(1), self.grid(images.shape[-2:]), source=fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens [B, N] -> images [B, P, H, W] in [0, 1], fp32. ValueError for codes out of range."""
        return self._decode(self.quantizer.dequantize(tokens.data).unflatten(1, tokens.grid)).clamp(0, 1)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The pictures' terms and the codebook's; use of the codes is logged beside them. Draws nothing."""
        target = batch["images"]
        quantized, codes, *terms = self.quantizer(self.encoder(self.checked(target)).movedim(1, -1))
        loss = self.picture_loss(self._decode(quantized), target, self.discriminator)
        return loss.plus({"codebook": terms[0]} if terms else {}, measures=usage(codes, self.num_codes))

    def after_step(self, rng: Rng) -> None:
        """The codebook of a VQ learns."""
        if isinstance(self.quantizer, VQ):
            self.quantizer.after_step(rng)

    def _decode(self, quantized_BhwF: Tensor) -> Tensor:
        """Quantized vectors -> pictures, fp32, not clamped."""
        return self.decoder(quantized_BhwF.movedim(-1, 1)).float()
