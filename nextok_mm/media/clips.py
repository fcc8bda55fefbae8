"""Clips in and out: video files through PyAV, animations and strips of frames through Pillow.

What comes in is untrusted: sizes are read from the header before a frame is decoded, and no more frames are decoded
than are needed. What goes out is written in one move and never silently replaces a file.

Clips are float [n, C, T, H, W] in [0, 1].
"""

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from torch import Tensor

from ..files import check_name, write_whole
from . import pictures as media
from .pictures import Fit

ENDINGS = (".mp4", ".gif", ".webp", ".png")
INPUTS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v")
FPS = 8.0
MAX_BYTES = 1 << 30
MAX_FRAMES = 100_000
"""Frames that are looked at in one file at most."""


def read_clip(
    path: str | Path,
    channels: int,
    size: Sequence[int],
    fit: Fit = "exact",
    fps: float | None = None,
    start: float = 0.0,
) -> Tensor:
    """The first frames of a video as [1, channels, T, H, W] of `size` (frames, height, width).

    fit: as of media.read_image; fps: frames a second that are taken (None: every frame); start: in seconds.
    ValueError in one line for a file that is missing, too large, damaged, truncated, too short or no video.
    """
    frames, height, width = size
    taken = []
    for picture in pictures(path, fps, start):
        taken.append(media.to_tensor(picture, channels, (height, width), fit, f"clip {path}"))
        if len(taken) == frames:
            return torch.stack(taken, dim=2)
    rate = "" if fps is None else f" at {fps:g} frames a second"
    raise ValueError(f"clip {path}: {len(taken)} frames{rate}, accepted: {frames} or more (a truncated file?)")


def pictures(path: str | Path, fps: float | None = None, start: float = 0.0) -> Iterator[Image.Image]:
    """A video's frames from `start` on, one after another: all, or `fps` a second (repeated where it has fewer).

    ValueError in one line where the file is missing, too large, damaged or no video, or isn't whole.
    """
    av, path = _av(), Path(path)
    if not path.is_file():
        raise ValueError(f"clip: no file {str(path)!r}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"clip {path}: {path.stat().st_size} bytes, at most {MAX_BYTES} accepted")
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"fps: got {fps}, accepted: above 0, at most 1000")
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            stream = container.streams.video[0]
            if stream.width * stream.height == 0:  # such as an animated WebP
                raise ValueError(f"pictures of no size, accepted: {', '.join(INPUTS)}")
            if stream.width * stream.height > media.MAX_PIXELS:
                raise ValueError(f"{stream.width} x {stream.height} pixels, at most {media.MAX_PIXELS} are accepted")
            if start > 0:
                container.seek(round(start * av.time_base))  # to a key frame before it
            yield from _sampled(container.decode(stream), stream, fps, start)
    except av.FFmpegError as error:
        raise ValueError(f"clip {path}: damaged, truncated or no video ({error.strerror})") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"clip {path}: {' '.join(str(error).split())[:200]}") from None


def length(path: str | Path) -> tuple[float, float]:
    """(seconds, frames a second) that a video says it has; ValueError in one line where it can't be opened."""
    av = _av()
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.video[0]
            return max(0.0, (container.duration or 0) / av.time_base), _rate(stream)
    except (OSError, IndexError, av.FFmpegError) as error:
        raise ValueError(f"clip {path}: damaged, truncated or no video ({error})") from None


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _sampled(frames: Any, stream: Any, fps: float | None, start: float) -> Iterator[Image.Image]:
    """The frames at start, start + 1 / fps ...: of each moment the one that is shown then."""
    rate = _rate(stream)
    shown, due = None, start
    for index, frame in enumerate(frames):
        if index >= MAX_FRAMES:
            raise ValueError(f"more than {MAX_FRAMES} frames before those asked for")
        time = frame.time if frame.time is not None else index / rate
        if fps is None:
            if time >= start - 1e-6:
                yield frame.to_image()
            continue
        while shown is not None and time > due + 1e-6:
            yield shown.to_image()
            due += 1 / fps
        shown = frame
    if fps is not None and shown is not None:
        yield shown.to_image()


def sheets(clips: Tensor, columns: int | None = None, zoom: int | None = None) -> list[Image.Image]:
    """The frames of all clips side by side: one picture for each moment (see media.grid)."""
    _check(clips)
    return [media.grid(clips[:, :, frame], columns, zoom) for frame in range(clips.shape[2])]


def strip(clips: Tensor, zoom: int | None = None) -> Image.Image:
    """Every clip as a row of its frames, in one picture."""
    _check(clips)
    return media.grid(clips.transpose(1, 2).flatten(0, 1), clips.shape[2], zoom)


def check_out(path: str | Path, force: bool, fps: float = FPS) -> None:
    """What `save_clips` would refuse, refused before the work is done."""
    check_name(path, ENDINGS, force)
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps: got {fps}, accepted: 0.01 to 1000")
    if Path(path).suffix.lower() == ".mp4":
        _av()


def save(
    images: Tensor,
    path: str | Path,
    settings: dict[str, Any] | None = None,
    force: bool = False,
    columns: int | None = None,
    zoom: int | None = None,
    fps: float = FPS,
) -> Path:
    """Write pictures [n, C, H, W] as one PNG, or clips [n, C, T, H, W] as the name's ending says."""
    if images.dim() == 5:
        return save_clips(images, path, settings, force, columns, zoom, fps)
    return media.save_png(media.grid(images, columns, zoom), path, settings, force)


def save_clips(
    clips: Tensor,
    path: str | Path,
    settings: dict[str, Any] | None = None,
    force: bool = False,
    columns: int | None = None,
    zoom: int | None = None,
    fps: float = FPS,
) -> Path:
    """Write clips by the name's ending: .mp4 (H.264), .gif and .webp (animations) show them side by side, .png as rows
    of frames. `settings` go into the file where its format has room for text (MP4, PNG, GIF)."""
    check_out(path, force, fps)
    ending, settings = Path(path).suffix.lower(), settings or {}
    if ending == ".png":
        return media.save_png(strip(clips, zoom), path, settings, force)
    frames = sheets(clips, columns, zoom)
    if ending == ".mp4":
        return write_whole(path, lambda file: _write_mp4(frames, file, fps, settings), force)
    extra: dict[str, Any] = {"comment": json.dumps(settings).encode()} if ending == ".gif" else {"lossless": True}
    options = {"save_all": True, "append_images": frames[1:], "duration": round(1000 / fps), "loop": 0, **extra}
    return write_whole(path, lambda file: frames[0].save(file, ending[1:].upper(), **options), force)


def _write_mp4(frames: list[Image.Image], file: IO[bytes], fps: float, settings: dict[str, Any]) -> None:
    """H.264 in MP4; it needs even sides, so an odd one gets a white line."""
    av = _av()
    width, height = (side + side % 2 for side in frames[0].size)
    with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        for key, value in settings.items():
            container.metadata[key] = str(value)
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "14"}
        for frame in frames:
            paper = Image.new("RGB", (width, height), "white")
            paper.paste(frame)
            container.mux(stream.encode(av.VideoFrame.from_image(paper)))
        container.mux(stream.encode(None))


def _check(clips: Tensor) -> None:
    if clips.dim() != 5 or not clips.numel():
        shape = tuple(clips.shape)
        raise ValueError(f"clips: got shape {shape}, accepted: [n, channels, frames, height, width], none of them 0")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ValueError("video files need PyAV: pip install 'nextok_mm[video]'") from None
    return av
