"""What every task gives: samples of a medium, what they were made from, and how.

result = pipeline.generate(labels=[7], n=16, seed=0)
result.save("out.png"), len(result), result[0], result.images
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..contracts import Tokens
from ..media import Medium, Saving
from . import inputs

R = TypeVar("R", bound="Result")


@dataclass
class Result:
    """Samples, and how they came about.

    Attributes:
        data: The samples on the CPU, as `medium` has them: pictures [n, C, H, W] in [0, 1], clips [n, C, T, H, W],
            those T frames that are final, or a list of n texts.
        medium: The kind of content that the samples are.
        added: What `Pipeline.stream` has added to each text or sound since the partial result before; None for media
            that don't grow at their end.
        name: Name of the checkpoint.
        seed: Seed of the run.
        condition: What the samples were asked for, by name: a list with one value per sample.
        given: What the samples were made from: pictures to reconstruct, or the beginning of clips.
        tokens: The tokens of the samples, where there are any.
        remarks: What the generator says about each finished sample: of speech why it `ended`, and where it was told its
            phonemes when each of them and each word is spoken, in seconds. None where it says nothing.
        sampling: Every sampling setting.
        calls: Number of network calls per batch.
        seconds: Seconds spent, by part.
        backend: The attention backend that ran.
        finished: Number of finished entities, or passes; below `total` in a partial result of `Pipeline.stream`.
        total: Number of entities, or of a masked model's passes, of a whole sample.
    """

    data: Any
    medium: Medium
    name: str
    seed: int = 0
    condition: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    given: Tensor | None = None
    tokens: Tokens | None = None
    remarks: list[dict[str, Any]] | None = None
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    calls: int = 0
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    backend: str = ""
    finished: int = 0
    total: int = 0
    added: Any = None

    @property
    def images(self) -> Tensor:
        """`data`, by the name that it has for pictures and clips; AttributeError for texts."""
        return self._named("images")

    @property
    def texts(self) -> list[str]:
        """`data`, by the name that it has for texts; AttributeError for anything else."""
        return self._named("texts")

    def _named(self, field: str) -> Any:
        if self.medium.field != field:
            raise AttributeError(
                f"{field}: this is a result of {self.medium.plural}, which are in .{self.medium.field}"
            )
        return self.data

    @property
    def labels(self) -> list[int] | None:
        """The class that each sample was asked for, where any were."""
        return self.condition.get("labels")

    @property
    def text(self) -> list[str] | None:
        """The caption or the prompt that each sample was asked for, where any were."""
        return self.condition.get("text")

    def settings(self) -> dict[str, Any]:
        """Describe how the samples were made, in enough detail to make them again.

        Returns:
            The settings by name (`nextok.seed` ...), which a saved file keeps.
        """
        own: dict[str, Any] = {"model": self.name, "seed": self.seed, "n": len(self), "labels": None, **self.condition}
        own |= {"sampling": self.sampling, "attention": self.backend}
        return {f"nextok.{key}": value for key, value in own.items()}

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        """One sample."""
        return self.data[index]

    def __iter__(self) -> Iterator[Any]:
        """The samples, one after another."""
        return iter(self.data)

    def __repr__(self) -> str:
        """One line: what it is, and how it was made."""
        asked = "".join(f", {name}={_short(values)}" for name, values in self.condition.items())
        partial = f", {self.finished} of {self.total} entities" if self.finished < self.total else ""
        size = self.medium.extent(self.data)
        return f"<Result: {self.medium.words(len(self))} of {size} by {self.name}, seed {self.seed}{asked}{partial}>"

    def __str__(self) -> str:
        """Texts as they are, with an empty line between several; of anything else, the line of `repr`."""
        return self.medium.printed(self.data) or repr(self)

    def pil(self) -> list[Image.Image]:
        """Turn the samples into Pillow pictures.

        Returns:
            One picture per sample; of a clip, a row of its frames.
        """
        return self.medium.stills(self.data)

    def sheet(self, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """Lay all samples out in one picture; clips become rows of their frames.

        Args:
            columns: Number of samples side by side; None makes about a square.
            zoom: Factor by which pixels are enlarged; None makes small samples visible.

        Returns:
            The picture.

        Raises:
            ValueError: A number is not accepted.
        """
        return self.medium.sheet(self.data, *inputs.sides(columns, zoom))

    def save(
        self,
        path: str | Path,
        force: bool = False,
        columns: int | None = None,
        zoom: int | None = None,
        fps: float = Saving.fps,
    ) -> Path:
        """Write all samples into one file, together with the settings.

        Args:
            path: Name of the file, whose ending decides the format: .png, .jpg or .webp for pictures; .mp4, .gif, .webp
                or .png for clips; .txt, .md or .jsonl for texts.
            force: Replace an existing file.
            columns: Number of samples side by side; None makes about a square.
            zoom: Factor by which pixels are enlarged; None makes small samples visible.
            fps: Frame rate of clips (frames per second).

        Returns:
            The path of the file.

        Raises:
            ValueError: The file exists and `force` is not set, or its ending is none of those above.
        """
        how = Saving(*inputs.sides(columns, zoom), fps)
        return self.medium.save(self.data, path, self.settings(), force, how)

    def _repr_png_(self) -> Any:
        """Notebooks show the samples."""
        return self.medium.shown(self.data).get("image/png")

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
        data=first.medium.join([part.data for part in parts]),
        condition={name: [value for part in parts for value in part.condition[name]] for name in names},
        seconds={name: sum(part.seconds[name] for part in parts) for name in first.seconds},
        tokens=_joined_tokens(tokens) if tokens else None,
        remarks=None if first.remarks is None else [row for part in parts for row in part.remarks or []],
    )


def _joined_tokens(parts: list[Tokens]) -> Tokens:
    """Tokens of batches as one; behind those of shorter texts stands -1."""
    longest = max(part.data.shape[1] for part in parts)
    if all(part.data.shape[1] == longest for part in parts):
        return replace(parts[0], data=torch.cat([part.data for part in parts]))
    rows = [F.pad(part.data, (0, longest - part.data.shape[1]), value=-1) for part in parts]
    return replace(parts[0], data=torch.cat(rows), grid=(longest,))


def _short(values: list[Any]) -> str:
    """At most three of them."""
    return f"[{', '.join(map(repr, values[:3]))}{', ...' * (len(values) > 3)}]"
