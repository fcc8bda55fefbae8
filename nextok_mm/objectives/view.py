"""A view: what a model is shown of a batch of tokens, what it is asked for, where, how much it counts, who sees whom.

Objectives of models of tokens differ in nothing else. A model reads a view and predicts; its head compares.

Shapes: B batch, N tokens of a row.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..config import Config
from ..rng import Rng
from ..sequence.masks import Mask, block_causal
from ..sequence.masks import two_way as everybody

UNSEEN = -1
"""What `View.read_BN` holds where a token isn't shown. A model embeds it as a vector of its own, and no head predicts
it."""


@dataclass(frozen=True)
class View:
    """What a model is shown, and what it is asked for.

    Attributes:
        read_BN: The tokens that are shown; `UNSEEN` where one isn't.
        target_BN: The token that is asked for at each place; any number where the weight is 0.
        weight_BN: How much the prediction of a place counts in its row's loss; 0 asks for nothing.
        two_way: Whether all places see each other; else a place sees those before it, and is predicted from them.
    """

    read_BN: Tensor
    target_BN: Tensor
    weight_BN: Tensor
    two_way: bool = False

    @property
    def ahead(self) -> int:
        """How many places ahead a hidden state predicts: 0 its own place, 1 the next one."""
        return 0 if self.two_way else 1

    def mask(self, prefix: int, places: int) -> Mask:
        """Who sees whom.

        Args:
            prefix: Number of tokens in front that see each other, and that everybody sees.
            places: Number of places of the view behind them.

        Returns:
            The mask of all of them.
        """
        if self.two_way:
            return everybody(prefix + places)
        return block_causal((*([prefix] if prefix else []), *[1] * places))

    def repeated(self, times: int) -> "View":
        """The rows of the view, so many times one below the other, as the two halves of guidance are."""
        read, target, weight = (each.repeat(times, 1) for each in (self.read_BN, self.target_BN, self.weight_BN))
        return View(read, target, weight, self.two_way)


class Objective(Config):
    """What a model is trained to predict: makes the view of a batch. A subclass is one objective, and one file.

    In a config it is its kind alone (`objective: masked`), or its kind and fields (`objective: {kind: meap, share:
    0.1}`).
    """

    kind: str = Field(description="Name of the objective, which selects the other fields.")
    prompt: int = Field(
        default=0,
        ge=0,
        le=1 << 20,
        description="Number of first tokens of a row that are always shown and never asked for.",
    )
    unseen: ClassVar[bool] = False
    """Whether tokens may be unseen, for which a model needs a vector."""
    two_way: ClassVar[bool] = False
    """See `View.two_way`."""
    head: ClassVar[str | None] = None
    """The head that it was published with, where a model has that one too; None: the one that the config says."""

    def view(self, tokens_BN: Tensor, rng: Rng) -> View:
        """Make the view of a training batch.

        Args:
            tokens_BN: The tokens; a negative number is no token, is shown to nobody who is asked for anything, and is
                not asked for.
            rng: Random numbers, one stream per row: what is drawn for a row depends on nothing but its stream.

        Returns:
            The view.
        """
        raise NotImplementedError

    def asked(self, tokens_BN: Tensor) -> Tensor:
        """bool [B, N]: the tokens that may be asked for, which are all behind the prompt."""
        places = torch.arange(tokens_BN.shape[1], device=tokens_BN.device)
        return (tokens_BN >= 0) & (places >= self.prompt)
