"""Where each layer of a causal model looks: mean distance, share on the neighbours, share on the prefix.

Shapes: B batch, H heads, Q queries, K keys, A head dim, P tokens of the prefix, N codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..contracts import Batch
from ..rng import Rng
from ..sequence.attention import BACKENDS


@contextmanager
def weights(model: Any) -> Iterator[list[Tensor]]:
    """Inside it, attention runs plainly and leaves its weights [H, Q, K] (the mean over a batch), layer by layer."""
    kept: list[Tensor] = []

    def plain(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float | None, dropout: float) -> Tensor:
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        shares = scores.masked_fill(~mask.dense(q.device), float("-inf")).softmax(-1)
        kept.append(shares.float().mean(0))
        return shares @ v

    before = model.backbone.backend
    BACKENDS["recorded"] = plain
    model.backbone.backend = "recorded"
    try:
        yield kept
    finally:
        model.backbone.backend = before
        del BACKENDS["recorded"]


def distances(model: Any) -> Tensor:
    """[N, N] how far code i is from code j on the grid (Chebyshev)."""
    places = model.layout.positions
    return (places[:, None] - places[None]).abs().amax(-1)


@torch.no_grad()
def by_layer(model: Any, batch: Batch) -> list[dict[str, float]]:
    """For every layer, over the codes that have a code before them: the mean distance of what is looked at, and the
    shares on codes next to it, on itself, and on the prefix."""
    with weights(model) as kept:
        model.predict(batch, Rng(range(len(batch["tokens"]))))
    first, far = model.prefix_tokens, distances(model)[:-1, :-1]
    rows = []
    for shares_HQK in kept:
        codes = shares_HQK[:, first + 1 :, first:]  # the first code has nothing before it
        among = codes / codes.sum(-1, keepdim=True).clamp_min(1e-9)
        rows.append(
            {
                "distance": float((among * far[1:]).sum(-1).mean()),
                "neighbours": float((codes * (far[1:] == 1)).sum(-1).mean()),
                "itself": float((codes * (far[1:] == 0)).sum(-1).mean()),
                "prefix": float(shares_HQK[:, first + 1 :, :first].sum(-1).mean()),
            }
        )
    return rows
