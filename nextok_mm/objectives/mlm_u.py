"""Uniform rates of masking: as often few tokens are masked as many, so a model predicts in any order.

A rate is drawn for each row, uniform between 0 and 1, and each token behind the prompt is masked with that chance.
Masked tokens are predicted independently of each other from all that are shown: the next ones, the ones many steps
ahead, the ones before. A row's loss is the mean over its masked tokens, which is what the likelihood over all orders
asks for.
Sources: Nolte et al., Transformers Can Navigate Mazes With Multi-Step Prediction (arXiv 2412.05117); Kitouni et al.,
The Factorization Curse (arXiv 2406.05183).
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ..rng import Rng
from . import masked


class Config(masked.Config):
    """Predict masked tokens, with any share of them masked."""

    head: ClassVar[str | None] = None
    kind: Literal["mlm_u"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="mlm_u", description="Name of this objective, which selects this config."
    )

    def masked(self, rng: Rng, places: int) -> Tensor:
        """bool [B, places]; a row may have none."""
        rate_B = rng.uniform()
        return rng.uniform(places) < rate_B[:, None]
