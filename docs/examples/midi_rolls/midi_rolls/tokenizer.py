"""The tokenizer: a few steps of a roll become one code, by a small network with finite scalar quantization between.

Codes don't see each other, so the beginning of a roll has the codes that it has in the whole one: it can be predicted
from. Shapes: B rolls, T steps, N = T / patch codes, F numbers of a code.
"""

import math
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import ModelConfig
from nextok_mm.contracts import Batch, Loss, Tokenizer, Tokens
from nextok_mm.quantizers.fsq import FSQ, usage
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from .medium import PITCHES, Rolls


class RollConfig(ModelConfig):
    """steps, rate: of the rolls; patch: steps of one code; width: of the networks; levels: of FSQ."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(steps=16, width=32, levels=(4, 4)),
        "small": dict(steps=64, width=256, levels=(8, 8, 5, 5)),
    }
    steps: int = Field(gt=0, le=1 << 16)
    rate: float = Field(default=8.0, gt=0, le=1000)
    patch: int = Field(default=4, gt=0, le=1 << 10)
    width: int = Field(gt=0, le=1 << 12)
    levels: tuple[int, ...] = Field(min_length=1, max_length=16)


@register("tokenizer", "roll_fsq")
class RollFSQ(Tokenizer):
    """The model; see the module's text."""

    Config = RollConfig
    config: RollConfig

    def __init__(self, config: RollConfig):
        super().__init__()
        self.config = config
        cells, width, numbers = PITCHES * config.patch, config.width, len(config.levels)
        # Rolls are nearly all silence. The norms keep the few notes from vanishing beside it, or all codes become one.
        self.encoder = nn.Sequential(
            nn.Linear(cells, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, numbers), nn.LayerNorm(numbers)
        )
        self.decoder = nn.Sequential(
            nn.Linear(numbers, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, cells)
        )
        nn.init.constant_(self.decoder[-1].bias, -6.0)  # begin with silence, too
        self.quantizer = FSQ(config.levels)

    @classmethod
    def medium_of(cls, config: Any) -> Rolls:
        """Rolls of the trained length."""
        return Rolls((config.steps,), config.rate)

    @property
    def size(self) -> tuple[int, ...]:
        """(steps,)"""
        return (self.config.steps,)

    @property
    def num_codes(self) -> int:
        """Different codes of a place."""
        return math.prod(self.config.levels)

    def grid(self, size: Any) -> tuple[int, ...]:
        """(steps,) -> (codes,)"""
        if len(size) != 1 or size[0] < 1 or size[0] % self.config.patch:
            raise ValueError(f"rolls: got {tuple(size)} steps, accepted: a multiple of {self.config.patch}")
        return (size[0] // self.config.patch,)

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Rolls [B, 128, T] -> Tokens, codes [B, N]."""
        return Tokens(self.quantizer(self._vectors(images))[1], self.grid(images.shape[2:]), fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens -> rolls [B, 128, T]."""
        return self._logits(self.quantizer.dequantize(tokens.data)).sigmoid()

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Whether each pitch sounds at each step, and how loud: the cross-entropy to its velocity."""
        quantized, codes = self.quantizer(self._vectors(batch["images"]))
        logits, rolls = self._logits(quantized), batch["images"]
        error = nn.functional.binary_cross_entropy_with_logits(logits, rolls, reduction="none")
        return Loss({"nats": error}, {"nats": PITCHES}, usage(codes, self.num_codes))

    def example(self, n: int, rng: Rng) -> Batch:
        """Random rolls."""
        return {"images": rng.uniform(PITCHES, self.config.steps)}

    def _vectors(self, rolls: Tensor) -> Tensor:
        """Rolls -> [B, N, F]"""
        if rolls.dim() != 3 or rolls.shape[1] != PITCHES:
            raise ValueError(f"rolls: got shape {tuple(rolls.shape)}, accepted: [B, {PITCHES}, T]")
        self.grid(rolls.shape[2:])
        return self.encoder(rolls.unflatten(2, (-1, self.config.patch)).transpose(1, 2).flatten(2))

    def _logits(self, vectors_BNF: Tensor) -> Tensor:
        """[B, N, F] -> rolls' logits, fp32"""
        cells = self.decoder(vectors_BNF).float().unflatten(2, (PITCHES, self.config.patch))
        return cells.transpose(1, 2).flatten(2)
