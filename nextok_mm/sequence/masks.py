"""Who sees whom, from one rule: an entity sees itself and what came before it, within its document.

A mask is a list of runs: the queries q0..q1 see some intervals of keys. Every pattern of this package is of that form:
causal (entities of one token), block-causal, a two-way prefix (it is the first entity), packed documents, two-way (one
entity), a window on the last tokens, and clean context for noisy entities. Each attention backend reads the same runs
in the way it likes best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Run(NamedTuple):
    """Queries start..stop see the keys of each interval."""

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Mask:
    """Which keys each query sees; make one with the functions below the rule."""

    runs: tuple[Run, ...]

    @cached_property
    def queries(self) -> int:
        """Number of queries."""
        return self.runs[-1].stop

    @cached_property
    def keys(self) -> int:
        """Number of keys: one past the last that anybody sees."""
        return max(stop for run in self.runs for _, stop in run.keys)

    @cached_property
    def full(self) -> bool:
        """Every query sees every key."""
        return len(self.runs) == 1 and self.runs[0].keys == ((0, self.keys),)

    @cached_property
    def causal(self) -> bool:
        """Plain causal over single tokens, no cache in front."""
        return self.queries == self.keys and all(
            run.stop == run.start + 1 and run.keys == ((0, run.stop),) for run in self.runs
        )

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """bool [queries, keys], True = may look."""
        seen = torch.zeros(self.queries, self.keys, dtype=torch.bool)
        for run in self.runs:
            for start, stop in run.keys:
                seen[run.start : run.stop, start:stop] = True
        return seen.to(device)

    def intervals(self, device: torch.device | str = "cpu") -> Tensor:
        """int64 [queries, M, 2]: the key intervals of each query, padded with empty ones; FlexAttention reads these."""
        most = max(len(run.keys) for run in self.runs)
        rows = [
            [*run.keys, *[(0, 0)] * (most - len(run.keys))] for run in self.runs for _ in range(run.start, run.stop)
        ]
        return torch.tensor(rows, device=device)

    def last(self, queries: int) -> "Mask":
        """The rule for the last `queries` tokens alone, whose keys all lie in a cache: used by cached decoding."""
        first = self.queries - queries
        kept = (Run(max(run.start - first, 0), run.stop - first, run.keys) for run in self.runs if run.stop > first)
        return Mask(tuple(kept))


def block_causal(sizes: Sequence[int]) -> Mask:
    """Entities of these sizes; each sees itself and the earlier ones. A two-way prefix is a first entity."""
    return documents([sizes])


def causal(tokens: int) -> Mask:
    """Every token sees itself and the earlier ones."""
    return documents([[1] * tokens])


def continued(cached: int, sizes: Sequence[int], window: int | None = None) -> Mask:
    """Entities of these sizes behind `cached` tokens that all of them see, block-causal among themselves.

    window: an entity sees no key further back than so many from its own last token.
    """
    runs: list[Run] = []
    for size, stop in zip(sizes, accumulate(sizes)):
        first = 0 if window is None else max(0, cached + stop - window)
        runs.append(Run(stop - size, stop, ((first, cached + stop),)))
    return Mask(tuple(runs))


def two_way(tokens: int) -> Mask:
    """Everybody sees everybody."""
    return documents([[tokens]])


@lru_cache(maxsize=256)
def _documents(documents: tuple[tuple[int, ...], ...]) -> Mask:
    runs, first = list[Run](), 0
    for sizes in documents:
        stops = [first + stop for stop in accumulate(sizes)]
        runs += [Run(stop - size, stop, ((first, stop),)) for size, stop in zip(sizes, stops)]
        first = stops[-1]
    return Mask(tuple(runs))


def documents(packed: Sequence[Sequence[int]]) -> Mask:
    """Several documents packed in one row, each block-causal over its own entities and blind to the others."""
    return _documents(tuple(tuple(sizes) for sizes in packed))


@lru_cache(maxsize=64)
def _clean_context(sizes: tuple[int, ...]) -> Mask:
    total = sum(sizes)
    stops = list(accumulate(sizes))
    clean = [Run(stop - size, stop, ((0, stop),)) for size, stop in zip(sizes, stops)]
    noisy = [
        Run(
            total + stop - size,
            total + stop,
            (((0, stop - size),) if stop > size else ()) + ((total + stop - size, total + stop),),
        )
        for size, stop in zip(sizes, stops)
    ]
    return Mask(tuple(clean + noisy))


def clean_context(sizes: Sequence[int]) -> Mask:
    """[clean entities, noisy entities]: a noisy one sees itself and the CLEAN earlier ones (teacher forcing)."""
    return _clean_context(tuple(sizes))
