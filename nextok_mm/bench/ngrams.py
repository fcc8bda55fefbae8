"""An n-gram model: interpolated Kneser-Ney (Kneser and Ney, 1995; Chen and Goodman, CMU-CS-98-TR-10-98, section 3).

    p(w | h) = max(c(h w) - D, 0) / c(h) + D N(h) / c(h) p(w | h')

c counts at the highest order; below, how many different tokens were seen before that run. N(h) is the number of
different tokens seen after h, h' is h without its first token, D is n1 / (n1 + 2 n2) of each order (how many runs have
the count 1, and 2). Below the single tokens stands the uniform distribution. Where h was never seen, p(w | h') is all.

A run of tokens is one whole number of 64 bits, so a corpus is counted by sorting. Shapes: M runs, T tokens.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Order:
    """The counts of runs of one length. runs: [M], sorted, and their counts; histories: sorted, with the number of all
    tokens after each, and of different ones."""

    runs: Array
    counts: Array
    histories: Array
    totals: Array
    different: Array
    discount: float


class NGrams:
    """The model of n-grams of the documents that it is given."""

    def __init__(self, documents: Iterable[Sequence[int]], vocabulary: int, order: int = 5, pad: int | None = None):
        """Count.

        Args:
            documents: Their tokens, each from its first to its end.
            vocabulary: How many different tokens there are.
            order: n, the length of the longest runs.
            pad: The token that stands before a document, as often as the longest run needs it; None takes one that no
                document has.

        Raises:
            ValueError: There are no tokens, or the runs don't fit into 63 bits.
        """
        self.vocabulary, self.order = vocabulary, order
        self.pad = vocabulary if pad is None else pad
        self.base = vocabulary + 1
        if order < 1 or self.base**order >= 1 << 63:
            most = int(63 / math.log2(self.base))
            raise ValueError(f"order: got {order}, accepted: 1 to {most} for {vocabulary} different tokens")
        runs = [self._runs(document) for document in documents]
        runs = np.concatenate(runs) if runs else np.empty(0, dtype=np.int64)
        if not len(runs):
            raise ValueError("documents: got no token, accepted: one or more")
        found, counts = np.unique(runs, return_counts=True)
        self.orders: list[Order] = []
        for length in range(order, 0, -1):
            if length < order:  # the count is of different runs, one token longer: who stood before it
                found, counts = np.unique(found % self.base**length, return_counts=True)
            self.orders.append(self._order(found, counts))

    def _runs(self, document: Sequence[int]) -> Array:
        """The run that ends at each token of a document: [T]."""
        tokens = np.asarray(document, dtype=np.int64)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
            got = f"{tokens.min()} to {tokens.max()}"
            raise ValueError(f"documents: got tokens {got}, accepted: 0 to {self.vocabulary - 1}")
        padded = np.concatenate([np.full(self.order - 1, self.pad, dtype=np.int64), tokens])
        runs = np.zeros(len(tokens), dtype=np.int64)
        for place in range(self.order):
            runs = runs * self.base + padded[place : place + len(tokens)]
        return runs

    def _order(self, runs: Array, counts: Array) -> Order:
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        # Where every run or none is seen once the estimate is 1 or 0, and an unseen token could get nothing.
        discount = min(max(once / max(1, once + 2 * twice), 0.05), 0.95)
        histories, starts, different = np.unique(runs // self.base, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, starts)
        return Order(runs, counts, histories, totals, different, discount)

    def chances(self, document: Sequence[int]) -> Array:
        """The chance of each token after those before it: [T], float64."""
        runs = self._runs(document)
        chance = np.full(len(runs), 1.0 / self.vocabulary)
        for length, order in zip(range(1, self.order + 1), reversed(self.orders)):
            own = runs % self.base**length
            counts, _ = _look_up(own, order.runs, order.counts)
            totals, seen = _look_up(own // self.base, order.histories, order.totals)
            different, _ = _look_up(own // self.base, order.histories, order.different)
            totals = np.maximum(totals, 1)
            better = (np.maximum(counts - order.discount, 0) + order.discount * different * chance) / totals
            chance = np.where(seen, better, chance)
        return chance

    def bits(self, documents: Iterable[Sequence[int]]) -> float:
        """Bits of all tokens of documents together."""
        return float(sum(-np.log2(self.chances(document)).sum() for document in documents))


def _look_up(wanted: Array, keys: Array, values: Array) -> tuple[Array, Array]:
    """The values of sorted keys, 0 where there is none; and whether there is one."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    there = keys[places] == wanted
    return np.where(there, values[places], 0), there
