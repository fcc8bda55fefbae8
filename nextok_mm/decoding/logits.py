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
    shares = filtered(logits.float(), settings).softmax(-1)
    below = shares.double().cumsum(-1)
    at = rng.uniform(*logits.shape[1:-1]).to(below) * below[..., -1]
    return torch.searchsorted(below, at[..., None], right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


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
    """The fewest likeliest whose shares add up to p or more; always the likeliest."""
    ordered, places = logits.sort(descending=True, stable=True)
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    return logits.masked_fill((before >= p).scatter(-1, places, before >= p), OUT)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Those at least p times as likely as the likeliest."""
    shares = logits.softmax(-1)
    return logits.masked_fill(shares < p * shares.amax(-1, keepdim=True), OUT)
