"""Pictures in and out. What comes in is untrusted; what goes out never silently replaces a file.

Images are float [B, C, H, W] in [0, 1].
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..files import check_name, write_whole

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
HEAD = 16  # rows of the line of text above a grid
Fit = Literal["exact", "crop"]


def read_image(path: str | Path, channels: int, size: tuple[int, int], fit: Fit = "exact") -> Tensor:
    """One picture as [1, channels, H, W], scaled to `size` (height, width); transparency lies on white.

    fit: `exact` refuses a picture of another aspect, `crop` takes its middle. ValueError in one line for a file that is
    missing, too large, damaged or no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"picture: no file {str(path)!r}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"picture {path}: {path.stat().st_size} bytes, at most {MAX_BYTES} accepted")
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels, at most {MAX_PIXELS} in all are accepted")
            picture = opaque(ImageOps.exif_transpose(opened)).convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {path}: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise ValueError(f"picture {path}: damaged ({type(error).__name__})") from None
    return to_tensor(picture, channels, size, fit, f"picture {path}")


def to_tensor(
    picture: Image.Image, channels: int, size: tuple[int, int], fit: Fit = "exact", what: str = "picture"
) -> Tensor:
    """A Pillow picture as [1, channels, H, W]; see `read_image`."""
    height, width = size
    if fit not in get_args(Fit):
        raise ValueError(f"fit: got {fit!r:.80}, accepted: {', '.join(get_args(Fit))}")
    if fit == "exact" and picture.width * height != picture.height * width:
        raise ValueError(
            f"{what}: {picture.width} x {picture.height} (width x height), accepted: the aspect of {width} x {height};"
            " fit='crop' (--crop) takes the middle"
        )
    flat = opaque(picture).convert("L" if channels == 1 else "RGB")
    flat = ImageOps.fit(flat, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(flat.tobytes()), dtype=torch.uint8).view(height, width, -1)
    return pixels.permute(2, 0, 1).float()[None] / 255


def opaque(picture: Image.Image) -> Image.Image:
    """Transparent parts become white, 16 bits a pixel become 8; ValueError for floating-point pixels."""
    if picture.mode == "F":
        raise ValueError("got floating-point pixels (mode F), accepted: 8 or 16 bits a channel")
    if picture.mode.startswith("I"):  # Pillow would clip, not scale
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
        if "transparency" in picture.info:
            picture.info["transparency"] //= 256
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return picture


def to_pil(image_CHW: Tensor) -> Image.Image:
    """One image [C, H, W] in [0, 1] as a Pillow picture, grey or RGB."""
    pixels = (image_CHW.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    mode = "L" if pixels.shape[2] == 1 else "RGB"
    return Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), bytes(pixels.flatten().tolist()))


def grid(images: Tensor, columns: int | None = None, zoom: int | None = None, heads: Sequence[str] = ()) -> Image.Image:
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
    zoom = zoom or max(1, math.ceil(96 / min(images.shape[-2:])))
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


def check_png(path: str | Path, force: bool) -> None:
    """What `save_png` would refuse, refused before the work is done."""
    check_name(path, (".png",), force)


def save_png(
    picture: Image.Image, path: str | Path, settings: dict[str, Any] | None = None, force: bool = False
) -> Path:
    """Write a PNG in one move; `settings` become its text chunks. An existing file stays unless `force`."""
    check_png(path, force)
    info = PngImagePlugin.PngInfo()
    for key, value in (settings or {}).items():
        info.add_itxt(key, str(value))
    return write_whole(path, lambda file: picture.save(file, "PNG", pnginfo=info), force)
