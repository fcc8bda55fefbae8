"""The next token, from a context with holes: a share of what a model reads is masked, what it predicts stays the same.

Every place predicts its next token as ever, also where that token is a hole for the places after it. It costs one
vector and no time, and sampling is that of any autoregressive model. It is meant to make more use of what is there.
Source: Zhuang et al., Mask-Enhanced Autoregressive Prediction (arXiv 2502.07490), with holes drawn per row.
"""

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..rng import Rng
from .view import UNSEEN, Objective, View


class Config(Objective):
    """Predict the next token from a context with holes."""

    kind: Literal["meap"] = Field(default="meap", description="Name of this objective, which selects this config.")
    share: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="Share of the tokens behind the prompt that are masked when they are read; 0 masks none, else at "
        "least one token of each row.",
    )
    unseen: ClassVar[bool] = True

    def view(self, tokens_BN: Tensor, rng: Rng) -> View:
        """Everything behind the prompt is asked for; equally many tokens of each row are unseen, never its last."""
        asked_BN = self.asked(tokens_BN)
        places = tokens_BN.shape[1] - self.prompt
        if not self.share or places < 2:
            return View(tokens_BN, tokens_BN, asked_BN.float())
        count = max(1, int(self.share * places))
        holes_BN = rng.uniform(places - 1).argsort(dim=1).argsort(dim=1) < count
        holes_BN = F.pad(holes_BN, (self.prompt, 1)).to(tokens_BN.device)
        return View(tokens_BN.masked_fill(holes_BN, UNSEEN), tokens_BN, asked_BN.float())
