"""A medium: what a tokenizer takes in and gives back, as one object with the tokenizer's channels and size.

Whoever handles what comes in or goes out asks the medium: what its tensors are, how a file becomes one, under which
names it is saved, how it is shown. So a new medium is one file, and nothing else asks which medium it is.

Shapes: B samples; what follows is the medium's own.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image
from torch import Tensor

Fit = Literal["exact", "crop", "pad"]
MAX_SHEET = 1 << 28
"""Pixels of the picture that holds all samples, in memory three bytes each and more."""


@dataclass(frozen=True)
class Saving:
    """How samples are laid out in a file. columns: samples side by side (None: about a square); zoom: each pixel
    becomes zoom x zoom (None: as much as makes small samples visible); fps: frames per second of what moves."""

    columns: int | None = None
    zoom: int | None = None
    fps: float = 8.0


class Medium(ABC):
    """What a tokenizer takes in and gives back. name, plural: in messages; endings: of files that it is saved under;
    axes: of one sample, in messages; rank: how many axes its tensors have, one more than that; channels: length of the
    first of them; size: of the others, in the samples that a tokenizer was trained on, to which files are brought.

    temporal: whether it goes on in time, so that it can be predicted from its beginning. Then the first number of
    `size` is its length in time, and `read` takes a third argument `frames`, how much of a file to read instead.
    """

    name: ClassVar[str]
    plural: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    temporal: ClassVar[bool] = False
    axes: ClassVar[tuple[str, ...]]
    rank: ClassVar[int]
    channels: int
    size: tuple[int, ...]

    def words(self, n: int) -> str:
        """`1 picture`, `4 pictures`."""
        return f"{n} {self.name if n == 1 else self.plural}"

    @abstractmethod
    def take(self, given: Any, fit: Fit = "exact") -> Tensor:
        """Samples in any form that people have them in -> a tensor [B, ...] in the medium's channels.

        given: tensors, arrays, Pillow pictures, names of files, or a list of those. ValueError in one line, naming what
        was given and what is accepted.
        """

    @abstractmethod
    def read(self, path: str | Path, fit: Fit = "exact") -> Tensor:
        """A file, which nobody trusts -> one sample [1, ...]; ValueError in one line where it can't be one.

        fit: of another aspect, `exact` refuses it, `crop` takes its middle, `pad` keeps it all between white borders.
        """

    @abstractmethod
    def changed(self, path: str | Path, fit: Fit) -> str:
        """What `read` does to a file of another aspect, in words; empty where it does nothing."""

    @abstractmethod
    def empty(self, n: int) -> Tensor:
        """n samples of which nothing is there yet."""

    @abstractmethod
    def check_out(self, path: str | Path, force: bool = False, how: Saving | None = None) -> None:
        """What `save` would refuse of a name and of a layout, refused before the work is done."""

    @abstractmethod
    def check_sheet(self, n: int, columns: int | None = None) -> None:
        """ValueError where n samples side by side make too large a picture, said before the work is done."""

    @abstractmethod
    def save(
        self,
        data: Tensor,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        how: Saving | None = None,
    ) -> Path:
        """Write samples [B, ...] as the name's ending says, with the settings where the format has room for text.

        An existing file is kept unless `force`.
        """

    @abstractmethod
    def tiles(self, data: Tensor) -> tuple[Tensor, int | None]:
        """Samples as pictures [m, C, H, W], and how many of them make a row (None: as many as one likes)."""

    @abstractmethod
    def stills(self, data: Tensor) -> list[Image.Image]:
        """Each sample as a picture that shows it."""

    @abstractmethod
    def sheet(self, data: Tensor, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """All samples in one picture."""

    def shown(self, data: Tensor) -> Mapping[str, bytes]:
        """What a notebook shows: bytes by MIME type."""
        return {"image/png": png(self.sheet(data))}


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
