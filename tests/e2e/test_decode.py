"""`nextok decode`: codes typed by hand, or read from a file, as pictures and clips."""

import json
from pathlib import Path

import pytest
from PIL import Image

from nextok_mm import load


def test_codes_become_the_pictures_that_python_makes_of_them(nextok, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    line = ("decode", tiny / "flextok", "--codes", "1,2,3", "--codes", "3,2,1", "--out", out, "--device", "cpu")
    code, said, error = nextok(*line, "--seed", 3, "--steps", 2, "--set", "solver=heun")
    assert code == 0 and "2 pictures from 3 codes each" in said, error
    pipeline = load(tiny / "flextok", device="cpu")
    expected = pipeline.detokenize([[1, 2, 3], [3, 2, 1]], seed=3, steps=2, solver="heun")
    with Image.open(out) as saved, Image.open(expected.save(tmp_path / "b.png")) as same:
        assert saved.tobytes() == same.tobytes() and "'steps': 2" in saved.text["nextok.sampling"]
    code, _, error = nextok(*line)
    assert code == 2 and "exists" in error and "--force" in error


def test_codes_come_from_a_file_and_from_a_generators_tokenizer(nextok, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("[1, 2]")
    (tmp_path / "more.json").write_text("[[3, 4], [5, 6]]")
    line = ("decode", tiny / "flextok", "--codes", tmp_path / "one.json", "--codes", tmp_path / "more.json")
    code, said, error = nextok(*line, "--out", tmp_path / "a.png", "--device", "cpu", "--steps", 1)
    assert code == 0 and "3 pictures from 2 codes each" in said, error
    (tmp_path / "clip.json").write_text(json.dumps([5] * 48))
    line = ("decode", tiny / "clips", "--codes", tmp_path / "clip.json", "--out", tmp_path / "c.gif")
    code, said, error = nextok(*line, "--device", "cpu")
    assert code == 0 and "1 clip from 48 codes each" in said and (tmp_path / "c.gif").is_file(), error


@pytest.mark.parametrize(
    ("model", "codes", "said"),
    [
        ("flextok", ["1,x"], "codes: got '1,x', accepted: whole numbers, such as 1,4,16"),
        ("flextok", [""], "codes: got ''"),
        ("flextok", ["1,2", "3"], "codes: got 2 and 1, accepted: equally many for each sample"),
        ("flextok", ["999999999"], "accepted: 0 to "),
        ("flextok", ["1,2,3,4,5,6,7,8,9"], "accepted: "),
        ("flextok", ["none.json"], "codes: no file 'none.json'"),
        ("flextok", ["broken.json"], "codes: broken.json is not JSON"),
        ("flextok", ["words.json"], "codes: got ['a'], accepted: a list of whole numbers per sample"),
        ("flextok", ["empty.json"], "codes: got [], accepted"),
        ("flextok", ["group.json"], "codes: got {'a': 1}, accepted"),
        ("vae", ["1,2"], "codes: kl_vae makes continuous latents, accepted: a tokenizer of codes"),
    ],
)
def test_codes_that_are_none_are_one_line(nextok, tiny, tmp_path, monkeypatch, model, codes, said) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"broken.json": "[1, ", "words.json": '["a"]', "empty.json": "[]", "group.json": '{"a": 1}'}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    options = [word for text in codes for word in ("--codes", text)]
    code, _, error = nextok("decode", tiny / model, *options, "--out", "o.png", "--device", "cpu")
    assert code == 2 and said in error and error.startswith("error: ") and error.count("\n") == 1
    assert not Path("o.png").exists()
