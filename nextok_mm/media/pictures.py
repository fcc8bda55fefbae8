"""Pictures in and out. What comes in is untrusted; what goes out never silently replaces a file.

A picture is read as viewers show it: upright (EXIF), in sRGB (ICC profiles, PNG's gamma), 8 bits a channel, what is
see-through on white; of an animation the first frame. Only parsers of plain picture formats are used.

Images are float [B, C, H, W] in [0, 1].
"""

import io
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageFont, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..files import check_name, in_line, write_whole
from .arrays import from_array
from .medium import MAX_SHEET, Fit, Medium, Saving

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "ICO")
TURNS = {  # of EXIF's orientation; Pillow turns counter-clockwise
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DESCRIPTION = 0x010E  # EXIF's ImageDescription
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MAX_SIDE = {".webp": 16_383, ".jpg": 65_535, ".jpeg": 65_535}
HEAD = 16  # rows of the line of text above a grid


@dataclass(frozen=True)
class Pictures(Medium):
    """Pictures [B, C, H, W] in [0, 1].

    Attributes:
        channels: 1 is grey, 3 is color.
        size: (height, width) of the pictures that a tokenizer was trained on, to which files are brought.
    """

    channels: int
    size: tuple[int, int]
    name: ClassVar[str] = "picture"
    plural: ClassVar[str] = "pictures"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    axes: ClassVar[tuple[str, ...]] = ("channels", "height", "width")
    rank: ClassVar[int] = 4

    def take(self, given: Any, fit: Fit = "exact") -> Tensor:
        """See `Medium.take`. Files and Pillow pictures are brought to `size`; tensors and arrays stay as they are."""
        return joined([self._one(part, fit) for part in listed(given)])

    def _one(self, given: Any, fit: Fit) -> Tensor:
        if isinstance(given, str | Path):
            return self.read(given, fit)
        if not isinstance(given, Image.Image):
            return from_array(given, self.channels, self.rank)
        if 0 in given.size:
            raise ValueError(f"picture: got {given.width} x {given.height} pixels, accepted: one pixel or more")
        try:
            return to_tensor(ImageOps.exif_transpose(given), self.channels, self.size, fit)
        except (OSError, SyntaxError) as error:  # a file that Pillow opened, but reads only now
            raise ValueError(f"picture: damaged ({' '.join(str(error).split())[:200]})") from None

    def read(self, path: str | Path, fit: Fit = "exact") -> Tensor:
        """See `read_image`."""
        return read_image(path, self.channels, self.size, fit)

    def changed(self, path: str | Path, fit: Fit) -> str:
        """See `Medium.changed`."""
        return changed(size(path), (self.size[1], self.size[0]), fit)

    def empty(self, n: int) -> Tensor:
        """Pictures of no size."""
        return torch.zeros(n, self.channels, 0, 0)

    def check_out(self, path: str | Path, force: bool = False, how: Saving | None = None) -> None:
        """The name, and that nothing is in the way."""
        check_name(path, self.endings, force)

    def check_sheet(self, n: int, columns: int | None = None) -> None:
        """See `Medium.check_sheet`."""
        check_sheet(n, columns, self.size)

    def save(
        self,
        data: Tensor,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        how: Saving | None = None,
    ) -> Path:
        """All of them in one picture: .png, .jpg or .webp."""
        how = how or Saving()
        return save_picture(self.sheet(data, how.columns, how.zoom), path, settings, force)

    def tiles(self, data: Tensor) -> tuple[Tensor, int | None]:
        """They are pictures."""
        return data, None

    def stills(self, data: Tensor) -> list[Image.Image]:
        """Each picture."""
        return [to_pil(image) for image in data]

    def sheet(self, data: Tensor, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """See the function `sheet`."""
        return sheet(data, columns, zoom)


def listed(given: Any) -> list[Any]:
    """What is in a list, or one thing by itself; ValueError for an empty list."""
    parts = list(given) if isinstance(given, list | tuple) else [given]
    if not parts:
        raise ValueError("images: got none in the list, accepted: at least one")
    return parts


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Samples of one size as one batch."""
    if len(sizes := sorted({tuple(part.shape[2:]) for part in parts})) > 1:
        got = " and ".join(" x ".join(map(str, size)) for size in sizes[:2])
        raise ValueError(f"images: got {got} pixels in one list, accepted: all of one size")
    return torch.cat(list(parts))


def check_sheet(n: int, columns: int | None, size: tuple[int, int], zoom: int | None = None) -> None:
    """ValueError where n pictures of (height, width), enlarged as `sheet` does, make too large a picture."""
    if columns is not None and columns < 1:
        raise ValueError(f"columns: got {columns}, accepted: a whole number from 1")
    across = math.ceil(math.sqrt(n)) if columns is None else columns
    height, width = (side * (zoom or least_zoom(*size)) for side in size)
    down = math.ceil(n / across) * height
    if across * width * down > MAX_SHEET:
        what = "n, columns" if zoom is None else "zoom"
        raise ValueError(
            f"{what}: {n} samples would make a picture of {across * width} x {down} pixels, accepted: "
            f"{MAX_SHEET} in all; several calls with seeds of their own make several pictures"
        )


def read_image(path: str | Path, channels: int, size: tuple[int, int], fit: Fit = "exact") -> Tensor:
    """One picture as [1, channels, H, W], scaled to `size` (height, width); transparency lies on white.

    fit: `exact` refuses a picture of another aspect, `crop` takes its middle, `pad` keeps all of it, between white
    borders. ValueError in one line for a file that is missing, too large, damaged or no picture.
    """
    with opened(path) as picture:
        shown = flat(upright(picture))
    return to_tensor(shown, channels, size, fit, f"picture {in_line(path)}")


def size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a picture file as it is shown, from its header alone; ValueError as of `read_image`."""
    with opened(path) as picture:
        width, height = picture.size
        return (height, width) if orientation(picture) > 4 else (width, height)


@contextmanager
def opened(
    path: str | Path, formats: Iterable[str] = FORMATS, max_pixels: int | None = None, limit: str = ""
) -> Iterator[Image.Image]:
    """A picture file of one of these formats, whose size is bounded before anything is decoded.

    max_pixels: None is MAX_PIXELS, in a file of MAX_BYTES at most; limit: what sets it. Whatever goes wrong inside is a
    ValueError in one line that names the file.
    """
    path, most = Path(path), MAX_PIXELS if max_pixels is None else max_pixels
    if not path.is_file():
        raise ValueError(f"picture: no file {str(path)!r}")
    if max_pixels is None and path.stat().st_size > MAX_BYTES:
        raise ValueError(f"picture {in_line(path)}: {path.stat().st_size} bytes, at most {MAX_BYTES} accepted")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit here
            Image.init()
            known = [name for name in formats if name in Image.OPEN]
            # An open file, not its name: Pillow maps a named one, and then garbles turned TIFFs (12.3).
            with path.open("rb") as file, Image.open(file, formats=known) as picture:
                bounded(*picture.size, most, limit)
                yield picture
    except UnidentifiedImageError:
        heic = "; HEIC needs another program first" if path.suffix.lower() in (".heic", ".heif") else ""
        accepted = ", ".join(sorted(formats))
        raise ValueError(
            f"picture {in_line(path)}: not a {accepted} file (cannot identify its content){heic}"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {in_line(path)}: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise ValueError(f"picture {in_line(path)}: damaged ({type(error).__name__})") from None


def bounded(width: int, height: int, most: int | None = None, limit: str = "") -> None:
    """ValueError where a picture has more than `most` pixels (None: MAX_PIXELS), which `limit` says."""
    most = MAX_PIXELS if most is None else most
    if width * height > most:
        said = f"accepted: {limit} {most}" if limit else f"at most {most} in all are accepted"
        raise ValueError(f"{width} x {height} pixels, {said}")


def orientation(picture: Image.Image) -> int:
    """EXIF's number, 1 .. 8, of which 5 .. 8 turn by a quarter; 1 where a file says nothing that can be read."""
    if picture.format == "TIFF":  # Pillow turns these by itself
        return 1
    try:
        number = int(picture.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block says nothing; the picture is whole
        return 1
    return number if 1 <= number <= 8 else 1


def upright(picture: Image.Image) -> Image.Image:
    """The picture as EXIF says that it is held."""
    turn = TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def to_tensor(
    picture: Image.Image, channels: int, size: tuple[int, int], fit: Fit = "exact", what: str = "picture"
) -> Tensor:
    """A Pillow picture as [1, channels, H, W]; see `read_image`."""
    if fit not in get_args(Fit):
        raise ValueError(f"fit: got {fit!r}, accepted: {', '.join(get_args(Fit))}")
    height, width = size
    same = picture.width * height == picture.height * width
    if fit == "exact" and not same:
        raise ValueError(
            f"{what}: {picture.width} x {picture.height} (width x height), accepted: the aspect of {width} x {height};"
            " fit='crop' (--crop) takes the middle, fit='pad' (--fit pad) adds white borders"
        )
    plain = flat(picture).convert("L" if channels == 1 else "RGB")
    if fit == "pad" and not same:
        plain = _padded(plain, width, height)
    elif (blocks := _unzoomed(plain, width, height)) is not None:
        plain = blocks
    else:
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(plain.tobytes()), dtype=torch.uint8).view(height, width, -1)
    return pixels.permute(2, 0, 1).float()[None] / 255


def changed(shown: tuple[int, int], wanted: tuple[int, int], fit: Fit) -> str:
    """What `fit` does to a picture of this (width, height), in words; empty where its aspect is that of `wanted`."""
    (width, height), (columns, rows) = shown, wanted
    if fit == "exact" or width * rows == height * columns:
        return ""
    if fit == "crop":
        middle = f"{min(width, round(height * columns / rows))} x {min(height, round(width * rows / columns))}"
        return f"{width} x {height} cropped to its middle {middle}"
    whole = f"{max(width, round(height * columns / rows))} x {max(height, round(width * rows / columns))}"
    return f"{width} x {height} padded with white to {whole}"


def _padded(picture: Image.Image, width: int, height: int) -> Image.Image:
    """All of it, in the middle of a white picture."""
    scale = min(width / picture.width, height / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    paper = Image.new(picture.mode, (width, height), "white")
    paper.paste(picture.resize(inner, Image.Resampling.BICUBIC), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return paper


def _unzoomed(picture: Image.Image, width: int, height: int) -> Image.Image | None:
    """The pixels of a small picture that `sheet` wrote zoomed: as they were, which no filter gives back."""
    if picture.width % width or picture.height % height or picture.width // width != picture.height // height:
        return None
    small = picture.resize((width, height), Image.Resampling.NEAREST)
    again = small.resize(picture.size, Image.Resampling.NEAREST)
    return small if ImageChops.difference(picture, again).getbbox() is None else None


def flat(picture: Image.Image) -> Image.Image:
    """Grey (L) or RGB of 8 bits a channel, in sRGB, opaque on white; ValueError for floating-point pixels."""
    profile, gamma = picture.info.get("icc_profile"), picture.info.get("gamma")
    grey = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")
    to_srgb = _to_srgb(profile) if isinstance(profile, bytes) else None
    plain = opaque(picture)
    if to_srgb is not None and (to_srgb[0] != "L" or grey) and (to_srgb[0] == "CMYK") == (plain.mode == "CMYK"):
        plain = ImageCms.applyTransform(plain.convert(to_srgb[0]), to_srgb[1])
        assert plain is not None
    plain = plain.convert("L" if grey else "RGB")
    if profile is None and "srgb" not in picture.info and isinstance(gamma, float) and 0.05 < gamma < 5:
        power = 1 / (2.2 * gamma)
        if abs(power - 1) > 0.01:
            plain = plain.point([round(255 * (value / 255) ** power) for value in range(256)] * len(plain.getbands()))
    plain.info = {}
    return plain


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes) -> tuple[str, Any] | None:
    """(the mode that it takes, the transform) of an ICC profile; None of sRGB itself, and of what is no profile."""
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip())
        if mode is None or "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return mode, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):  # viewers pass over a broken one, too
        return None


def opaque(picture: Image.Image) -> Image.Image:
    """Transparent parts become white, 16 bits a pixel become 8; ValueError for floating-point pixels."""
    if picture.mode == "F":
        raise ValueError("got floating-point pixels (mode F), accepted: 8 or 16 bits a channel")
    if picture.mode.startswith("I"):  # Pillow would clip, not scale
        return _eight_bits(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits a pixel as one of 8, its transparent grey as white."""
    pixels, clear = np.asarray(picture.convert("I")), picture.info.get("transparency")
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65_535:
        got = f"{pixels.min()} .. {pixels.max()}"
        raise ValueError(f"got pixels of {got} (mode {picture.mode}), accepted: 8 or 16 bits a channel")
    white = pixels == clear if isinstance(clear, int) else np.zeros_like(pixels, dtype=bool)
    return Image.fromarray(np.where(white, 255, pixels >> 8).astype(np.uint8))


def to_pil(image_CHW: Tensor) -> Image.Image:
    """One image [C, H, W] in [0, 1] as a Pillow picture, grey or RGB."""
    pixels = (image_CHW.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.squeeze(2).numpy() if pixels.shape[2] == 1 else pixels.numpy())


def least_zoom(height: int, width: int) -> int:
    """By how much a small picture is enlarged: its shorter side becomes at least 96."""
    return max(1, math.ceil(96 / min(height, width)))


def sheet(
    images: Tensor, columns: int | None = None, zoom: int | None = None, heads: Sequence[str] = ()
) -> Image.Image:
    """All images in one picture, rows filled left to right, a thin line of white between them.

    columns: how many side by side (else about a square); zoom: each pixel becomes zoom x zoom (else as much as makes a
    small picture's shorter side at least 96); heads: what stands above the columns.
    """
    if images.dim() != 4 or not len(images):
        raise ValueError(f"images: got shape {tuple(images.shape)}, accepted: [n, channels, height, width] with n > 0")
    for name, value in (("columns", columns), ("zoom", zoom)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, accepted: a whole number from 1")
    columns = columns or math.ceil(math.sqrt(len(images)))
    check_sheet(len(images), columns, (images.shape[-2], images.shape[-1]), zoom)
    zoom = zoom or least_zoom(images.shape[-2], images.shape[-1])
    tiles = [to_pil(image) for image in images.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)]
    width, height = tiles[0].size
    rows, top = math.ceil(len(tiles) / columns), HEAD if heads else 0
    sheet = Image.new(tiles[0].mode, (columns * (width + 2) - 2, top + rows * (height + 2) - 2), "white")
    for column, head in enumerate(heads):
        middle = (column * (width + 2) + width // 2, HEAD // 2)
        ImageDraw.Draw(sheet).text(middle, head, "black", ImageFont.load_default(), anchor="mm")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * (width + 2), top + place // columns * (height + 2)))
    return sheet


def save_picture(
    picture: Image.Image, path: str | Path, settings: Mapping[str, Any] | None = None, force: bool = False
) -> Path:
    """Write a picture in one move, in the format that the name's ending says; an existing file stays unless `force`.

    settings: text chunks of a PNG, the description (EXIF, as JSON) of JPEG and WebP, which is written without loss.
    """
    check_name(path, ENDINGS, force)
    ending, settings = Path(path).suffix.lower(), dict(settings or {})
    if max(picture.size) > MAX_SIDE.get(ending, max(picture.size)):
        got = f"{picture.width} x {picture.height} pixels"
        raise ValueError(f"out: {str(path)!r} would have {got}, accepted: sides of at most {MAX_SIDE[ending]}, or .png")
    if ending == ".png":
        info = PngImagePlugin.PngInfo()
        for key, value in settings.items():
            info.add_itxt(key, str(value))
        return write_whole(path, lambda file: picture.save(file, "PNG", pnginfo=info), force)
    exif = Image.Exif()
    exif[DESCRIPTION] = json.dumps(settings)
    if ending == ".webp":
        return write_whole(path, lambda file: picture.save(file, "WEBP", lossless=True, exif=exif), force)
    return write_whole(path, lambda file: picture.save(file, "JPEG", quality=95, subsampling=0, exif=exif), force)
