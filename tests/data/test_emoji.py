from pathlib import Path

import pytest
import torch

from nextok_mm import data
from nextok_mm.data.emoji import FONT, NAMES, base_name, in_test

there = pytest.mark.skipif(
    not (Path(FONT).is_file() and Path(NAMES).is_file()),
    reason="no emoji here: apt install fonts-noto-color-emoji unicode-data",
)


@pytest.mark.parametrize(
    "names",
    [
        ("waving hand", "waving hand: light skin tone"),
        ("health worker", "man health worker", "woman health worker: dark skin tone"),
        ("person: red hair", "woman: white hair", "man: bald", "child", "old woman"),
        ("kiss", "kiss: woman, man", "kiss: man, man, light skin tone, dark skin tone"),
        ("people holding hands", "woman and man holding hands", "men holding hands: medium skin tone"),
        ("merperson", "mermaid", "merman: light skin tone"),
    ],
)
def test_variants_share_a_base_and_a_split(names):
    assert len({base_name(name).removeprefix("person ") for name in names}) == 1
    assert len({in_test(name) for name in names}) == 1


def test_other_emoji_are_other_bases():
    names = ["red apple", "green apple", "woman\u2019s hat", "woman", "keycap: 2", "keycap: 3"]
    assert len({base_name(name) for name in names}) == len(names)


@there
def test_pictures_with_names_in_two_splits():
    splits = {
        split: data.parse({"kind": "emoji", "split": split, "size": 16}).open() for split in ("train", "test", "all")
    }
    train, test = (set(map(base_name, splits[split].captions)) for split in ("train", "test"))
    assert not train & test and len(train) > 1000 and len(test) > 100
    assert len(splits["train"]) + len(splits["test"]) == len(splits["all"]) == len(splits["all"].captions)
    row = splits["all"].captions.index("red apple")
    picture = splits["all"].batch([row])["images"][0]
    assert picture.shape == (3, 16, 16) and picture[:, 0, 0].min() > 0.95
    assert picture[0].mean() > picture[2].mean() + 0.1  # a red one
    plain = data.parse({"kind": "emoji", "split": "train", "size": 16, "tones": False}).open()
    assert len(plain) < len(splits["train"]) and not any("skin tone" in name for name in plain.captions)


@there
def test_flips_are_drawn_from_the_seeds():
    source = data.parse({"kind": "emoji", "split": "test", "size": 16, "flip": True}).open()
    rows, seeds = list(range(8)), list(range(8))
    once, again, plain = (source.batch(rows, s)["images"] for s in (seeds, seeds, None))
    assert torch.equal(once, again) and not torch.equal(once, plain)


def test_what_is_not_there_is_one_line(tmp_path):
    for field, help in (("font", "apt install"), ("names", "apt install")):
        files = {"font": tmp_path / "a.ttf", "names": tmp_path / "b.txt"}
        for path in files.values():
            path.write_text("nothing")
        files[field] = tmp_path / "missing"
        with pytest.raises(ValueError) as error:
            data.parse({"kind": "emoji", **{name: str(path) for name, path in files.items()}}).open()
        assert f"data.{field}" in str(error.value) and help in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "missing").write_text("1F34E ; fully-qualified # x E0.6 red apple")
    with pytest.raises(ValueError, match="not a colour bitmap font"):
        data.parse(
            {"kind": "emoji", "split": "all", "font": str(tmp_path / "a.ttf"), "names": str(tmp_path / "missing")}
        ).open()
