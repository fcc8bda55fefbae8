"""Choosing a code from logits: temperature, top-k, top-p, min-p, and a draw that doesn't depend on the batch.

Every filter is a function from logits to logits with -inf where a code is out. One uniform number a row and choice,
from the row's own stream, goes through the inverse of the distribution function: a sample is the same in any batch.
That function is summed in whole numbers: exactly, in any order, and on devices that have no float64.

Shapes: logits [B, ..., V] of B rows, V codes; codes [B, ...].
Sources: nucleus sampling (arXiv 1904.09751), min-p (arXiv 2407.01082).
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from ..config import Config
from ..rng import Rng

OUT = float("-inf")
COLD = 1e-6
"""A temperature below which logits would leave fp32, and the likeliest code is all that is left anyway."""
LARGE, BUCKETS = 2048, 4096
"""Codes from which on a row is searched rather than sorted on a CPU, and into how many parts."""
WHOLE, CHANCE = 60, 24
"""Bits behind the point of shares as whole numbers (their sum, which is 1, leaves room for a sign), and of a uniform
number in fp32, which has no more."""


class Drawing(Config):
    """How to draw a code from logits; every setting that restricts the choice applies."""

    temperature: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Divisor of the logits: below 1 draws likelier codes, and 0 takes the likeliest (greedy).",
    )
    top_k: int = Field(default=0, ge=0, description="Draw only from this many likeliest codes; 0 draws from all.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw only from the likeliest codes that together have this probability."
    )
    min_p: float = Field(
        default=0.0, ge=0, lt=1, description="Draw only from codes at least this share as likely as the likeliest one."
    )

    @property
    def greedy(self) -> bool:
        """Whether no chance is involved."""
        return self.temperature < COLD or self.top_k == 1


def draw(logits: Tensor, settings: Drawing, rng: Rng) -> Tensor:
    """Codes [B, ...] from logits [B, ..., V], one for each row and place; `rng` has a stream for each of the B rows."""
    if settings.greedy:
        return logits.argmax(-1)
    chance = rng.uniform(*logits.shape[1:-1]).to(logits.device)
    if logits.device.type == "cpu" and logits.shape[-1] >= LARGE:  # row by row, in cache
        rows = zip(logits.flatten(0, -2), chance.flatten())
        codes = [_inverse_of_row(_kept(row.float(), settings), float(at)) for row, at in rows]
        return torch.stack(codes).view(chance.shape)
    return _inverse(filtered(logits.float(), settings).softmax(-1), chance)


def _inverse(shares: Tensor, chance: Tensor) -> Tensor:
    """Codes [...] from shares [..., V] (of a sum up to 1) and a uniform number [...] each."""
    below = (shares * 2.0**WHOLE).long().cumsum(-1)
    whole, part = below[..., -1:] >> CHANCE, below[..., -1:] & (2**CHANCE - 1)
    chance = (chance[..., None] * 2.0**CHANCE).long()
    at = chance * whole + (chance * part >> CHANCE)  # chance times the sum, rounded down
    return torch.searchsorted(below, at, right=True).squeeze(-1).clamp(max=shares.shape[-1] - 1)


def _inverse_of_row(shares_V: Tensor, chance: float) -> Tensor:
    """The same for one row on a CPU, in a third of the operations."""
    below = (shares_V * 2.0**WHOLE).long().cumsum(0)
    at = int(chance * 2**CHANCE) * int(below[-1]) >> CHANCE
    return torch.searchsorted(below, at, right=True).clamp(max=len(below) - 1)


def filtered(logits: Tensor, settings: Drawing) -> Tensor:
    """Logits at this temperature, -inf where a filter leaves a code out: top-k first, then top-p, then min-p."""
    logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        logits = top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = top_p(logits, settings.top_p)
    return min_p(logits, settings.min_p) if settings.min_p else logits


def top_k(logits: Tensor, k: int) -> Tensor:
    """The k likeliest, and what ties with the last of them."""
    least = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < least, OUT)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest likeliest whose shares add up to p or more; always the likeliest. Where the sum comes within fp32's
    rounding of p, one code more or less may stay."""
    ordered, places = logits.sort(descending=True, stable=True)
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    return logits.masked_fill((before >= p).scatter(-1, places, before >= p), OUT)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Those at least p times as likely as the likeliest."""
    shares = logits.softmax(-1)
    return logits.masked_fill(shares < p * shares.amax(-1, keepdim=True), OUT)


def _kept(logits_V: Tensor, settings: Drawing) -> Tensor:
    """Shares [V] of one row, zero where `filtered` leaves a code out (but for ties), in time linear in V.

    Sorting 64,000 codes would be most of a small model's step. Instead they are dealt out to buckets, equal steps from
    the likeliest down; what is kept ends in one of them, and only that one is sorted.
    """
    logits = logits_V if settings.temperature == 1 else logits_V / settings.temperature
    shares, high = logits.softmax(-1), logits.amax()
    steps = BUCKETS / (high - logits.amin()).clamp(1e-6, 64.0)
    buckets = (high - logits).mul_(steps).clamp_(max=BUCKETS).long()
    mass, least = 1.0, logits.new_tensor(OUT)
    if 0 < settings.top_k < len(logits):
        least = _least(logits, buckets, torch.ones_like(logits), settings.top_k)
        mass = float(shares.where(logits >= least, 0).sum())
    if settings.top_p < 1:
        least = least.maximum(_least(logits, buckets, shares, settings.top_p * mass))
    if settings.min_p:
        least = least.maximum(high + math.log(settings.min_p))
    return shares.where(logits >= least, 0)


def _least(logits_V: Tensor, buckets_V: Tensor, weights_V: Tensor, budget: float) -> Tensor:
    """The last logit that is taken where the likeliest are, until their weights make up the budget."""
    above = weights_V.new_zeros(BUCKETS + 1).scatter_add_(0, buckets_V, weights_V).cumsum(0)
    place = min(int((above < budget).sum()), BUCKETS)
    inside = (buckets_V == place).nonzero().squeeze(1)
    if not len(inside):
        return logits_V.amin()
    ordered, order = logits_V[inside].sort(descending=True)
    short = (weights_V[inside][order].cumsum(0) < budget - (above[place - 1] if place else 0)).sum()
    return ordered[short.clamp(max=len(ordered) - 1)]
