"""Clips from the command line: written by the name's ending, predicted, reconstructed, refused in one line."""

from pathlib import Path

import pytest
import torch

from nextok_mm.media import clips as video

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 9 frames, 8 x 8 times 8."""
    frames = torch.rand(1, 1, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    return video.save_clips(frames, tmp_path_factory.mktemp("clips") / "in.mp4", zoom=8)


@pytest.mark.parametrize("ending", ["mp4", "gif", "webp", "png"])
def test_generate(nextok, tiny: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"clips.{ending}"
    code, said, error = nextok("generate", tiny / "clips", "--n", 3, "--seed", 0, "--out", out, "--labels", "bag")
    assert code == 0 and "3 clips, seed 0, 15 network calls per batch" in said, error
    assert out.stat().st_size > 100


def test_predict_and_reconstruct(nextok, tiny: Path, tmp_path: Path, clip: Path) -> None:
    line = ("predict", tiny / "clips", clip, "--given", 3, "--frames", 9, "--out", tmp_path / "on.mp4")
    code, said, error = nextok(*line)
    assert code == 0 and "1 clip, 3 frames given of 9, seed 0" in said, error
    code, said, error = nextok("predict", tiny / "clips", clip, "--out", tmp_path / "by-itself.mp4", "--labels", "bag")
    assert code == 0 and "1 clip, 1 frames given of 5" in said, error
    back = tmp_path / "both.gif"
    code, said, error = nextok("reconstruct", tiny / "video", clip, "--out", back)
    assert code == 0 and "PSNR" in said, error


@pytest.mark.parametrize("ending", ["mp4", "gif", "webp"])
def test_what_was_written_is_taken(nextok, tiny: Path, tmp_path: Path, ending: str) -> None:
    """Nine frames alike too, which are nine frames."""
    still = video.save_clips(torch.full((1, 1, 9, 8, 16), 0.5), tmp_path / f"still.{ending}")
    out = tmp_path / f"on.{ending}"
    code, said, error = nextok("predict", tiny / "clips", still, "--given", 3, "--frames", 9, "--out", out)
    assert code == 0 and "3 frames given of 9" in said, error
    assert error.count("\n") == 1 and f"still.{ending}: 192 x 96 cropped to its middle 96 x 96" in error
    assert len(list(video.pictures(out))) == 9


def test_mistakes_are_one_line(nextok, tiny: Path, tmp_path: Path, clip: Path) -> None:
    cut, out, folder = tmp_path / "cut.mp4", tmp_path / "a.mp4", tmp_path / "none"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    clips, wide = tiny / "clips", video.save_clips(torch.rand(1, 1, 5, 8, 16), tmp_path / "wide.webp")
    data = ("--data", "kind=clips", "--data", f"path={folder}", "--data", "size=[5, 8, 8]")
    for line, words in {
        ("generate", clips, "--out", tmp_path / "a.avi"): "accepted: a name that ends with .mp4, .gif",
        ("generate", tiny / "xar", "--out", out): "accepted: a name that ends with .png",
        ("predict", clips, cut, "--out", out): "damaged, truncated or no video",
        ("predict", clips, clip, "--frames", "1", "--out", out): "frames: got 1, accepted: a whole number above",
        ("predict", tiny / "xar", clip, "--out", tmp_path / "a.png"): "accepted: a generator of clips",
        ("predict", clips, clip, "--given", "31", "--out", out): "9 frames, accepted: 31 or more",
        ("predict", clips, clip, "--given", "2", "--out", out): "given: got 2 frames, accepted: 1, 3",
        ("predict", clips, clip, "--given", "0", "--out", out): "given: got 0 frames, accepted: 1, 3",
        ("predict", clips, clip, "--set", "seed=3", "--out", out): "sampling.seed",
        (
            "predict",
            clips,
            wide,
            "--fit",
            "exact",
            "--out",
            out,
        ): "192 x 96 (width x height), accepted: the aspect of 8 x 8",
        ("predict", clips, wide, "--fit", "foo", "--out", out): "fit: got 'foo', accepted: crop, pad, exact",
        ("generate", clips, "--fps", "60", "--out", tmp_path / "a.gif"): "fps: got 60 for .gif, accepted: 0.01 to 50",
        ("generate", clips, "--set", "banana=3", "--out", out): "sampling.banana",
        ("generate", clips, "--fps", "0.001", "--out", out): "fps: got 0.001, accepted: 0.01 to 1000",
        ("generate", clips, "--out", clip / "a.mp4"): "is no folder that takes files",
        ("generate", clips, "--labels", ",", "--out", out): "labels: got ''",
        ("generate", clips, "--labels", "\u00b2", "--out", out): "labels: got '\u00b2'",
        ("reconstruct", tiny / "video", tmp_path / "no.mp4", "--out", out): "clip: no file",
        ("cache", tiny / "video", tmp_path / "c", *data): "data.path: got",
    }.items():
        code, _, error = nextok(*line)
        assert code == 2 and words in error and error.count("\n") == 1, (line, error)
