"""The next token: every token is predicted from all those before it."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from ..rng import Rng
from .view import Objective, View


class Config(Objective):
    """Predict the next token."""

    kind: Literal["autoregressive"] = Field(
        default="autoregressive", description="Name of this objective, which selects this config."
    )

    def view(self, tokens_BN: Tensor, rng: Rng) -> View:
        """Everything is shown, everything behind the prompt is asked for; draws nothing."""
        return View(tokens_BN, tokens_BN, self.asked(tokens_BN).float())
