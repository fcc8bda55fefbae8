"""Randomness that doesn't depend on the batch: one independent stream per row.

A sample drawn with seed 7 is the same picture alone, in a batch of 64, or on the second of two processes; a training
step over 32 rows draws the same noise on one device as on two. That is only so when each row has its own generator, so
models take an `Rng` and never touch the global one. And a row that needs no draw where its neighbours do must not draw
along (`Rng.only`), or its next number would be another one than alone.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class Rng:
    """B independent streams. Draws happen on the CPU (the same numbers on every device) and are moved afterwards."""

    def __init__(self, seeds: Sequence[int]):
        # torch's CPU generator keeps only the low 32 bits of a seed: mix first, so that neighbours don't collide.
        self.rows = [torch.Generator().manual_seed(mix(seed)) for seed in seeds]
        self.drawing = [True] * len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, rows: Sequence[int]) -> "Rng":
        """The streams of some rows alone: what is drawn from them moves these on, and no other."""
        some = Rng(())
        some.rows, some.drawing = ([each[row] for row in rows] for each in (self.rows, self.drawing))
        return some

    def state(self) -> Tensor:
        """Where each stream stands, uint8 [B, bytes]; `of_state` goes on from there."""
        return (
            torch.stack([row.get_state() for row in self.rows]) if self.rows else torch.empty(0, 0, dtype=torch.uint8)
        )

    @classmethod
    def of_state(cls, state: Tensor) -> "Rng":
        """The streams that stood there; RuntimeError where that is no state."""
        rng = cls([0] * len(state))
        for row, place in zip(rng.rows, state.cpu()):
            row.set_state(place.clone())  # torch reads from the storage's start
        return rng

    def only(self, drawing: Tensor | Iterable[bool]) -> "Rng":
        """The same streams, of which only the rows where `drawing` [B] holds move on; the others' draws are zeros."""
        some = Rng(())
        some.rows, some.drawing = self.rows, drawing.tolist() if isinstance(drawing, Tensor) else list(drawing)
        assert len(some.drawing) == len(some.rows), (len(some.drawing), len(some.rows))
        return some

    def normal(self, *shape: int, like: Tensor | None = None) -> Tensor:
        """[B, *shape] standard normal numbers in fp32, on the device and in the dtype of `like` where it is given."""
        return self._stack(shape, lambda row: torch.randn(shape, generator=row), like)

    def uniform(self, *shape: int, like: Tensor | None = None) -> Tensor:
        """[B, *shape] numbers uniform in [0, 1)."""
        return self._stack(shape, lambda row: torch.rand(shape, generator=row), like)

    def integers(self, high: int, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """[B, *shape] int64 numbers uniform in 0 .. high-1."""
        like = torch.empty(0, dtype=torch.long, device=device)
        return self._stack(shape, lambda row: torch.randint(high, shape, generator=row), like)

    def _stack(self, shape: tuple[int, ...], draw: Callable[[torch.Generator], Tensor], like: Tensor | None) -> Tensor:
        each = zip(self.rows, self.drawing)
        drawn = torch.stack([draw(row) if moves else torch.zeros(shape) for row, moves in each])
        return drawn if like is None else drawn.to(device=like.device, dtype=like.dtype)


def mix(*parts: int | str) -> int:
    """A seed in 0 .. 2**63-1 that depends on all the parts: mix(run seed, epoch, sample index)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
