"""Folders of sound with text."""

import json

import numpy as np
import pytest
import torch

from nextok_mm import data
from nextok_mm.data.speech import Config
from nextok_mm.rng import mix

soundfile = pytest.importorskip("soundfile")


def sound(seconds: float, rate: int = 8000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wavs").mkdir()
    for index, seconds in enumerate((0.5, 2.0, 1.0)):
        soundfile.write(tmp_path / "wavs" / f"a{index}.flac", sound(seconds, seed=index), 8000)
    lines = [f"a{index}|No. {index}|Number {word}" for index, word in enumerate(("zero", "one", "two"))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf8")
    return tmp_path


def opened(folder, **fields):
    return Config.parse({"path": str(folder), "size": 8000, "rate": 8000, **fields}).open()


def test_the_form_of_ljspeech(folder):
    source = opened(folder)
    assert len(source) == 3 and source.captions == ("Number zero", "Number one", "Number two")
    images = source.batch([0, 1, 2])["images"]
    assert images.shape == (3, 1, 8000)
    assert not images[0, 0, 4000:].any() and images[0, 0, :4000].any()  # a shorter one ends in silence
    torch.testing.assert_close(images[1, 0], torch.from_numpy(sound(2.0, seed=1))[:8000], atol=1e-4, rtol=0)
    assert source.sound(1).shape == (1, 1, 16_000) and source.timed is None
    assert len(opened(folder, rows=2)) == 2 and "speech" in data.kinds()


def test_crops_are_what_their_seeds_say(folder):
    source = opened(folder, crop="random", size=1000)
    assert source.draws == {"crop"}
    seeds = [mix(7, row) for row in range(3)]
    one, again = (source.batch([1, 1, 1], seeds)["images"] for _ in range(2))
    assert torch.equal(one, again) and not torch.equal(one[0], one[1])
    alone = source.batch([1], seeds[2:])["images"]
    assert torch.equal(alone, one[2:])
    whole = torch.from_numpy(sound(2.0, seed=1))
    places = whole.unfold(0, 1000, 1)
    assert (places - one[0, 0]).abs().amax(1).min() < 1e-3  # it is a part of the file
    assert torch.equal(source.batch([1])["images"], opened(folder, size=1000).batch([1])["images"])


def test_rate_and_channels(folder):
    assert opened(folder, rate=16_000, channels=2, size=4000).batch([0])["images"].shape == (1, 2, 4000)


def test_texts_beside_the_sounds(tmp_path):
    for name in ("b", "a"):
        soundfile.write(tmp_path / f"{name}.wav", sound(0.2), 8000)
    assert opened(tmp_path).captions is None
    (tmp_path / "a.txt").write_text("An a.\n", encoding="utf8")
    with pytest.raises(ValueError, match=r"b\.txt is missing"):
        opened(tmp_path)
    (tmp_path / "b.txt").write_text("A b.", encoding="utf8")
    assert opened(tmp_path).captions == ("An a.", "A b.")


def test_lengths_of_phonemes(folder):
    rows = [{"id": f"a{index}", "phonemes": "_x_", "units": [1, 2, 3]} for index in range(3)]
    (folder / "phonemes.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    assert opened(folder).timed == (("_x_", (1, 2, 3)),) * 3
    (folder / "phonemes.jsonl").write_text(json.dumps(rows[0] | {"units": [1]}), encoding="utf8")
    with pytest.raises(ValueError, match="line 1: no phonemes with a length each"):
        opened(folder)
    (folder / "phonemes.jsonl").write_text(json.dumps(rows[0]), encoding="utf8")
    with pytest.raises(ValueError, match="says nothing of a1"):
        opened(folder)


def test_bad_folders_are_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match="accepted: a folder of sounds"):
        opened(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no sound in"):
        opened(tmp_path / "empty")
    (folder / "metadata.csv").write_text("a0|yes\nmissing|no\n", encoding="utf8")
    with pytest.raises(ValueError, match="line 2: got 'missing|no', no file of that name"):
        opened(folder)
    (folder / "metadata.csv").write_text("a0\n", encoding="utf8")
    with pytest.raises(ValueError, match="a name and a text"):
        opened(folder)
    (folder / "metadata.csv").write_bytes(b"a0|\xff\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        opened(folder)
    (folder / "metadata.csv").write_text("a0|yes\n", encoding="utf8")
    (folder / "wavs" / "a0.flac").write_text("no sound", encoding="utf8")
    with pytest.raises(ValueError, match=r"a0\.flac"):
        opened(folder).batch([0])
