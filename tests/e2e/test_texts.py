"""Text from a terminal: standard output holds what a model wrote and nothing else."""

import io
import json
import sys
from pathlib import Path

import pytest

import nextok_mm as nx


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """Put bytes on standard input."""

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf8"))

    return give


@pytest.fixture
def expected(tiny: Path) -> str:
    return nx.load(tiny / "text", device="cpu").generate(text="the cat", tokens=20, seed=3)[0]


LINE = ("--tokens", 20, "--seed", 3, "--device", "cpu")


@pytest.mark.parametrize("out", [(), ("--out", "-")])
def test_standard_output_is_the_text_alone(nextok, tiny: Path, expected: str, out: tuple[str, ...]) -> None:
    code, said, error = nextok("generate", tiny / "text", "--text", "the cat", *LINE, *out)
    assert (code, said) == (0, expected + "\n")
    assert "1 text, seed 3, " in error and error.count("\n") == 1


def test_a_file_holds_it_as_it_is(nextok, tiny: Path, tmp_path: Path, expected: str) -> None:
    code, said, _ = nextok("generate", tiny / "text", "--text", "the cat", *LINE, "--out", tmp_path / "a.txt")
    assert code == 0 and said.startswith(f"{tmp_path / 'a.txt'}: 1 text, seed 3, ")
    assert (tmp_path / "a.txt").read_bytes() == expected.encode()
    code, _, error = nextok("generate", tiny / "text", "--text", "the cat", "--out", tmp_path / "a.txt")
    assert code == 2 and "exists" in error
    for name, message in (("a.png", "ends with .txt, .md, .jsonl"), ("b", "ends with")):
        code, said, error = nextok("generate", tiny / "text", "--text", "a", "--out", tmp_path / name)
        assert code == 2 and message in error and not said


def test_where_the_text_comes_from(nextok, tiny: Path, tmp_path: Path, typed, expected: str) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    assert nextok("generate", tiny / "text", "--text-file", tmp_path / "a.txt", *LINE)[1] == expected + "\n"
    for option in ("--text", "--text-file"):
        typed(b"the cat")
        assert nextok("generate", tiny / "text", option, "-", *LINE)[1] == expected + "\n"
    code, said, error = nextok("generate", tiny / "text", "--text", "a", "--text-file", tmp_path / "a.txt")
    assert (code, said) == (2, "") and "accepted: one of them" in error


def test_several_texts(nextok, tiny: Path, tmp_path: Path) -> None:
    result = nx.load(tiny / "text", device="cpu").generate(text=["a", "b"], tokens=9, stop=["e"])
    line = ("generate", tiny / "text", "--text", "a", "--text", "b", "--tokens", 9, "--stop", "e", "--device", "cpu")
    assert nextok(*line)[:2] == (0, f"{result}\n")
    assert nextok(*line, "--out", tmp_path / "a.jsonl")[0] == 0
    rows = [json.loads(row) for row in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == result.texts and [row["nextok.text"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "line", "message"),
    [
        (b"ab\xff", ("--text", "-"), "text from standard input: not UTF-8 (byte 2), accepted: UTF-8 text"),
        (b"", ("--text", "-"), "text: got an empty text"),
        (b"x" * 10_000_000, ("--text", "-"), "10000000 letters, more than 79 tokens, accepted: at most 63 tokens"),
        (b"x" * ((16 << 20) + 1), ("--text", "-"), "standard input has more than"),
        (b"", ("--text", "\udcff"), "accepted: valid Unicode"),
        (b"", ("--text", "a", "--labels", "7"), "labels: got ['7'], accepted: text"),
        (b"", ("--text", "a", "--steps", "3"), "steps: no such argument"),
        (b"", ("--text", "a", "--tokens", "0"), "tokens"),
        (b"", ("--text-file", "no.txt"), "text: no file 'no.txt'"),
    ],
)
def test_what_is_not_accepted_is_one_line(nextok, tiny: Path, typed, given: bytes, line, message: str) -> None:
    typed(given)
    code, said, error = nextok("generate", tiny / "text", *line)
    assert (code, said) == (2, "") and message in error and error.count("\n") == 1


def test_pictures_are_not_for_standard_output(nextok, tiny: Path) -> None:
    code, said, error = nextok("generate", tiny / "xar", "--n", 1, "--out", "-")
    assert (code, said) == (2, "") and "accepted: a name that ends with .png" in error


def test_news_are_not_for_it_either(nextok, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from nextok_mm.pipeline import core

    plain = core.results

    def loud(*given):
        logging.getLogger("nextok_mm.pipeline").info("news")
        return plain(*given)

    monkeypatch.setattr(core, "results", loud)
    code, said, error = nextok("generate", tiny / "text", "--text", "a", *LINE)
    assert code == 0 and "news" not in said and error.startswith("news\n")
    assert nextok("generate", tiny / "xar", "--n", 1, "--out", "o.png", "--force")[1].startswith("news\n")
    Path("o.png").unlink()
