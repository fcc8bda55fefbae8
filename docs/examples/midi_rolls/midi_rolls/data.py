"""Synthetic rolls to train on: four chords in turn, struck or broken, in major or in minor, as the index says."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from nextok_mm.contracts import Batch
from nextok_mm.data import Source, SourceConfig
from nextok_mm.rng import mix

DEGREES = {
    "major": ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)),
    "minor": ((0, 3, 7), (5, 8, 12), (7, 10, 14), (0, 3, 7)),
}
NAMES = ("major chords", "minor chords", "major arpeggios", "minor arpeggios")


class Config(SourceConfig):
    """rows: how many there are; steps: of each, a multiple of 16."""

    kind: Literal["rolls"] = "rolls"
    rows: int = Field(default=4096, gt=0, le=1 << 24)
    steps: int = Field(default=64, gt=0, le=1 << 12, multiple_of=16)

    def open(self) -> "Synthetic":
        """The source; nothing is read."""
        return Synthetic(self)


class Synthetic(Source):
    """Rolls `images` [B, 128, T] and `labels` [B]."""

    class_names = NAMES

    def __init__(self, config: Config):
        self.config = config

    def __len__(self) -> int:
        return self.config.rows

    def column(self, name: str) -> list[torch.Tensor]:
        """Labels are in turn."""
        return [torch.arange(len(self)) % len(NAMES)] if name == "labels" else []

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """The rows; nothing is left to chance."""
        rolls = torch.stack([self._row(index) for index in indices])
        return {"images": rolls, "labels": torch.tensor([index % len(NAMES) for index in indices])}

    def _row(self, index: int) -> torch.Tensor:
        steps, label = self.config.steps, index % len(NAMES)
        roll, draw = torch.zeros(128, steps), mix(index, "roll")
        root, velocity = 48 + draw % 12, (80 + draw // 12 % 40) / 127
        chords, length = DEGREES["minor" if label % 2 else "major"], steps // 4
        for place, chord in enumerate(chords):
            for step in range(place * length, (place + 1) * length):
                for note in chord if label < 2 else (chord[step // 2 % 3],):
                    roll[root + note, step] = velocity
        return roll
