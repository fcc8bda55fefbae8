"""Animated GIF and WebP (and PNG, read alone): frames with their times, through Pillow and nothing else.

They are put together here from single pictures, because Pillow's writer and libwebp's encoder merge equal neighbours:
a clip in which nothing moves for a while would come back shorter. Layouts: the GIF89a specification; RFC 9649 (WebP).
"""

import io
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

from PIL import Image, ImageChops, ImageSequence, UnidentifiedImageError

FORMATS = ("GIF", "WEBP", "PNG")
UNITS = {".gif": 100, ".webp": 1000}
"""In what part of a second a format counts."""
MAX_FPS = {".gif": 50, ".webp": 90}
"""Browsers show a frame of ten milliseconds or less for a tenth of a second."""
SHORTEST, DEFAULT = 0.01, 0.1


def opened(path: Path) -> Image.Image | None:
    """The file where its content is one of these formats, whatever its name says; else None."""
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        return None


def timed(animation: Image.Image) -> Iterator[tuple[float, float, Image.Image]]:
    """(its beginning, how long it is shown, the picture) of every frame, in seconds, as browsers show them."""
    begins = 0.0
    for picture in ImageSequence.Iterator(animation):
        picture.load()
        lasts = (picture.info.get("duration") or 0) / 1000
        lasts = lasts if lasts > SHORTEST else DEFAULT
        yield begins, lasts, picture.copy()
        begins += lasts


def delays(frames: int, fps: float, unit: int) -> list[int]:
    """How long each frame is shown, in 1 / unit seconds: no frame begins more than half a unit beside its time."""
    times = [round(frame * unit / fps) for frame in range(frames + 1)]
    return [later - time for time, later in pairwise(times)]


def write_gif(frames: Sequence[Image.Image], file: IO[bytes], fps: float, comment: bytes) -> None:
    """A GIF that runs for ever. Greys are exact; a frame in colour has 256 of them at most."""
    file.write(b"GIF89a" + struct.pack("<HHBBB", *frames[0].size, 0x70, 0, 0))
    file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")
    if comment:
        parts = [comment[start : start + 255] for start in range(0, len(comment), 255)]
        file.write(b"\x21\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0")
    for delay, (left, top, part) in zip(delays(len(frames), fps, UNITS[".gif"]), _changes(frames)):
        flags, palette, data = _gif_image(part)
        file.write(b"\x21\xf9\x04\x04" + struct.pack("<H", delay) + b"\0\0")
        file.write(b"\x2c" + struct.pack("<HHHHB", left, top, *part.size, flags) + palette + data)
    file.write(b";")


def write_webp(frames: Sequence[Image.Image], file: IO[bytes], fps: float) -> None:
    """A lossless WebP that runs for ever."""
    width, height = frames[0].size
    chunks = [_chunk(b"VP8X", struct.pack("<I", 0x02) + _three(width - 1) + _three(height - 1))]
    chunks.append(_chunk(b"ANIM", b"\xff\xff\xff\xff\0\0"))
    for delay, (left, top, part) in zip(delays(len(frames), fps, UNITS[".webp"]), _changes(frames)):
        still = io.BytesIO()
        part.save(still, "WEBP", lossless=True)
        numbers = (left // 2, top // 2, part.width - 1, part.height - 1, delay)
        head = b"".join(map(_three, numbers)) + b"\x02"  # laid over the last frame, not blended
        chunks.append(_chunk(b"ANMF", head + still.getvalue()[12:]))
    body = b"WEBP" + b"".join(chunks)
    file.write(b"RIFF" + struct.pack("<I", len(body)) + body)


def _changes(frames: Sequence[Image.Image]) -> Iterator[tuple[int, int, Image.Image]]:
    """(left, top, the rectangle that differs from the frame before) of each; one pixel where nothing does."""
    before = None
    for frame in frames:
        left, top, right, low = (0, 0, *frame.size)
        if before is not None:
            left, top, right, low = ImageChops.difference(frame, before).getbbox() or (0, 0, 1, 1)
        left, top, before = left - left % 2, top - top % 2, frame  # WebP counts corners in twos
        yield left, top, frame.crop((left, top, right, low))


def _gif_image(picture: Image.Image) -> tuple[int, bytes, bytes]:
    """(flags of a local palette, the palette, the pixels) of one picture, from a GIF that Pillow writes of it."""
    whole = io.BytesIO()
    picture.save(whole, "GIF", interlace=False)
    data = whole.getvalue()
    bits = data[10] & 0x07
    at = 13 + 3 * 2 ** (bits + 1)
    palette = data[13:at]
    while data[at] == 0x21:  # extensions: a block of a length, again and again, until one has none
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return 0x80 | bits, palette, data[at + 10 : -1]


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")
