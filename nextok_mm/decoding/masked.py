"""Masked decoding: all masked codes are guessed in every pass, and some of the guesses stay.

The surest ones, as published; or, for a model that was trained on any share of masked codes, those whose turn it is in
some order: left to right, right to left, at random.

Shapes: B batch, N positions, G groups.
Source: Chang et al., MaskGIT (arXiv 2202.04200), section 3.2.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..rng import Rng
from .logits import Drawing, draw

Pace = Literal["cosine", "even"]


class Filling(Drawing):
    """How to fill in masked codes: the settings of `Drawing`, and which guesses stay when."""

    passes: int = Field(
        default=10, ge=1, le=1000, description="Number of passes in which a masked model fills in the codes."
    )
    order: Literal["confidence", "sequence", "reverse", "random"] = Field(
        default="confidence",
        description="Which guesses of a masked model stay: the surest (confidence), the first or the last ones of the "
        "sequence (sequence, reverse), or any (random).",
    )
    pace: Pace = Field(
        default="cosine",
        description="How many guesses of a masked model stay in a pass: few at first and many in the end (cosine), "
        "or equally many (even); as many even passes as there are codes fill in one after another.",
    )
    noise: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Scale of the Gumbel noise by which a masked model chooses the surest codes; it fades over the "
        "passes.",
    )


def fill(
    logits_BNGV: Tensor, codes_BNG: Tensor, known_BN: Tensor, settings: Filling, finished: int, total: int, rng: Rng
) -> tuple[Tensor, Tensor]:
    """One pass: guess every masked code, and let some of the guesses stay.

    Args:
        logits_BNGV: What the model predicts.
        codes_BNG: The codes as far as they are known.
        known_BN: Which those are.
        settings: How to draw, and what stays.
        finished: Number of passes before this one.
        total: Number of passes in all.
        rng: Random numbers, one stream per row.

    Returns:
        The codes and which are known after the pass: at least one more where any was masked, all after the last.
    """
    masked_BN = ~known_BN
    guess_BNG = draw(logits_BNGV, settings, rng)
    fading = settings.noise * (1 - (finished + 1) / total)
    if settings.order == "confidence":
        sure_BN = confidence(logits_BNGV, guess_BNG, fading, rng)
    elif settings.order == "random":
        sure_BN = rng.uniform(masked_BN.shape[1]).to(masked_BN.device)
    else:
        places = torch.arange(masked_BN.shape[1], device=masked_BN.device).expand_as(masked_BN).float()
        sure_BN = places if settings.order == "reverse" else -places
    finished, left_B = finished + 1, masked_BN.sum(1)
    wanted = masked_after(finished, total, masked_BN.shape[1], settings.pace)
    # Every pass but the last finds at least one code, and leaves at least one to the next where there are any.
    count_B = left_B.sub(1).clamp(min=0, max=max(wanted, 1)) * (finished < total)
    still_BN = least_sure(sure_BN, masked_BN, count_B)
    new_BN1 = (masked_BN & ~still_BN)[..., None]
    return torch.where(new_BN1, guess_BNG, codes_BNG), ~still_BN


def masked_after(done: int, passes: int, places: int, pace: Pace = "cosine") -> int:
    """How many of so many masked codes are still masked after `done` of the passes, 0 at the end."""
    if done >= passes or pace == "even":
        return places * max(passes - done, 0) // passes
    return math.floor(places * math.cos(math.pi / 2 * done / passes))


def confidence(logits_BNGV: Tensor, codes_BNG: Tensor, noise: float, rng: Rng) -> Tensor:
    """How sure each guess is, [B, N]: its log share and Gumbel noise of this size, the mean over the groups."""
    shares = logits_BNGV.float().log_softmax(-1).gather(-1, codes_BNG[..., None]).squeeze(-1)
    uniform = rng.uniform(*codes_BNG.shape[1:], like=shares).clamp(1e-20, 1 - 1e-7)
    return (shares - noise * (-uniform.log()).log()).mean(-1)


def least_sure(confidence_BN: Tensor, masked_BN: Tensor, count_B: Tensor) -> Tensor:
    """bool [B, N]: the `count` least sure of the masked positions of each row."""
    rank = confidence_BN.masked_fill(~masked_BN, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count_B[:, None]) & masked_BN
