"""What every task gives: samples of a medium, what they were made from, and how.

result = pipeline.generate(labels=[7], n=16, seed=0)
result.save("out.png"), len(result), result[0], result.images
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..contracts import Tokens
from ..media import Medium, Saving
from . import inputs

R = TypeVar("R", bound="Result")


@dataclass
class Result:
    """Samples, and how they came about.

    data: [n, ...] on the CPU, as `medium` has it: pictures [n, C, H, W] in [0, 1], clips [n, C, T, H, W] (those T
    frames that are final); name: of the checkpoint; seed: of the run; condition: what the samples were asked for, by
    name, a list of n each; given: what they were made from (pictures to reconstruct, the beginning of clips), and
    tokens: their tokens, where there are any; sampling: every setting; calls: network calls of a batch; seconds: by
    part; backend: the attention backend that ran; done: entities of `entities` (fewer in a streamed partial result).
    """

    data: Tensor
    medium: Medium
    name: str
    seed: int = 0
    condition: dict[str, list[Any]] = field(default_factory=dict)
    given: Tensor | None = None
    tokens: Tokens | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    backend: str = ""
    done: int = 0
    entities: int = 0

    @property
    def images(self) -> Tensor:
        """`data`, by the name that it has for pictures and clips."""
        return self.data

    @property
    def labels(self) -> list[int] | None:
        """The class that each sample was asked for, where any were."""
        return self.condition.get("labels")

    @property
    def text(self) -> list[str] | None:
        """The caption that each sample was asked for, where any were."""
        return self.condition.get("text")

    def settings(self) -> dict[str, Any]:
        """What a saved file keeps: enough to make it again."""
        own: dict[str, Any] = {"model": self.name, "seed": self.seed, "n": len(self), "labels": None, **self.condition}
        own |= {"sampling": self.sampling, "attention": self.backend}
        return {f"nextok.{key}": value for key, value in own.items()}

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        """One sample."""
        return self.data[index]

    def __iter__(self) -> Iterator[Tensor]:
        """The samples, one after another."""
        return iter(self.data)

    def __repr__(self) -> str:
        """One line: what it is, and how it was made."""
        asked = "".join(f", {name}={_short(values)}" for name, values in self.condition.items())
        partial = f", {self.done} of {self.entities} entities" if self.done < self.entities else ""
        shape = " x ".join(map(str, self.data.shape[1:]))
        return f"<Result: {self.medium.words(len(self))} of {shape} by {self.name}, seed {self.seed}{asked}{partial}>"

    def pil(self) -> list[Image.Image]:
        """Each sample as a Pillow picture; a clip as a row of its frames."""
        return self.medium.stills(self.data)

    def grid(self, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """All samples in one picture; clips as rows of their frames."""
        return self.medium.sheet(self.data, *inputs.sides(columns, zoom))

    def save(
        self,
        path: str | Path,
        force: bool = False,
        columns: int | None = None,
        zoom: int | None = None,
        fps: float = Saving.fps,
    ) -> Path:
        """Write all samples into one file, in the format that its ending says, with the settings.

        Pictures: .png, .jpg or .webp; clips: .mp4, .gif, .webp (at `fps` frames per second) or .png. An existing file
        is kept unless `force`.
        """
        how = Saving(*inputs.sides(columns, zoom), fps)
        return self.medium.save(self.data, path, self.settings(), force, how)

    def _repr_png_(self) -> bytes:
        """Notebooks show the samples."""
        return self.medium.shown(self.data)["image/png"]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Notebooks show the samples; clips move."""
        return {"text/plain": repr(self), **self.medium.shown(self.data)}


def joined(parts: list[R]) -> R:
    """The results of batches as one."""
    first = parts[0]
    names = first.condition
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return replace(
        first,
        data=torch.cat([part.data for part in parts]),
        condition={name: [value for part in parts for value in part.condition[name]] for name in names},
        seconds={name: sum(part.seconds[name] for part in parts) for name in first.seconds},
        tokens=replace(tokens[0], data=torch.cat([each.data for each in tokens])) if tokens else None,
    )


def _short(values: list[Any]) -> str:
    """At most three of them."""
    return f"[{', '.join(map(repr, values[:3]))}{', ...' * (len(values) > 3)}]"
