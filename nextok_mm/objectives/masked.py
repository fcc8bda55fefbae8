"""Masked tokens: some tokens of a row are masked, and predicted from all the others, before and after them.

The share that is masked is cos(pi / 2 u) with u uniform: mostly much, as in the first passes of masked decoding.
Source: Chang et al., MaskGIT (arXiv 2202.04200), section 3.1.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..rng import Rng
from .view import UNSEEN, Objective, View


class Config(Objective):
    """Predict masked tokens, mostly with many of them masked."""

    kind: Literal["masked"] = Field(default="masked", description="Name of this objective, which selects this config.")
    unseen: ClassVar[bool] = True
    two_way: ClassVar[bool] = True
    head: ClassVar[str | None] = "tied"

    def view(self, tokens_BN: Tensor, rng: Rng) -> View:
        """At least one token of each row behind the prompt is masked, and those are asked for."""
        masked_BN = self.masked(rng, max(tokens_BN.shape[1] - self.prompt, 0)).to(tokens_BN.device)
        masked_BN = F.pad(masked_BN, (tokens_BN.shape[1] - masked_BN.shape[1], 0)) & self.asked(tokens_BN)
        return shown(tokens_BN, masked_BN)

    def masked(self, rng: Rng, places: int) -> Tensor:
        """bool [B, places]: which tokens of a row are masked."""
        rate_B = torch.cos(torch.pi / 2 * rng.uniform())
        count_B = (places * rate_B).floor().clamp(min=1)
        return rng.uniform(places).argsort(dim=1).argsort(dim=1) < count_B[:, None]


def shown(tokens_BN: Tensor, masked_BN: Tensor) -> View:
    """The two-way view of tokens of which some are masked, and those are asked for."""
    return View(tokens_BN.masked_fill(masked_BN, UNSEEN), tokens_BN, masked_BN.float(), two_way=True)
