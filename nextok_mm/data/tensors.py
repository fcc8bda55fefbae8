"""Rows that are tensors already: one safetensors file with any of `images`, `tokens`, `labels`, `weights`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..checkpoint import read_weights
from ..contracts import Batch
from .source import Source, SourceConfig, flipped

_RANKS = {"images": (4,), "tokens": (2, 3), "labels": (1,), "weights": (1,)}


class Config(SourceConfig):
    """A safetensors file: images [n, C, H, W] (floats in [0, 1] or bytes), tokens [n, N, C] or [n, N], labels [n].

    There may be weights [n], which say how much each row counts in the loss. They are not normalized: a mean of 1
    leaves the learning rate what it is.
    """

    kind: Literal["tensors"] = Field(
        default="tensors", description="Name of this kind of source, which selects this config."
    )
    path: str = Field(description="The .safetensors file to read.")
    flip: bool = Field(default=False, description="Mirror a random half of the pictures left to right in training.")

    def open(self) -> "Tensors":
        """The file's tensors, in memory."""
        return Tensors(self)


class Tensors(Source):
    """The rows of one file."""

    makes_tokens = True

    def __init__(self, config: Config):
        if Path(config.path).suffix != ".safetensors":
            raise ValueError(f"data.path: got {config.path!r}, accepted: a .safetensors file")
        self.flip, self.columns = config.flip, read_weights(config.path)
        self.draws = frozenset({"flip"} if config.flip else ())
        _check(config, self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> Iterable[Tensor]:
        """A column as it is in the file."""
        return [self.columns[name]] if name in self.columns else []

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """The columns that the file has; images as floats in [0, 1], labels and codes as int64."""
        rows = torch.tensor(indices)
        batch = {name: _numbers(column.index_select(0, rows)) for name, column in self.columns.items()}
        if "images" in batch and self.columns["images"].dtype == torch.uint8:
            batch["images"] = batch["images"].float() / 255
        if self.flip:
            batch["images"] = flipped(batch["images"], seeds)
        return batch


def _numbers(column: Tensor) -> Tensor:
    return column.float() if column.is_floating_point() else column.long()


def _check(config: Config, columns: dict[str, Tensor]) -> None:
    where, lengths = f"data.path {config.path}", {len(column) if column.ndim else 0 for column in columns.values()}
    if not columns or not columns.keys() <= _RANKS.keys():
        raise ValueError(f"{where}: holds {sorted(columns)}, accepted: {', '.join(_RANKS)}")
    for name, column in columns.items():
        if column.ndim not in _RANKS[name]:
            raise ValueError(f"{where}: {name} have shape {tuple(column.shape)}, accepted ranks: {_RANKS[name]}")
        if column.is_floating_point() and not torch.isfinite(column).all():
            raise ValueError(f"{where}: {name} are not finite")
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"{where}: its tensors have {sorted(lengths)} rows, accepted: one number above 0")
    for name in ("labels", "tokens"):
        column = columns.get(name)
        whole = column is not None and (name == "labels" or column.ndim == 2)
        if column is not None and (column.is_floating_point() == whole or column.dtype == torch.bool):
            accepted = "whole numbers" if whole else "floating point, as latents of rank 3 are"
            raise ValueError(f"{where}: {name} {tuple(column.shape)} are {column.dtype}, accepted: {accepted}")
    weights = columns.get("weights")
    if weights is not None and (not weights.is_floating_point() or weights.amin() < 0 or not weights.any()):
        got = f"{weights.dtype} of {float(weights.amin()):g} and more"
        raise ValueError(f"{where}: weights are {got}, accepted: floating point, from 0 on, not all of them 0")
    if config.flip and "images" not in columns:
        raise ValueError(f"{where}: data.flip mirrors images, and there are none (accepted: flip=false)")
    if "images" in columns and columns["images"].is_floating_point():
        low, high = columns["images"].amin().item(), columns["images"].amax().item()
        if low < 0 or high > 1:
            raise ValueError(f"{where}: images lie in [{low:g}, {high:g}], accepted: [0, 1]")
