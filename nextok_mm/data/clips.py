"""A folder of video files: every subfolder is a class, or none is. PyAV decodes them, every file is distrusted.

A clip is so many frames of a file, `fps` a second, from its beginning or from a random moment, scaled so that they
cover the wanted size, and cropped to its middle. Which files and classes there are: see image_folder.scan.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ..contracts import Batch
from ..media import clips as video
from ..rng import Rng, mix
from .image_folder import scan
from .source import Source, SourceConfig, flipped


class Config(SourceConfig):
    """Clips of a folder; `image_folder.scan` says which subfolders are classes."""

    kind: Literal["clips"] = Field(
        default="clips", description="Name of this kind of source, which selects this config."
    )
    path: str = Field(description="Folder of the video files.")
    size: tuple[int, int, int] = Field(description="Frames, rows and columns that clips are brought to.")
    channels: Literal[1, 3] = Field(default=3, description="Number of channels of a frame: 1 is grey, 3 is color.")
    fps: float | None = Field(
        None, gt=0, le=1000, description="Frame rate of a clip (frames per second); null takes every frame of the file."
    )
    start: Literal["beginning", "random"] = Field(
        default="beginning",
        description="Where in its file a clip starts in training: at the beginning, or at a random moment.",
    )
    flip: bool = Field(default=False, description="Mirror a random half of the clips left to right in training.")

    @field_validator("size")
    @classmethod
    def _bounded(cls, size: tuple[int, int, int]) -> tuple[int, int, int]:
        if not 0 < size[0] <= 10_000 or not all(0 < side <= 4096 for side in size[1:]):
            raise ValueError("1 .. 10000 frames and sides of 1 .. 4096 are accepted")
        return size

    def open(self) -> "Clips":
        """The list of files; none is opened yet."""
        return Clips(self)


class Clips(Source):
    """The video files in the order of their paths."""

    def __init__(self, config: Config):
        self.config = config
        drawn = {"flip": config.flip, "start": config.start == "random"}
        self.draws = frozenset(name for name, on in drawn.items() if on)
        self.paths, self.labels, self.class_names = scan(Path(config.path).expanduser(), video.INPUTS, "clip")

    def __len__(self) -> int:
        return len(self.paths)

    def column(self, name: str) -> Iterable[Tensor]:
        """The labels."""
        return [self.labels] if name == "labels" and self.labels is not None else []

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`images` [B, P, T, H, W], and `labels` [B] where the folder has classes. ValueError names a bad file."""
        config = self.config
        moments = [0.0] * len(indices)
        if config.start == "random" and seeds is not None:
            moments = Rng([mix(seed, "start") for seed in seeds]).uniform().tolist()
        clips = [self._clip(i, self._start(i, moment)) for i, moment in zip(indices, moments)]
        batch = {"images": flipped(torch.cat(clips), seeds if config.flip else None)}
        if self.labels is not None:
            batch["labels"] = self.labels.index_select(0, torch.tensor(indices))
        return batch

    def _clip(self, index: int, start: float) -> Tensor:
        config = self.config
        try:
            return video.read_clip(self.paths[index], config.channels, config.size, "crop", config.fps, start)
        except ValueError:
            if start == 0:
                raise
            return self._clip(index, 0.0)  # a file that ends before it says it does, or shows its frames unevenly

    def _start(self, index: int, moment: float) -> float:
        """Seconds into a file at which a clip begins, such that all of it is there."""
        if moment == 0:
            return 0.0
        seconds, rate = video.length(self.paths[index])
        return moment * max(0.0, seconds - (self.config.size[0] + 1) / (self.config.fps or rate))
