"""Classifier-free guidance: how strong, for which entity and at which times. Of velocities and of logits alike.

v = v_without + weight * (v_with - v_without). A weight of one is no guidance: callers skip the unconditional branch.
Sources: arXiv 2207.12598; linear growth over entities as in xAR's sampler, the other schedules as in ELM's (arXiv
2410.16257); intervals from arXiv 2404.07724.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor

from ..config import Config


def ordered(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval, if it is one: 0 <= low <= high <= 1."""
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError("accepted: [low, high] with 0 <= low <= high <= 1")
    return interval


Schedule = Literal["constant", "linear", "cosine", "log", "square", "square_root"]
GROWTH: dict[str, Callable[[float], float]] = {  # progress 0 .. 1 -> share of (weight - 1)
    "constant": lambda _: 1.0,
    "linear": lambda r: r,
    "cosine": lambda r: math.sin(r * math.pi / 2),
    "log": lambda r: math.log1p(r * (math.e - 1)),
    "square": lambda r: r * r,
    "square_root": math.sqrt,
}


class Guidance(Config):
    """How strong guidance is, for which entity and at which times."""

    weight: float = Field(1.0, ge=0, le=100, description="Weight of guidance; 1 turns it off.")
    schedule: Schedule = Field(
        default="constant",
        description="How the weight grows from 1 over the entities; constant has the full weight everywhere.",
    )
    interval: tuple[float, float] = Field(
        default=(0.0, 1.0),
        description="Guide only at times t of the flow with low <= t <= high; time 0 is data, time 1 is noise.",
    )

    _ordered = field_validator("interval")(ordered)

    def at(self, t: float, entity: int = 0, entities: int = 1) -> float:
        """The weight at time t of one of the entities; 1.0 where the unconditional branch isn't needed."""
        if not self.interval[0] <= t <= self.interval[1]:
            return 1.0
        return self.grown(entity / (entities - 1) if entities > 1 else 1.0)

    def ever(self, times: Iterable[float]) -> bool:
        """Whether the unconditional branch is needed at one of these times, for whichever entity.

        Every schedule grows until it reaches the full weight at the last entity: that one is guided if any is, and
        while it is still to come, an earlier one doesn't end the need.
        """
        return any(self.at(t) != 1.0 for t in times)

    def grown(self, progress: float) -> float:
        """The weight where a share of the work, 0 .. 1, is done."""
        return 1.0 + (self.weight - 1.0) * GROWTH[self.schedule](progress)


def guide(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """unconditional + weight * (conditional - unconditional)."""
    return unconditional + weight * (conditional - unconditional)


def guide_halves(prediction_R: Tensor, weight: float) -> Tensor:
    """Predictions of B rows with their condition, then of the same rows without -> the guided ones of the B rows."""
    conditional, unconditional = prediction_R.chunk(2)
    return guide(conditional, unconditional, weight)


class Projected:
    """Adaptive projected guidance: CFG without the part that only makes the prediction longer.

    Call it once a step. weight as in CFG; momentum: of the difference (negative: the past is pushed away from); norm:
    longest difference of a sample; eta: how much of the part parallel to the prediction stays.
    Source: Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales (arXiv 2410.02416).
    """

    def __init__(self, weight: float, momentum: float = -0.5, norm: float = 2.5, eta: float = 0.0):
        self.weight, self.momentum, self.norm, self.eta = weight, momentum, norm, eta
        self.running: Tensor | float = 0.0

    def __call__(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """[B, ...] twice -> the guided prediction [B, ...]; samples are measured over all but their first axis."""
        self.running = (conditional - unconditional) + self.momentum * self.running
        axes = tuple(range(1, conditional.dim()))
        length = self.running.square().sum(axes, keepdim=True).sqrt()
        change = (self.running * (self.norm / length.clamp_min(self.norm))).float()
        along = conditional.float()
        along = along / along.square().sum(axes, keepdim=True).sqrt().clamp_min(1e-12)
        across = change
        for _ in range(2):  # rounding leaves something of the parallel part; float64, which wouldn't, isn't everywhere
            across = across - (across * along).sum(axes, keepdim=True) * along
        change = across + self.eta * (change - across)
        return conditional + (self.weight - 1) * change.to(conditional)
