"""Mazes and the way through them, as rows of tokens: what a model has to plan ahead for.

A maze is a square lattice of cells, carved by a depth-first walk that turns at random: a tree, so there is exactly one
simple path between two cells. A row is the walls of each cell, the first and the last cell of the path, and the path:

    walls of side ** 2 cells | first cell, last cell | path, without its first cell | end ... end

Walls are the codes 0 to 15 (a bit per side that is open), cells the next side ** 2 codes, the end is the last code. The
first side ** 2 + 2 tokens are the question (`prompt` of an objective). A maze is a function of (seed, split, index).

Shapes: B batch, N tokens of a row.
Source: Nolte et al., Transformers Can Navigate Mazes With Multi-Step Prediction (arXiv 2412.05117), section 4.
"""

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Literal

import torch
from pydantic import Field, model_validator

from ..contracts import Batch
from ..rng import mix
from .source import SourceConfig, TokenRows

WALLS = 16
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Up, right, down, left, as (rows, columns); their bits of a cell's walls are 1, 2, 4, 8."""


class Config(SourceConfig):
    """Mazes and their paths."""

    kind: Literal["mazes"] = Field(
        default="mazes", description="Name of this kind of source, which selects this config."
    )
    split: Literal["train", "test"] = Field(default="train", description="Which mazes: those to train on, or others.")
    side: int = Field(6, ge=2, le=64, description="Cells per side of a maze.")
    rows: int = Field(20_000, ge=1, description="Number of mazes.")
    shortest: int = Field(5, ge=1, description="Number of steps of the shortest path that is taken.")
    longest: int = Field(20, ge=1, description="Number of steps of the longest path, for which a row has room.")
    seed: int = Field(default=0, description="Seed of the mazes.")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if not self.shortest <= self.longest < self.side**2:
            got = f"{self.shortest} to {self.longest}"
            raise ValueError(
                f"longest: got paths of {got} steps, accepted: from shortest up to {self.side**2 - 1}, in a maze of "
                f"side {self.side}"
            )
        return self

    @property
    def prompt(self) -> int:
        """Number of tokens of the question: the walls, the first and the last cell."""
        return self.side**2 + 2

    @property
    def length(self) -> int:
        """N, number of tokens of a row."""
        return self.prompt + self.longest

    @property
    def num_codes(self) -> int:
        """Number of different codes: walls, cells, and the end."""
        return WALLS + self.side**2 + 1

    def open(self) -> "Mazes":
        """The mazes, which are carved when they are asked for."""
        return Mazes(self)


class Mazes(TokenRows):
    """Mazes carved on the fly, some thousands a second."""

    config: Config

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`tokens` [B, N]; nothing is drawn from seeds."""
        return {"tokens": torch.tensor([self._row(index) for index in indices])}

    def _row(self, index: int) -> list[int]:
        config, attempt = self.config, 0
        while True:  # until there is a path that is long enough: a maze of many cells has one at once
            random = Random(mix("mazes", config.seed, config.split, index, attempt))
            doors = carve(config.side, random)
            first = _any(config.side**2, random)
            before, steps = walk(doors, config.side, first)
            ends = [cell for cell, count in steps.items() if config.shortest <= count <= config.longest]
            if ends:
                break
            attempt += 1
        path = [ends[_any(len(ends), random)]]
        while before[path[0]] != first:
            path.insert(0, before[path[0]])
        cells = [WALLS + cell for cell in (first, path[-1], *path)]
        return [*doors, *cells, *[config.num_codes - 1] * (config.length - len(doors) - len(cells))]


def carve(side: int, random: Random) -> list[int]:
    """The open sides of each cell of a random maze, in raster order: a depth-first walk that turns at random."""
    doors, stack = [0] * side**2, [_any(side**2, random)]
    seen = {stack[0]}
    while stack:
        cell = stack[-1]
        ways = [(bit, other) for bit, other in neighbors(cell, side) if other not in seen]
        if not ways:
            stack.pop()
            continue
        bit, other = ways[_any(len(ways), random)]
        doors[cell] |= 1 << bit
        doors[other] |= 1 << (bit + 2) % 4
        seen.add(other)
        stack.append(other)
    return doors


def walk(doors: Sequence[int], side: int, first: int) -> tuple[dict[int, int], dict[int, int]]:
    """Of every cell that can be reached from the first: the cell before it, and the number of steps."""
    before, steps, stack = {}, {first: 0}, [first]
    while stack:
        cell = stack.pop()
        for bit, other in neighbors(cell, side):
            if doors[cell] >> bit & 1 and other not in steps:
                before[other], steps[other] = cell, steps[cell] + 1
                stack.append(other)
    return before, steps


@lru_cache(maxsize=1 << 14)
def neighbors(cell: int, side: int) -> list[tuple[int, int]]:
    """The cells beside a cell, each behind the number of its side."""
    row, column = divmod(cell, side)
    beside = [(bit, row + down, column + right) for bit, (down, right) in enumerate(STEPS)]
    return [(bit, r * side + c) for bit, r, c in beside if 0 <= r < side and 0 <= c < side]


def _any(count: int, random: Random) -> int:
    """A number below `count`, the same for every version of Python."""
    return int(random.random() * count)
