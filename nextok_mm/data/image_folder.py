"""A folder of pictures: every subfolder is a class, or none is. PNG, JPEG, WebP and BMP; Pillow decodes them.

Pictures are turned upright, brought to sRGB, scaled so that they cover the wanted size, and cropped to it. Every file
is distrusted: its size is read from the header before any pixel is decoded, and only the parsers of those four formats
are used.

Shapes: B batch, P channels, H W rows and columns.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ..contracts import Batch
from ..media import pictures as media
from ..rng import Rng, mix
from .source import Source, SourceConfig, flipped

JUNK = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
"""Folders that unpackers, file servers and systems leave behind; some hold thumbnails."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


class Config(SourceConfig):
    """Pictures of a folder; `scan` says which subfolders are classes."""

    kind: Literal["image_folder"] = Field(
        default="image_folder", description="Name of this kind of source, which selects this config."
    )
    path: str = Field(description="Folder of the pictures.")
    size: tuple[int, int] = Field(
        description="Rows and columns that pictures are brought to, in pixels; one number makes a square."
    )
    channels: Literal[1, 3] = Field(default=3, description="Number of channels of a picture: 1 is grey, 3 is color.")
    crop: Literal["centre", "random", "none"] = Field(
        default="centre",
        description="Part of a picture of another aspect: its center, a random part, or none, which refuses any "
        "other size.",
    )
    flip: bool = Field(default=False, description="Mirror a random half of the pictures left to right in training.")
    max_pixels: int = Field(
        64_000_000,
        gt=0,
        description="Largest number of pixels of a file; a larger one is refused before it is decoded.",
    )

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) else size

    @field_validator("size")
    @classmethod
    def _bounded(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not all(0 < side <= 16_384 for side in size):
            raise ValueError("sides of 1 .. 16384 are accepted")
        return size

    def open(self) -> "ImageFolder":
        """The list of pictures; none is opened yet."""
        return ImageFolder(self)


class ImageFolder(Source):
    """The pictures in the order of their paths."""

    def __init__(self, config: Config):
        self.config = config
        drawn = {"flip": config.flip, "crop": config.crop == "random"}
        self.draws = frozenset(name for name, on in drawn.items() if on)
        root = Path(config.path).expanduser()
        self.paths, self.labels, self.class_names = scan(root, FORMATS)

    def __len__(self) -> int:
        return len(self.paths)

    def column(self, name: str) -> Iterable[Tensor]:
        """The labels."""
        return [self.labels] if name == "labels" and self.labels is not None else []

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`images` [B, P, H, W], and `labels` [B] where the folder has classes. ValueError names a bad file."""
        places: Sequence[Sequence[float]] = [(0.5, 0.5)] * len(indices)
        if self.config.crop == "random" and seeds is not None:
            places = Rng([mix(seed, "crop") for seed in seeds]).uniform(2).tolist()
        images = torch.stack([_picture(self.paths[i], self.config, place) for i, place in zip(indices, places)])
        batch = {"images": flipped(images, seeds if self.config.flip else None)}
        if self.labels is not None:
            batch["labels"] = self.labels.index_select(0, torch.tensor(indices))
        return batch


def scan(
    root: Path, endings: Iterable[str], what: str = "picture"
) -> tuple[list[Path], Tensor | None, tuple[str, ...] | None]:
    """Paths, labels and class names of a folder of pictures, or of whatever has one of these endings (in any case).

    Every subfolder is a class, its own subfolders included; `listed` says what is passed over. As with torchvision's
    ImageFolder a class without a file is refused.
    """
    if not root.is_dir():
        raise ValueError(f"data.path: got {str(root)!r}, accepted: a folder of {what}s")
    endings = tuple(endings)
    paths = listed(root, endings)
    try:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _passed_over(entry.name))
    except OSError as error:
        raise ValueError(f"data.path: {str(root)!r} can't be read ({error})") from None
    if not paths:
        raise ValueError(f"data.path: no {what} in {str(root)!r}, accepted: {', '.join(endings)}")
    parents = [path.relative_to(root).parts[:-1] for path in paths]
    names = sorted({parts[0] for parts in parents if parts})
    if not names:
        return paths, None, None
    if not all(parents):
        raise ValueError(
            f"data.path: {str(root)!r} has {what}s in subfolders (classes) and beside them; accepted: either"
        )
    if empty := [name for name in folders if name not in names]:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise ValueError(
            f"data.path: no {what} in {', '.join(map(repr, empty[:5]))}{more} of {str(root)!r}; every folder is a"
            f" class, accepted: one or more of {', '.join(endings)} in each"
        )
    index = {name: label for label, name in enumerate(names)}
    return paths, torch.tensor([index[parts[0]] for parts in parents]), tuple(names)


def listed(root: Path, endings: Iterable[str]) -> list[Path]:
    """Sorted paths of a folder's files that have one of these endings (in any case), subfolders and links followed.

    Passed over, as folders and as files: what begins with a dot (`.git`, `.ipynb_checkpoints`, `._0.png`) and what
    systems leave behind (JUNK). ValueError in one line names a folder that can't be read.
    """
    endings = tuple(endings)
    try:
        return sorted(path for path in _files(root) if path.suffix.lower() in endings)
    except OSError as error:
        raise ValueError(f"data.path: {str(root)!r} can't be read ({error})") from None


def _files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Every file below a folder, links followed; one that leads back to a folder above it is passed over."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in os.scandir(folder):
        if _passed_over(entry.name):
            continue
        if entry.is_dir():
            yield from _files(folder / entry.name, above | {real})
        elif entry.is_file():
            yield folder / entry.name


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name in JUNK


def _picture(path: Path, config: Config, place: Sequence[float]) -> Tensor:
    """One picture [P, H, W] in [0, 1]. place: where the crop lies, 0 .. 1 down and across."""
    with media.opened(path, sorted(set(FORMATS.values())), config.max_pixels, "data.max_pixels") as image:
        return _fitted(image, config, place)


def _fitted(image: Image.Image, config: Config, place: Sequence[float]) -> Tensor:
    """Upright, in the wanted channels, scaled to cover the wanted size and cropped to it."""
    rows, columns = config.size
    aside = media.orientation(image) > 4
    across, down = image.size[::-1] if aside else image.size  # as it is shown
    scale = max(rows / down, columns / across)
    inner = image.size
    if config.crop != "none":  # a JPEG is decoded at a half, a quarter or an eighth where that is twice what is needed
        part = min(1, 2 * scale)
        draft = image.draft(None, (int(image.width * part), int(image.height * part)))
        inner = draft[1][2:] if draft else inner  # not whole: 17 pixels at an eighth are 2.125 of 3
    wide, high = inner[::-1] if aside else inner
    image = media.flat(media.upright(image)).convert("L" if config.channels == 1 else "RGB")
    if config.crop == "none":
        if (image.height, image.width) != (rows, columns):
            raise ValueError(
                f"{image.height} x {image.width}, accepted: {rows} x {columns} (data.crop centre or random fits others)"
            )
        return pil_to_tensor(image).float() / 255
    width, height = max(columns, round(across * scale)), max(rows, round(down * scale))
    top, left = round(place[0] * (height - rows)), round(place[1] * (width - columns))
    if (width, height) == image.size:
        image = image.crop((left, top, left + columns, top + rows))
    else:  # only that part of the scaled picture is made: a strip of 1 x 60000 would otherwise become gigabytes
        x, y = wide / width, high / height
        right, bottom = min((left + columns) * x, wide), min((top + rows) * y, high)
        image = image.resize((columns, rows), Image.Resampling.BICUBIC, (left * x, top * y, right, bottom))
    return pil_to_tensor(image).float() / 255
