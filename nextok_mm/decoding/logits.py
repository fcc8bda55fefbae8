"""Choosing a code from logits: temperature, top-k, top-p, min-p, and a draw that doesn't depend on the batch.

Every filter is a function from logits to logits with -inf where a code is out. One uniform number a row and choice,
from the row's own stream, goes through the inverse of the distribution function: a sample is the same in any batch.

Shapes: logits [B, ..., V] of B rows, V codes; codes [B, ...].
Sources: nucleus sampling (arXiv 1904.09751), min-p (arXiv 2407.01082).
"""

import torch
from pydantic import Field
from torch import Tensor

from ..config import Config
from ..rng import Rng

OUT = float("-inf")
MIN_BUCKETED, BUCKETS = 2048, 4096
CHUNK = 1 << 16
"""Logits that a CPU filters at a time: what lies between its passes then stays in its cache."""


class Drawing(Config):
    """How to draw a code. temperature: 0 takes the likeliest (greedy); top_k: of so many likeliest, 0 of all; top_p: of
    the likeliest that make up this share; min_p: of those at least this share as likely as the likeliest."""

    temperature: float = Field(default=1.0, ge=0, le=100)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, lt=1)

    @property
    def greedy(self) -> bool:
        """Whether no chance is involved."""
        return self.temperature == 0 or self.top_k == 1


def draw(logits: Tensor, settings: Drawing, rng: Rng) -> Tensor:
    """Codes [B, ...] from logits [B, ..., V], one for each row and place; `rng` has a stream for each of the B rows."""
    if settings.greedy:
        return logits.argmax(-1)
    chance = rng.uniform(*logits.shape[1:-1]).to(logits.device).flatten()
    together = max(1, CHUNK // logits.shape[-1]) if logits.device.type == "cpu" else len(chance)
    pairs = zip(logits.flatten(0, -2).split(together), chance.split(together))
    return torch.cat([_draw(rows, settings, at) for rows, at in pairs]).view(logits.shape[:-1])


def _draw(logits_MV: Tensor, settings: Drawing, chance_M: Tensor) -> Tensor:
    """A code [M] for each row of logits, from a uniform number each: the inverse of the distribution function."""
    shares = filtered(logits_MV.float(), settings).softmax(-1)
    below = shares.double().cumsum(-1)
    at = chance_M.to(below) * below[..., -1]
    return torch.searchsorted(below, at[..., None], right=True).squeeze(-1).clamp(max=logits_MV.shape[-1] - 1)


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
    return logits.masked_fill(logits < least(logits, torch.ones_like(logits), k), OUT)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest likeliest whose shares add up to p or more, and what ties with the last of them."""
    return logits.masked_fill(logits < least(logits, logits.softmax(-1), p), OUT)


def least(logits: Tensor, weights: Tensor, budget: float) -> Tensor:
    """The last logit [..., 1] that is taken where the likeliest are, until their weights add up to the budget.

    Sorting a large vocabulary is most of a small model's step on a CPU: there, rows are searched through buckets.
    """
    if logits.device.type == "cpu" and logits.shape[-1] >= MIN_BUCKETED:
        rows = zip(logits.flatten(0, -2), weights.flatten(0, -2))
        return torch.stack([_least_bucketed(row, of, budget) for row, of in rows]).view(*logits.shape[:-1], 1)
    ordered, places = logits.sort(descending=True)
    short = (weights.gather(-1, places).cumsum(-1) < budget).sum(-1, keepdim=True)
    return ordered.gather(-1, short.clamp(max=logits.shape[-1] - 1))


def _least_bucketed(logits_V: Tensor, weights_V: Tensor, budget: float) -> Tensor:
    """`least` of one row: equal steps from the largest logit down, and only the step that exceeds the budget sorted."""
    high = logits_V.amax()
    steps = BUCKETS / (high - logits_V.amin()).clamp(1e-6, 64.0)
    bucket = ((high - logits_V) * steps).clamp(max=BUCKETS).long()
    above = torch.bincount(bucket, weights_V, BUCKETS + 1).cumsum(0)
    place = int((above < budget).sum().clamp(max=BUCKETS))
    inside = (bucket == place).nonzero().squeeze(1)
    ordered, order = logits_V[inside].sort(descending=True)
    left = budget - (above[place - 1] if place else 0.0)
    short = (weights_V[inside][order].cumsum(0) < left).sum()
    return ordered[short.clamp(max=len(inside) - 1)] if len(inside) else logits_V.amin()


def min_p(logits: Tensor, p: float) -> Tensor:
    """Those at least p times as likely as the likeliest."""
    shares = logits.softmax(-1)
    return logits.masked_fill(shares < p * shares.amax(-1, keepdim=True), OUT)
