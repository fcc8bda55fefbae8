"""Fashion-MNIST: 70,000 grey pictures of clothes in ten classes, 28 x 28, given here as [1, 32, 32] in [0, 1].

Debian's package dataset-fashion-mnist is used where it is installed, torchvision's download elsewhere; both are checked
against the published content. Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747 (MIT licence).
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from ..contracts import Batch
from .source import Source, SourceConfig, flipped

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path("~/.cache/nextok_mm").expanduser()
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_HEADERS = {"images": 16, "labels": 8}
_FILES = {  # split -> content -> name, rows, SHA-256 of the uncompressed file
    "train": {
        "images": (
            "train-images-idx3-ubyte",
            60_000,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "labels": (
            "train-labels-idx1-ubyte",
            60_000,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    },
    "test": {
        "images": (
            "t10k-images-idx3-ubyte",
            10_000,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "labels": (
            "t10k-labels-idx1-ubyte",
            10_000,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
}


class Config(SourceConfig):
    """Fashion-MNIST: grey pictures of clothes in ten classes, 32 x 32 pixels."""

    kind: Literal["fashion_mnist"] = Field(
        default="fashion_mnist", description="Name of this kind of source, which selects this config."
    )
    split: Literal["train", "test"] = Field(
        default="train", description="Part of the data set: 60,000 pictures of train, or 10,000 of test."
    )
    root: str | None = Field(
        default=None,
        description="Folder with the four files, compressed (.gz) or not; null takes Debian's, or else downloads them.",
    )
    flip: bool = Field(default=False, description="Mirror a random half of the pictures left to right in training.")
    limit: int | None = Field(default=None, description="Take only this many first rows of the split; null takes all.")

    def open(self) -> "FashionMNIST":
        """The pictures, in memory as bytes."""
        return FashionMNIST(self)


class FashionMNIST(Source):
    """One split, 47 MB at most."""

    class_names = CLASSES

    def __init__(self, config: Config):
        self.flip = config.flip
        self.draws = frozenset({"flip"} if config.flip else ())
        folder = _folder(config)
        images = _read(folder, config.split, "images").view(-1, 28, 28)
        labels = _read(folder, config.split, "labels").long()
        if config.limit is not None and not 0 < config.limit <= len(images):
            raise ValueError(f"data.limit: got {config.limit}, accepted: 1 .. {len(images)}")
        self.images, self.labels = images[: config.limit], labels[: config.limit]

    def __len__(self) -> int:
        return len(self.images)

    def column(self, name: str) -> Iterable[Tensor]:
        """The labels."""
        return [self.labels] if name == "labels" else []

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`images` [B, 1, 32, 32] (a black border of two pixels) and `labels` [B]."""
        rows = torch.tensor(indices)
        images = pad(self.images.index_select(0, rows).unsqueeze(1), (2, 2, 2, 2)).float() / 255
        return {"images": flipped(images, seeds if self.flip else None), "labels": self.labels.index_select(0, rows)}


def _folder(config: Config) -> Path:
    """Where the files of a split are, after a download where they are nowhere."""
    names = [name for name, *_ in _FILES[config.split].values()]
    if config.root is not None:
        folder = Path(config.root).expanduser()
        if not all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names):
            raise ValueError(f"data.root: {config.root!r} lacks {names[0]}[.gz] or {names[1]}[.gz]")
        return folder
    if all((DEBIAN / f"{name}.gz").is_file() for name in names):
        return DEBIAN
    from torchvision.datasets import FashionMNIST as Download

    try:
        Download(CACHE, download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"Fashion-MNIST is not here and can't be downloaded ({error}); either `apt install dataset-fashion-mnist`,"
            " or download it elsewhere and set data.root to its folder"
        ) from None
    return CACHE / "FashionMNIST" / "raw"


def _read(folder: Path, split: str, content: str) -> Tensor:
    """The numbers of one file, uint8, without their header; ValueError where it isn't the published file."""
    name, rows, digest = _FILES[split][content]
    size = _HEADERS[content] + rows * (28 * 28 if content == "images" else 1)
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = bytearray(file.read(size + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Fashion-MNIST: {path} can't be read ({error})") from None
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"Fashion-MNIST: {path} is not the published file (size or SHA-256 differs)")
    return torch.frombuffer(data, dtype=torch.uint8)[_HEADERS[content] :]
