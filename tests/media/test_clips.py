"""Clips go out by the name's ending and come back; what is damaged, truncated or too short is one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from nextok_mm.media import clips as video

av = pytest.importorskip("av")


def clips(n=2, channels=1, frames=6, size=16):
    """A bright square that moves right by two pixels a frame."""
    out = torch.zeros(n, channels, frames, size, size)
    for frame in range(frames):
        out[:, :, frame, 4:10, 2 * frame : 2 * frame + 4] = 1
    return out


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp"])
def test_a_clip_goes_out_and_comes_back(tmp_path, ending):
    path = video.save_clips(clips(1), tmp_path / f"clip{ending}", {"nextok.seed": 3}, zoom=4, fps=10)
    if ending == ".webp":  # FFmpeg reads no animated WebP; Pillow does
        with Image.open(path) as opened:
            assert opened.n_frames == 6
        return
    back = video.read_clip(path, 1, (6, 16, 16))
    assert (back - clips(1)).abs().mean() < 0.05
    assert video.length(path) == (pytest.approx(0.6, abs=0.15), pytest.approx(10))


def test_settings_are_kept_in_the_file(tmp_path):
    path = video.save_clips(clips(), tmp_path / "a.mp4", {"nextok.seed": 3})
    with av.open(str(path)) as opened:
        assert opened.metadata["nextok.seed"] == "3"


def test_a_strip_has_a_row_a_clip(tmp_path):
    with Image.open(video.save_clips(clips(2), tmp_path / "a.png", zoom=1)) as strip:
        assert strip.size == (6 * 18 - 2, 2 * 18 - 2)


def test_frames_are_taken_by_the_second(tmp_path):
    path = video.save_clips(clips(1), tmp_path / "a.mp4", zoom=4, fps=10)
    every_other = video.read_clip(path, 1, (3, 16, 16), fps=5)
    assert (every_other - clips(1)[:, :, ::2]).abs().mean() < 0.05
    doubled = video.read_clip(path, 1, (8, 16, 16), fps=20)
    assert (doubled - clips(1)[:, :, :4].repeat_interleave(2, 2)).abs().mean() < 0.05
    later = video.read_clip(path, 1, (2, 16, 16), start=0.3)
    assert (later - clips(1)[:, :, 3:5]).abs().mean() < 0.05


def test_nothing_is_replaced_silently(tmp_path):
    path = video.save_clips(clips(), tmp_path / "a.gif")
    with pytest.raises(ValueError, match="exists"):
        video.save_clips(clips(), path)
    video.save_clips(clips(), path, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize("name", ["a.avi", "a", "a.mp3"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"accepted: a name that ends with \.mp4, \.gif, \.webp, \.png"):
        video.save_clips(clips(), tmp_path / name)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_files_are_one_line_each(tmp_path):
    whole = video.save_clips(clips(1, frames=30, size=32), tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("cut", "noise", "empty"):
        with pytest.raises(ValueError) as error:
            video.read_clip(tmp_path / f"{name}.mp4", 1, (30, 32, 32))
        assert f"{name}.mp4" in one_line(error)
    with pytest.raises(ValueError) as error:
        video.read_clip(tmp_path / "whole.mp4", 1, (31, 32, 32))
    assert "30 frames, accepted: 31 or more" in one_line(error)
    with pytest.raises(ValueError, match="accepted: the aspect of 32 x 16"):
        video.read_clip(tmp_path / "whole.mp4", 1, (5, 16, 32))
    with pytest.raises(ValueError, match="no file"):
        video.read_clip(tmp_path / "none.mp4", 1, (5, 16, 32))


def test_clips_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"clips: got shape \(2, 1, 0, 8, 8\)"):
        video.save_clips(torch.zeros(2, 1, 0, 8, 8), tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp", ".png"])
@pytest.mark.parametrize("fps", ["8", True, None, float("nan"), [8], 0, 2j])
def test_a_rate_that_is_no_number_is_one_line(tmp_path, ending, fps):
    with pytest.raises(ValueError, match=r"fps: got .*, accepted: 0.01 to 1000"):
        video.save_clips(clips(1), tmp_path / f"a{ending}", fps=fps)


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp"])
def test_rates_of_numpy_and_torch(tmp_path, ending):
    for number, fps in enumerate((np.float32(8), np.int64(8), torch.tensor(8.0))):
        path = video.save_clips(clips(1), tmp_path / f"{number}{ending}", fps=fps)
        assert video.length(path)[1] == pytest.approx(8, rel=0.01)
