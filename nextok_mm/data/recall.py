"""Pairs to be remembered, as rows of tokens: keys with values, then some of the keys again, whose values are asked for.

    key value key value ... | key value key value ...

No key comes twice among the pairs, and the queries ask for each at most once. Keys are the codes 0 to keys - 1, values
the `values` codes behind them, both drawn anew for every row: nothing can be known but by looking back. A row is a
function of (seed, split, index).

Shapes: B batch, N tokens of a row, P pairs, Q queries.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator

from ..contracts import Batch
from ..rng import Rng, mix
from .source import SourceConfig, TokenRows


class Config(SourceConfig):
    """Pairs of keys and values, and queries for them."""

    kind: Literal["recall"] = Field(
        default="recall", description="Name of this kind of source, which selects this config."
    )
    split: Literal["train", "test"] = Field(default="train", description="Which rows: those to train on, or others.")
    pairs: int = Field(16, ge=1, le=1 << 12, description="Number of pairs that are shown.")
    queries: int = Field(8, ge=1, le=1 << 12, description="Number of keys that are asked for, at most all of them.")
    keys: int = Field(64, ge=1, le=1 << 16, description="Number of different keys, at least one per pair.")
    values: int = Field(64, ge=1, le=1 << 16, description="Number of different values.")
    rows: int = Field(100_000, ge=1, description="Number of rows.")
    seed: int = Field(default=0, description="Seed of the rows.")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if not self.queries <= self.pairs <= self.keys:
            got = f"{self.queries} queries, {self.pairs} pairs, {self.keys} keys"
            raise ValueError(f"pairs: got {got}, accepted: queries up to pairs, pairs up to keys")
        return self

    @property
    def length(self) -> int:
        """N, number of tokens of a row."""
        return 2 * (self.pairs + self.queries)

    @property
    def num_codes(self) -> int:
        """Number of different codes."""
        return self.keys + self.values

    def open(self) -> "Recall":
        """The rows, which are made when they are asked for."""
        return Recall(self)


class Recall(TokenRows):
    """Rows made on the fly."""

    config: Config

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`tokens` [B, N]; nothing is drawn from seeds."""
        config = self.config
        rng = Rng([mix("recall", config.seed, config.split, index) for index in indices])
        keys_BP = rng.uniform(config.keys).argsort(dim=1)[:, : config.pairs]
        values_BP = config.keys + rng.integers(config.values, config.pairs)
        asked_BQ = rng.uniform(config.pairs).argsort(dim=1)[:, : config.queries]
        pairs_BP2 = torch.stack((keys_BP, values_BP), dim=2)
        asked_BQ2 = pairs_BP2.gather(1, asked_BQ[..., None].expand(-1, -1, 2))
        return {"tokens": torch.cat((pairs_BP2, asked_BQ2), dim=1).flatten(1)}
