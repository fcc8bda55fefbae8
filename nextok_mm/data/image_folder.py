"""A folder of pictures: every subfolder is a class, or none is. PNG, JPEG, WebP and BMP; Pillow decodes them.

Pictures are turned upright, scaled so that they cover the wanted size, and cropped to it. Every file is distrusted: its
size is read from the header before any pixel is decoded, and only the parsers of those four formats are used.

Shapes: B batch, P channels, H W rows and columns.
"""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field, field_validator
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from ..contracts import Batch
from ..media.pictures import opaque
from ..rng import Rng, mix
from .source import Source, SourceConfig, flipped

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


class Config(SourceConfig):
    """Pictures of a folder. size: (rows, columns), or one number for a square; channels: 3 colour, 1 grey.

    crop: centre, random, or none: then every picture must have exactly `size`; flip: mirror a random half; max_pixels:
    of a file; more is refused before it is decoded.
    """

    kind: Literal["image_folder"] = "image_folder"
    path: str
    size: tuple[int, int]
    channels: Literal[1, 3] = 3
    crop: Literal["centre", "random", "none"] = "centre"
    flip: bool = False
    max_pixels: int = Field(64_000_000, gt=0)

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
    """Paths, labels and class names of a folder of pictures, or of whatever has one of these endings."""
    if not root.is_dir():
        raise ValueError(f"data.path: got {str(root)!r}, accepted: a folder of {what}s")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in endings and path.is_file())
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
    index = {name: label for label, name in enumerate(names)}
    return paths, torch.tensor([index[parts[0]] for parts in parents]), tuple(names)


def _picture(path: Path, config: Config, place: Sequence[float]) -> Tensor:
    """One picture [P, H, W] in [0, 1]. place: where the crop lies, 0 .. 1 down and across."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit here
            if image.width * image.height > config.max_pixels:
                raise ValueError(
                    f"{image.width} x {image.height} pixels, accepted: data.max_pixels {config.max_pixels}"
                )
            return _fitted(image, config, place)
    except UnidentifiedImageError:
        raise ValueError(f"picture {path}: not a {', '.join(sorted(set(FORMATS.values())))} file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow's parsers raise
        raise ValueError(f"picture {path}: {error}") from None


def _fitted(image: Image.Image, config: Config, place: Sequence[float]) -> Tensor:
    """Upright, in the wanted channels, scaled to cover the wanted size and cropped to it."""
    rows, columns = config.size
    scale = max(rows / image.height, columns / image.width)
    image.draft(
        None, (int(image.width * min(1, 2 * scale)), int(image.height * min(1, 2 * scale)))
    )  # JPEG: decode less
    image = opaque(ImageOps.exif_transpose(image)).convert("L" if config.channels == 1 else "RGB")
    if config.crop == "none":
        if (image.height, image.width) != (rows, columns):
            raise ValueError(
                f"{image.height} x {image.width}, accepted: {rows} x {columns} (data.crop centre or random fits others)"
            )
    else:
        scale = max(rows / image.height, columns / image.width)
        width, height = max(columns, round(image.width * scale)), max(rows, round(image.height * scale))
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        top, left = round(place[0] * (height - rows)), round(place[1] * (width - columns))
        image = image.crop((left, top, left + columns, top + rows))
    return pil_to_tensor(image).float() / 255
