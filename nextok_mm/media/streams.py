"""Frames of video files through PyAV, as players show them: upright, of square pixels, opaque, in BT.709's colors.

What only the file says about a frame is applied here and nowhere else, so whoever gets a picture can take it as it is.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from . import pictures as media

Timed = tuple[float, float, Callable[[], Image.Image]]
"""When a frame begins, how long it is shown (seconds), and what makes its picture, which nobody may want."""
COVER = 0x400  # AV_DISPOSITION_ATTACHED_PIC
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
TURNS = {  # of a display matrix: x' = a x + c y, y' = b x + d y, as (a, b, c, d)
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # Pillow turns counter-clockwise
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def pyav() -> Any:
    """The module `av`; ValueError says how to install it."""
    try:
        import av
    except ImportError:
        raise ValueError("video files need PyAV: pip install 'nextok_mm[video]'") from None
    return av


def decoded(path: Path, start: float) -> Iterator[Timed]:
    """The frames from the last key frame before `start` on, in seconds from the file's first frame.

    Raises what PyAV raises, and ValueError for a file without video or of too many pixels.
    """
    with _container(path) as container:
        stream = _stream(container)
        unit, rate = stream.time_base, _rate(stream)
        first = float(stream.start_time * unit) if stream.start_time is not None and unit else 0.0
        if start > 0:
            container.seek(round((start + first) * pyav().time_base))
        begins, lasts, pixel = 0.0, 0.0, _pixel(stream)
        for frame in _frames(container, stream):
            begins = frame.time - first if frame.time is not None else begins + lasts
            lasts = float((getattr(frame, "duration", 0) or 0) * (frame.time_base or 0)) or 1 / rate
            yield begins, lasts, lambda frame=frame: _shown(frame, pixel)


def length(path: Path) -> tuple[float, float]:
    """(seconds, frames per second) that the file says it has."""
    with _container(path) as container:
        stream = _stream(container)
        if stream.duration and stream.time_base:  # the file's own may be that of its sound
            return max(0.0, float(stream.duration * stream.time_base)), _rate(stream)
        return max(0.0, (container.duration or 0) / pyav().time_base), _rate(stream)


def _container(path: Path) -> Any:
    # An absolute path, since `12:30.mp4` by itself would name a file of the protocol `12`.
    return pyav().open(str(path.absolute()), options={"protocol_whitelist": "file"})


def _stream(container: Any) -> Any:
    """The first stream of moving pictures; a cover is a stream of pictures too, and isn't it."""
    for stream in container.streams.video:
        if not int(stream.disposition) & COVER:
            if stream.width * stream.height == 0:
                raise ValueError("pictures of no size")
            media.bounded(stream.width, stream.height)
            return stream
    raise ValueError("no video in it")


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """The decoded frames; those of a WebM with an alpha channel by the decoder that reads it."""
    name = stream.codec_context.name
    if stream.metadata.get("alpha_mode") == "1" and name in ALPHA_DECODERS:
        decoder = pyav().CodecContext.create(ALPHA_DECODERS[name], "r")
        for packet in container.demux(stream):
            yield from decoder.decode(packet)
    else:
        yield from container.decode(stream)


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _pixel(stream: Any) -> float:
    """How wide a pixel is for its height; a ratio beyond reason is taken for a mistake in the file."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio and 1 / 8 <= ratio <= 8 else 1.0


def _shown(frame: Any, pixel: float) -> Image.Image:
    """A frame as a player shows it."""
    media.bounded(frame.width, frame.height)
    clear = any(component.is_alpha for component in frame.format.components)
    pixels = frame.to_ndarray(format="rgba" if clear else "rgb24", **_colors(frame))
    picture = media.flat(Image.fromarray(pixels))
    if pixel != 1:  # the shorter side grows, so that nothing is lost before `fit`
        width, height = round(picture.width * max(1, pixel)), round(picture.height * max(1, 1 / pixel))
        media.bounded(width, height)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    turn = _turn(frame)
    return picture if turn is None else picture.transpose(turn)


def _colors(frame: Any) -> dict[str, int]:
    """What HDR (PQ, HLG) or a wide gamut (BT.2020, P3) is brought to: BT.709, with diffuse white as white."""
    wide = getattr(frame, "color_trc", 2) in (16, 18) or getattr(frame, "color_primaries", 2) in (9, 11, 12)
    return {"dst_color_trc": 1, "dst_color_primaries": 1} if wide else {}


def _turn(frame: Any) -> Image.Transpose | None:
    """What the display matrix asks for, to the nearest right angle (`frame.rotation` says nothing of mirroring)."""
    try:
        a, b, _, c, d, *_ = struct.unpack("9i", bytes(frame.side_data["DISPLAYMATRIX"]))
    except (KeyError, struct.error):
        return None
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return TURNS[(-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)]
    return TURNS[0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0]
