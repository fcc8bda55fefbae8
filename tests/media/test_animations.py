"""GIF and WebP: what was written is read back, frame by frame, at its rate."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nextok_mm.media import animations
from nextok_mm.media import clips as video

QUICK = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
@given(
    frames=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    zoom=st.integers(1, 3),
    fps=st.sampled_from([0.5, 1, 3, 7.3, 8, 12, 24, 25, 29.97, 30, 50]),
)
@QUICK
def test_clips_come_back_as_they_were(tmp_path, ending, frames, channels, height, width, zoom, fps) -> None:
    """Equal neighbours, few colors, any rate: number, content and times of the frames are kept."""
    shades = torch.randint(0, 256, (4, channels, height, width), generator=torch.Generator().manual_seed(0)) / 255
    clip = shades[frames].transpose(0, 1)[None]
    path = video.save_clips(clip, tmp_path / f"a{ending}", force=True, zoom=zoom, fps=fps)
    size = (len(frames), height, width)
    torch.testing.assert_close(video.read_clip(path, channels, size), clip, rtol=0, atol=1e-6)
    torch.testing.assert_close(video.read_clip(path, channels, size, fps=fps), clip, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=f": {len(frames)} frames"):
        video.read_clip(path, channels, (len(frames) + 1, height, width))
    seconds, rate = video.length(path)
    unit = 1 / animations.UNITS[ending]
    assert abs(seconds - len(frames) / fps) <= unit / 2 + 1e-9
    assert rate == pytest.approx(fps, rel=unit * fps / len(frames))


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_other_readers_see_the_same(tmp_path, ending) -> None:
    clip = torch.rand(1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(3, 2)
    path = video.save_clips(clip, tmp_path / f"a{ending}", {"nextok.seed": 3})
    with Image.open(path) as opened:
        times = []
        for frame in range(opened.n_frames):
            opened.seek(frame)
            opened.load()
            times.append(opened.info["duration"])
        assert len(times) == 9 and sum(times) in (1120, 1125, 1130) and max(times) - min(times) <= 10
        assert ending == ".webp" or b"nextok.seed" in opened.info["comment"]
    if ending == ".gif":
        av = pytest.importorskip("av")
        with av.open(str(path)) as container:
            assert len(list(container.decode(video=0))) == 9


@pytest.mark.parametrize(("ending", "most"), [(".gif", 50), (".webp", 90)])
def test_rates_that_players_would_not_keep_are_refused(tmp_path, ending, most) -> None:
    clip = torch.zeros(1, 1, 3, 8, 8)
    with pytest.raises(ValueError, match=rf"fps: got {most + 1} for {ending}, accepted: 0.01 to {most} .*\.mp4"):
        video.check_out(tmp_path / f"a{ending}", False, most + 1)
    path = video.save_clips(clip, tmp_path / f"a{ending}", fps=most)
    assert video.length(path)[1] == pytest.approx(most, rel=0.02)
    slow = video.save_clips(clip, tmp_path / f"slow{ending}", fps=0.01)
    assert video.length(slow) == (pytest.approx(300), pytest.approx(0.01))


def saved(path: Path, durations: list[int] | int | None) -> Path:
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 90, 200)]
    given = {} if durations is None else {"duration": durations}
    frames[0].save(path, save_all=True, append_images=frames[1:], **given)
    return path


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
@pytest.mark.parametrize("durations", [None, 0, 10])
def test_frames_without_a_duration_are_frames(tmp_path, ending, durations) -> None:
    path = saved(tmp_path / f"a.{ending}", durations)
    clip = video.read_clip(path, 1, (3, 8, 8))
    assert (clip[0, 0, :, 0, 0] * 255).round().tolist() == [10, 90, 200]
    assert len(list(video.pictures(path, fps=10))) == 3  # a tenth of a second each, as browsers show them


def test_frames_are_shown_as_long_as_they_say(tmp_path) -> None:
    path = saved(tmp_path / "a.gif", [100, 300, 200])
    shades = [np.asarray(picture).max() for picture in video.pictures(path, fps=10)]
    assert shades == [10, 90, 90, 90, 200, 200]
    assert [np.asarray(picture).max() for picture in video.pictures(path, fps=10, start=0.3)] == [90, 200, 200]


def test_clear_pixels_lie_on_white(tmp_path) -> None:
    frames = [Image.new("RGBA", (8, 8), (shade, 0, 0, 0)) for shade in (10, 90)]
    frames[1].putpixel((0, 0), (0, 0, 0, 255))
    for ending in ("gif", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], disposal=2, lossless=True)
        clip = video.read_clip(tmp_path / f"a.{ending}", 3, (2, 8, 8))
        assert clip[:, :, :, 4:].min() == 1 and clip[0, :, 1, 0, 0].max() == 0


def test_sides_beyond_a_format_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"would have 40000 x 1 pixels, accepted: sides of at most 16383"):
        video.save_clips(torch.zeros(1, 1, 1, 1, 40_000), tmp_path / "a.webp", zoom=1)
    assert not list(tmp_path.iterdir())


def test_a_name_says_nothing_of_the_content(tmp_path) -> None:
    """Animations are known by their first bytes: a GIF that is named .mp4 is one."""
    file = io.BytesIO()
    animations.write_gif([Image.new("L", (8, 8), 7)] * 4, file, 8, b"")
    (tmp_path / "a.mp4").write_bytes(file.getvalue())
    assert video.read_clip(tmp_path / "a.mp4", 1, (4, 8, 8)).max() == pytest.approx(7 / 255)
