"""Videos as phones and screens make them: read as a player shows them."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextok_mm.media import clips as video

av = pytest.importorskip("av")
ONE = 1 << 16


def quarters(
    width: int = 64, height: int = 48, colors: Sequence[str] = ("red", "lime", "blue", "white")
) -> Image.Image:
    """A color in each quarter, so that no turn and no mirroring looks like another."""
    picture = Image.new("RGB", (width, height))
    for place, color in enumerate(colors):
        left, top = place % 2 * width // 2, place // 2 * height // 2
        picture.paste(color, (left, top, left + width // 2, top + height // 2))
    return picture


def written(
    path: Path,
    frames: Sequence[Image.Image],
    codec="libx264",
    form="yuv420p",
    times=None,
    ratio=None,
    cover=None,
    **tags,
) -> Path:
    """A video file by other means than the product's."""
    with av.open(str(path), "w") as container:
        first = container.add_stream("mjpeg", rate=1) if cover is not None else None
        if first is not None:
            first.width, first.height, first.pix_fmt, first.disposition = *cover.size, "yuvj420p", 0x400
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, form
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if first is not None:
            container.mux(first.encode(av.VideoFrame.from_image(cover)))
            container.mux(first.encode(None))
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), "rgba" if picture.mode == "RGBA" else "rgb24")
            if frame.format.name != form:
                frame = frame.reformat(format=form)
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """The display matrix that a phone writes into the track's header, in an MP4 that has none."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 52 if data[at] else 40
    assert struct.unpack(">9i", data[at : at + 36]) == (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def close(picture: Image.Image, wanted: Image.Image, within: float = 12) -> bool:
    """The middles of all quarters have the same color."""
    assert picture.size == wanted.size
    places = [(x * wanted.width // 4, y * wanted.height // 4) for x in (1, 3) for y in (1, 3)]
    pairs = [(picture.getpixel(at), wanted.getpixel(at)) for at in places]
    return max(abs(one - other) for pair in pairs for one, other in zip(*pair)) <= within


@pytest.mark.parametrize(
    ("matrix", "colors", "upright"),
    [
        ((0, 1, -1, 0), ("blue", "red", "white", "lime"), True),  # a phone held upright: turned clockwise
        ((-1, 0, 0, -1), ("white", "blue", "lime", "red"), False),
        ((0, -1, 1, 0), ("lime", "white", "red", "blue"), True),
        ((-1, 0, 0, 1), ("lime", "red", "white", "blue"), False),  # a front camera's mirror
        ((1, 0, 0, -1), ("blue", "white", "red", "lime"), False),
        ((0, 1, 1, 0), ("red", "blue", "lime", "white"), True),
        ((0, -1, -1, 0), ("white", "lime", "blue", "red"), True),
    ],
)
def test_phones_videos_stand_upright(tmp_path, matrix, colors, upright) -> None:
    path = with_matrix(written(tmp_path / "a.mp4", [quarters()] * 3), *matrix)
    wanted = quarters(*((48, 64) if upright else (64, 48)), colors)
    assert all(close(picture, wanted) for picture in video.pictures(path))
    assert video.size(path) == wanted.size
    assert video.read_clip(path, 3, (2, wanted.height // 4, wanted.width // 4)).shape[2] == 2  # its shown aspect


@pytest.mark.parametrize(
    ("ratio", "shown"), [(Fraction(2), (128, 48)), (Fraction(1, 2), (64, 96)), (Fraction(1, 99), None)]
)
def test_pixels_become_square(tmp_path, ratio, shown) -> None:
    path = written(tmp_path / "a.mp4", [quarters()] * 2, ratio=ratio)
    assert close(next(video.pictures(path)), quarters(*(shown or (64, 48))))
    turned = with_matrix(path, 0, 1, -1, 0)  # stretched as it is stored, then turned
    assert video.size(turned) == (shown or (64, 48))[::-1]


def test_written_colors_are_tagged_and_come_back(tmp_path) -> None:
    colors = ("red", "#20a040", "#3050e0", "#e0c040")
    clip = torch.tensor(np.asarray(quarters(8, 8, colors))).permute(2, 0, 1)[None, :, None] / 255
    path = video.save_clips(clip.repeat(1, 1, 4, 1, 1), tmp_path / "a.mp4")
    wanted = np.asarray(quarters(96, 96, colors)).astype(int)
    with av.open(str(path)) as opened:
        frame = next(opened.decode(video=0))
        assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (1, 1, 1, 1)
        other = np.asarray(frame.to_image(src_colorspace="ITU601")).astype(int)
    for picture in video.pictures(path):
        assert np.abs(np.asarray(picture) - wanted).mean() < 2.5
    assert np.abs(other - wanted).mean() > 6  # what a player shows that takes one matrix for the other


def test_full_range_and_hdr_are_brought_to_what_a_screen_shows(tmp_path) -> None:
    grey = Image.new("RGB", (64, 64), (60, 60, 60))
    full = written(tmp_path / "full.mp4", [grey] * 3, form="yuvj420p", color_range=2)
    assert abs(np.asarray(next(video.pictures(full))).astype(int) - 60).max() <= 3
    try:
        av.Codec("libx265", "w")
        av.VideoFrame(8, 8, "rgb24").reformat(dst_color_trc=1)
    except Exception:
        pytest.skip("this PyAV has no x265, or doesn't convert transfers")
    with av.open(str(tmp_path / "hdr.mp4"), "w") as container:  # HLG's diffuse white: 0.75 of the signal, 10 bits
        stream = container.add_stream("libx265", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        tags = "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc:log-level=none"
        stream.options = {"x265-params": tags}
        for _ in range(4):
            frame = av.VideoFrame(64, 64, "yuv420p10le")
            for plane, value in zip(frame.planes, (64 + 657, 512, 512)):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.asarray(next(video.pictures(tmp_path / "hdr.mp4"))).min() >= 250


def test_what_is_see_through_lies_on_white(tmp_path) -> None:
    clear = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    clear.paste((0, 0, 200, 255), (0, 0, 32, 64))
    path = written(tmp_path / "a.webm", [clear] * 3, "libvpx-vp9", "yuva420p")
    for picture in video.pictures(path):
        assert min(picture.getpixel((48, 32))) > 240 and picture.getpixel((16, 32))[0] < 60


def test_uneven_frames_are_shown_as_long_as_they_say(tmp_path) -> None:
    """A screen recording: nothing moves for a while, and its first frame isn't at zero."""
    shades = [Image.new("L", (32, 32), 40 * number).convert("RGB") for number in range(1, 5)]
    path = written(tmp_path / "a.mkv", shades, "ffv1", "bgr0", times=[1000, 1100, 1500, 1600])
    seen = [round(np.asarray(picture).mean() / 40) for picture in video.pictures(path, fps=10)]
    assert seen[:6] == [1, 2, 2, 2, 2, 3] and seen[6] == 4
    assert [round(np.asarray(picture).mean() / 40) for picture in video.pictures(path)] == [1, 2, 3, 4]
    late = video.pictures(path, fps=10, start=0.5)
    assert [round(np.asarray(picture).mean() / 40) for picture in late][:2] == [3, 4]


def test_a_cover_and_sound_are_no_video(tmp_path) -> None:
    path = written(tmp_path / "a.mp4", [quarters()] * 3, cover=Image.new("RGB", (32, 32), "black"))
    assert close(next(video.pictures(path)), quarters())
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for read in (lambda path: list(video.pictures(path)), video.length):
        with pytest.raises(ValueError, match=r"b.mkv: no video in it"):
            read(tmp_path / "b.mkv")


def test_names_are_names_of_files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.MP4", "Übung an der Tür.mp4", "a%d.mp4"):
        (tmp_path / name).write_bytes(written(tmp_path / "made.mp4", [quarters()]).read_bytes())
        assert video.read_clip(name, 3, (1, 12, 16)).shape == (1, 3, 1, 12, 16)


def test_damaged_videos_are_one_line(tmp_path) -> None:
    """Bits anywhere: refused in one line, or read as something in range."""
    whole = {}
    for ending, codec, form in ((".mp4", "libx264", "yuv420p"), (".webm", "libvpx-vp9", "yuva420p")):
        whole[ending] = written(tmp_path / f"whole{ending}", [quarters()] * 4, codec, form).read_bytes()
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (10, 200, 90)]
    for ending in (".gif", ".webp"):
        file = io.BytesIO()
        frames[0].save(file, ending[1:].upper(), save_all=True, append_images=frames[1:])
        whole[ending] = file.getvalue()
    dice = np.random.default_rng(0)
    for number in range(120):
        ending = list(whole)[number % 4]
        data = bytearray(whole[ending])
        for _ in range(dice.integers(1, 20)):
            data[dice.integers(len(data))] = dice.integers(256)
        path = tmp_path / f"damaged{ending}"
        path.write_bytes(data[: dice.integers(len(data))] if number % 5 == 0 else data)
        try:
            clip = video.read_clip(path, 3, (2, 8, 8), "crop")
            video.length(path)
        except ValueError as error:
            assert "\n" not in str(error) and str(error).startswith("clip ")
        else:
            assert clip.shape == (1, 3, 2, 8, 8) and 0 <= clip.min() <= clip.max() <= 1
