"""A medium: what a tokenizer takes in and gives back, as one object with the tokenizer's channels and size.

Whoever handles what comes in or goes out asks the medium: what its samples are, how a file becomes one, under which
names it is saved, how it is shown. So a new medium is one file, and nothing else asks which medium it is. The samples
of most media are one tensor, and can be shown as pictures; those of text are a list, and what can't be done with them
is refused here, in one line.

Shapes: B samples; what follows is the medium's own.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

STDOUT = "-"
"""The name of standard output, for what can be written as it comes."""
Fit = Literal["exact", "crop", "pad"]
MAX_SHEET = 1 << 28
"""Pixels of the picture that holds all samples, in memory three bytes each and more."""


@dataclass(frozen=True)
class Saving:
    """How samples are laid out in a file.

    Attributes:
        columns: Number of samples side by side; None makes about a square.
        zoom: Factor by which pixels are enlarged; None makes small samples visible.
        fps: Frame rate of what moves (frames per second).
    """

    columns: int | None = None
    zoom: int | None = None
    fps: float = 8.0


class Medium(ABC):
    """A kind of content that a tokenizer takes in and gives back, with that tokenizer's channels and size.

    Attributes:
        name: The word for one sample in messages.
        plural: The word for several samples.
        field: The name that a `Result` has for its samples.
        out: The file that a command writes where it is told none; "-" is standard output.
        endings: Endings of the files that samples are saved under.
        temporal: Whether samples go on in time, so that they can be predicted from their beginning. Then the first
            number of `size` is the length in time, and `read` takes a third argument `frames`: how much of a file to
            read instead.
        low: The least number of a sample; the greatest is 1.
        axes: Names of the axes of one sample, for messages; like what follows, of media whose samples are tensors.
        rank: Number of axes of a batch, one more than those of a sample.
        channels: Length of the first axis.
        size: Lengths of the other axes, in the samples that a tokenizer was trained on, to which files are brought.
    """

    name: ClassVar[str]
    plural: ClassVar[str]
    field: ClassVar[str] = "images"
    out: ClassVar[str] = "out.png"
    endings: ClassVar[tuple[str, ...]]
    temporal: ClassVar[bool] = False
    last: ClassVar[bytes] = b""
    low: ClassVar[float] = 0.0
    axes: ClassVar[tuple[str, ...]]
    rank: ClassVar[int]
    channels: int
    size: tuple[int, ...]

    def words(self, n: int) -> str:
        """Say how many samples there are, as `1 picture` or `4 pictures`.

        Args:
            n: Number of samples.

        Returns:
            The number with its noun.
        """
        return f"{n} {self.name if n == 1 else self.plural}"

    @abstractmethod
    def take(self, given: Any, fit: Fit = "exact") -> Any:
        """Bring samples, in any form that people have them in, into the form that the tokenizer reads.

        Args:
            given: Tensors, arrays, Pillow pictures, names of files, or a list of those.
            fit: What happens to a file of another aspect: `exact` refuses it, `crop` takes its middle, `pad` keeps all
                of it between white borders.

        Returns:
            The samples: a tensor [B, ...] in the medium's channels, or a list of texts.

        Raises:
            ValueError: What was given is none of those forms, or of other channels or values.
        """

    @abstractmethod
    def read(self, path: str | Path, fit: Fit = "exact") -> Any:
        """Read one sample from a file, which nobody trusts.

        Args:
            path: Name of the file.
            fit: What happens to a file of another aspect: `exact` refuses it, `crop` takes its middle, `pad` keeps all
                of it between white borders.

        Returns:
            The sample [1, ...].

        Raises:
            ValueError: The file is missing, damaged, too large, or of no format that is read.
        """

    def changed(self, path: str | Path, fit: Fit) -> str:
        """Say in words what `read` does to a file of another aspect.

        Args:
            path: Name of the file.
            fit: As in `read`.

        Returns:
            The words; empty where nothing is changed.
        """
        return ""

    @abstractmethod
    def empty(self, n: int) -> Any:
        """Make samples of which nothing is there yet.

        Args:
            n: Number of samples.

        Returns:
            A tensor [n, ...] with an axis of length 0, or n empty texts.
        """

    def join(self, parts: Sequence[Any]) -> Any:
        """Put the samples of several batches into one.

        Args:
            parts: The samples of each batch.

        Returns:
            All samples.
        """
        return torch.cat(list(parts))

    def added(self, before: Any, now: Any) -> Any:
        """Say what is new in samples that grow.

        Args:
            before: The samples of an earlier partial result.
            now: Those of a later one.

        Returns:
            What is new in each sample; None for a medium whose samples don't grow at their end.
        """
        return None

    def extent(self, data: Any) -> str:
        """Say how large samples are.

        Args:
            data: The samples.

        Returns:
            Such as `1 x 32 x 32`.
        """
        return " x ".join(map(str, data.shape[1:]))

    @abstractmethod
    def check_out(self, path: str | Path, force: bool = False, how: Saving | None = None) -> None:
        """Refuse, before the work is done, what `save` would refuse of a name and of a layout.

        Args:
            path: Name of the file.
            force: Accept a file that exists.
            how: The layout.

        Raises:
            ValueError: `save` would not accept them.
        """

    def check_sheet(self, n: int, columns: int | None = None) -> None:
        """Refuse, before the work is done, a sheet of samples that is too large.

        Args:
            n: Number of samples.
            columns: Number of samples side by side; None makes about a square.

        Raises:
            ValueError: The sheet would have more pixels than are accepted.
        """
        return

    @abstractmethod
    def save(
        self,
        data: Any,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        how: Saving | None = None,
    ) -> Path:
        """Write samples in the format that the name's ending says.

        Args:
            data: The samples [B, ...].
            path: Name of the file.
            settings: How the samples were made; kept in the file where its format has room for text.
            force: Replace an existing file.
            how: The layout.

        Returns:
            The path of the file.

        Raises:
            ValueError: The file exists and `force` is not set, or its ending is none of `endings`.
        """

    def tiles(self, data: Any) -> tuple[Tensor, int | None]:
        """Cut samples into pictures.

        Args:
            data: The samples [B, ...].

        Returns:
            Pictures [m, C, H, W], and how many of them make a row; None leaves that open.

        Raises:
            ValueError: The samples can't be shown as pictures; so do `stills` and `sheet`.
        """
        raise self._unseen()

    def stills(self, data: Any) -> list[Image.Image]:
        """Show each sample as a picture.

        Args:
            data: The samples [B, ...].

        Returns:
            One picture per sample.
        """
        raise self._unseen()

    def sheet(self, data: Any, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """Show all samples in one picture.

        Args:
            data: The samples [B, ...].
            columns: Number of samples side by side; None makes about a square.
            zoom: Factor by which pixels are enlarged; None makes small samples visible.

        Returns:
            The picture.
        """
        raise self._unseen()

    def _unseen(self) -> ValueError:
        return ValueError(f"picture: got {self.plural}, accepted: what can be shown as pictures")

    def raw(self, samples: Any, first: bool = True) -> bytes:
        """Prepare samples, or what was added to them, for a program that reads standard output.

        Args:
            samples: The samples, or `added` of one that grows.
            first: Whether this is the beginning.

        Returns:
            The bytes.

        Raises:
            ValueError: The medium can't be written without a file.
        """
        raise ValueError(f"out: got -, standard output, accepted for {self.plural}: a file's name")

    def printed(self, data: Any) -> str:
        """Prepare the samples for a terminal.

        Args:
            data: The samples.

        Returns:
            The text to print; empty where the samples are no text.
        """
        return ""

    def shown(self, data: Any) -> Mapping[str, bytes | str]:
        """Prepare the samples for a notebook.

        Args:
            data: The samples [B, ...].

        Returns:
            What the notebook shows by MIME type: bytes, or text where it is HTML.
        """
        return {"image/png": png(self.sheet(data))}


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
