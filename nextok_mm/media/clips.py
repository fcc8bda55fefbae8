"""Clips in and out: video files through PyAV, animations and strips of frames through Pillow.

What comes in is untrusted: sizes are read from the header before a frame is decoded, and no more frames are decoded
than are needed. A frame is read as players show it: turned and mirrored by its display matrix, with square pixels, HDR
brought to BT.709, what is see-through on white (streams.py). What goes out is written in one move and never silently
replaces a file.

Clips are float [n, C, T, H, W] in [0, 1].
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, SupportsFloat

import torch
from PIL import Image
from torch import Tensor

from ..config import shown
from ..files import check_name, in_line, write_whole
from . import animations, streams
from . import pictures as media
from .arrays import from_array
from .medium import Fit, Medium, Saving, png
from .streams import Timed

ENDINGS = (".mp4", ".gif", ".webp", ".png")
INPUTS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v", ".3gp", ".webp")
MAX_SIDE = {".mp4": 16_384, ".gif": 65_535, ".webp": 16_383}
FPS = 8.0
MAX_BYTES = 1 << 30
MAX_FRAMES = 100_000
"""Frames that are looked at in one file at most."""


@dataclass(frozen=True)
class Clips(Medium):
    """Clips [B, C, T, H, W] in [0, 1].

    Attributes:
        channels: 1 is grey, 3 is color.
        size: (frames, height, width) of the clips that a tokenizer was trained on, to which files are brought.
    """

    channels: int
    size: tuple[int, int, int]
    name: ClassVar[str] = "clip"
    plural: ClassVar[str] = "clips"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    temporal: ClassVar[bool] = True
    axes: ClassVar[tuple[str, ...]] = ("channels", "frames", "height", "width")
    rank: ClassVar[int] = 5

    def take(self, given: Any, fit: Fit = "exact") -> Tensor:
        """See `Medium.take`. Files give their first frames; tensors and arrays stay as they are."""
        return media.joined([self._one(part, fit) for part in media.listed(given)])

    def _one(self, given: Any, fit: Fit) -> Tensor:
        if isinstance(given, str | Path):
            return self.read(given, fit)
        if isinstance(given, Image.Image):
            raise ValueError("images: got a picture, accepted: clips, as an array [frames, height, width, channels]")
        return from_array(given, self.channels, self.rank)

    def read(self, path: str | Path, fit: Fit = "exact", frames: int | None = None) -> Tensor:
        """The first frames of a file (None: as many as `size` says); see `read_clip`."""
        return read_clip(path, self.channels, (frames or self.size[0], *self.size[1:]), fit)

    def changed(self, path: str | Path, fit: Fit) -> str:
        """See `Medium.changed`."""
        return media.changed(size(path), (self.size[2], self.size[1]), fit)

    def empty(self, n: int) -> Tensor:
        """Clips of no frames."""
        return torch.zeros(n, self.channels, 0, *self.size[1:])

    def check_out(self, path: str | Path, force: bool = False, how: Saving | None = None) -> None:
        """See `check_out`."""
        check_out(path, force, (how or Saving()).fps)

    def check_sheet(self, n: int, columns: int | None = None) -> None:
        """See `Medium.check_sheet`."""
        media.check_sheet(n, columns, self.size[1:])

    def save(
        self,
        data: Tensor,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        how: Saving | None = None,
    ) -> Path:
        """Side by side in one .mp4, .gif or .webp, or as rows of frames in one .png; see `save_clips`."""
        how = how or Saving()
        return save_clips(data, path, settings, force, how.columns, how.zoom, how.fps)

    def tiles(self, data: Tensor) -> tuple[Tensor, int | None]:
        """Frames, one row per clip."""
        return data.transpose(1, 2).flatten(0, 1), data.shape[2]

    def stills(self, data: Tensor) -> list[Image.Image]:
        """Each clip as a row of its frames."""
        return [strip(clip[None]) for clip in data]

    def sheet(self, data: Tensor, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """Every clip as a row of its frames."""
        return strip(data, zoom)

    def shown(self, data: Tensor) -> Mapping[str, bytes]:
        """They move in a notebook."""
        buffer = io.BytesIO()
        animations.write_webp(sheets(data), buffer, FPS)
        return {"image/webp": buffer.getvalue(), "image/png": png(self.sheet(data))}


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
        taken.append(media.to_tensor(picture, channels, (height, width), fit, f"clip {in_line(path)}"))
        if len(taken) == frames:
            return torch.stack(taken, dim=2)
    rate = "" if fps is None else f" at {fps:g} frames a second"
    raise ValueError(f"clip {in_line(path)}: {len(taken)} frames{rate}, accepted: {frames} or more (a truncated file?)")


def size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a video's first frame, as it is shown; ValueError as of `pictures`."""
    for picture in pictures(path):
        return picture.size
    raise ValueError(f"clip {in_line(path)}: 0 frames, accepted: 1 or more (a truncated file?)")


def pictures(path: str | Path, fps: float | None = None, start: float = 0.0) -> Iterator[Image.Image]:
    """A video's frames from `start` on, one after another: all, or `fps` a second (repeated where it has fewer).

    ValueError in one line where the file is missing, too large, damaged or no video, or isn't whole.
    """
    path = _checked(path)
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"fps: got {fps}, accepted: above 0, at most 1000")
    try:
        animation = animations.opened(path)
        if animation is None:
            yield from _sampled(streams.decoded(path, start), fps, start, 5.1e-4)
            return
        with animation:
            media.bounded(*animation.size)
            frames = ((at, lasts, partial(media.flat, picture)) for at, lasts, picture in animations.timed(animation))
            yield from _sampled(frames, fps, start, 0.51 / (100 if animation.format == "GIF" else 1000))
    except Exception as error:
        raise _one_line(path, error) from None


def length(path: str | Path) -> tuple[float, float]:
    """(seconds, frames a second) that a video says it has; ValueError in one line where it can't be opened."""
    path = _checked(path)
    try:
        animation = animations.opened(path)
        if animation is not None:
            with animation:
                media.bounded(*animation.size)
                lasts = [seconds for _, seconds, _ in animations.timed(animation)]
            return sum(lasts), len(lasts) / sum(lasts)
        return streams.length(path)
    except Exception as error:
        raise _one_line(path, error) from None


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"clip: no file {str(path)!r}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"clip {in_line(path)}: {path.stat().st_size} bytes, at most {MAX_BYTES} accepted")
    return path


def _one_line(path: Path, error: Exception) -> ValueError:
    """What a file made its reader stumble over, as the one line that a user reads."""
    words = " ".join(str(error).split())[:200]
    if type(error).__module__.startswith("av"):
        words = f"damaged, truncated or no video ({getattr(error, 'strerror', None) or words})"
    elif not isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError)):
        words = f"damaged ({type(error).__name__})"
    return ValueError(f"clip {in_line(path)}: {words}")


def _sampled(frames: Iterable[Timed], fps: float | None, start: float, rounded: float) -> Iterator[Image.Image]:
    """The frames at start, start + 1 / fps ...: of each moment the one that is shown then.

    rounded: seconds by which the times of frames may be off, because a format counts in units of its own.
    """
    shown, count, ends = None, 0, 0.0
    for index, (begins, lasts, picture) in enumerate(frames):
        if index >= MAX_FRAMES:
            raise ValueError(f"more than {MAX_FRAMES} frames before those asked for")
        if fps is None:
            if begins >= start - 1e-6:
                yield picture()
            continue
        while shown is not None and begins > start + count / fps + rounded:
            yield shown()
            count += 1
        shown, ends = picture, begins + lasts
    while fps is not None and shown is not None and ends > start + count / fps + rounded:
        yield shown()
        count += 1


def sheets(clips: Tensor, columns: int | None = None, zoom: int | None = None) -> list[Image.Image]:
    """The frames of all clips side by side: one picture for each moment (see media.sheet)."""
    _check(clips)
    return [media.sheet(clips[:, :, frame], columns, zoom) for frame in range(clips.shape[2])]


def strip(clips: Tensor, zoom: int | None = None) -> Image.Image:
    """Every clip as a row of its frames, in one picture."""
    _check(clips)
    return media.sheet(clips.transpose(1, 2).flatten(0, 1), clips.shape[2], zoom)


def check_out(path: str | Path, force: bool, fps: float = FPS) -> None:
    """What `save_clips` would refuse, refused before the work is done."""
    check_name(path, ENDINGS, force)
    if isinstance(fps, bool | str) or not isinstance(fps, SupportsFloat) or not 0.01 <= float(fps) <= 1000:
        raise ValueError(f"fps: got {shown(fps)}, accepted: 0.01 to 1000")
    fps = float(fps)
    ending = Path(path).suffix.lower()
    if fps > animations.MAX_FPS.get(ending, 1000):
        most = animations.MAX_FPS[ending]
        raise ValueError(
            f"fps: got {fps:g} for {ending}, accepted: 0.01 to {most} (players show shorter frames for a tenth of a"
            " second), or a name that ends with .mp4"
        )
    if ending == ".mp4":
        streams.pyav()


def save_clips(
    clips: Tensor,
    path: str | Path,
    settings: Mapping[str, Any] | None = None,
    force: bool = False,
    columns: int | None = None,
    zoom: int | None = None,
    fps: float = FPS,
) -> Path:
    """Write clips by the name's ending: .mp4 (H.264), .gif and .webp (animations) show them side by side, .png as rows
    of frames. `settings` go into the file where its format has room for text (MP4, PNG, GIF)."""
    check_out(path, force, fps)
    fps = float(fps)  # of numpy, too
    ending, settings = Path(path).suffix.lower(), dict(settings or {})
    if ending == ".png":
        return media.save_picture(strip(clips, zoom), path, settings, force)
    if ending == ".mp4" and zoom is None:  # H.264 needs even sides
        least = media.least_zoom(*clips.shape[-2:])
        zoom = least + least % 2 if clips.shape[-2] % 2 or clips.shape[-1] % 2 else least
    frames = sheets(clips, columns, zoom)
    if max(frames[0].size) > MAX_SIDE[ending]:
        got = f"{frames[0].width} x {frames[0].height} pixels"
        raise ValueError(f"out: {str(path)!r} would have {got}, accepted: sides of at most {MAX_SIDE[ending]}")
    if ending == ".mp4":
        return write_whole(path, lambda file: _write_mp4(frames, file, fps, settings), force)
    if ending == ".webp":
        return write_whole(path, lambda file: animations.write_webp(frames, file, fps), force)
    comment = json.dumps(settings).encode()
    return write_whole(path, lambda file: animations.write_gif(frames, file, fps, comment), force)


def _write_mp4(frames: list[Image.Image], file: IO[bytes], fps: float, settings: dict[str, Any]) -> None:
    """H.264 in MP4, in the colours that its tags name (BT.709, studio range). An odd side gets a white line."""
    av = streams.pyav()
    width, height = (side + side % 2 for side in frames[0].size)
    with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        for key, value in settings.items():
            container.metadata[key] = str(value)
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "14"}
        coder = stream.codec_context
        coder.color_primaries = coder.color_trc = coder.colorspace = coder.color_range = 1
        for frame in frames:
            paper = Image.new("RGB", (width, height), "white")
            paper.paste(frame)
            picture = av.VideoFrame.from_image(paper).reformat(format="yuv420p", dst_colorspace="ITU709")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _check(clips: Tensor) -> None:
    if clips.dim() != 5 or not clips.numel():
        shape = tuple(clips.shape)
        raise ValueError(f"clips: got shape {shape}, accepted: [n, channels, frames, height, width], none of them 0")
