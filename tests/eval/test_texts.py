"""Perplexity: every token once, from enough before it, in any blocks; bits per byte; a stopped one goes on."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nextok_mm as nx
from nextok_mm.eval import quality, texts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXTOK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text" / "deep").mkdir(parents=True)
    (tmp_path / "text" / "a.txt").write_text("the cat sat on the mat, and the dog did not. " * 4)
    (tmp_path / "text" / "deep" / "b.md").write_text("naïve café")
    (tmp_path / "text" / "c.txt").write_text("")
    return tmp_path / "text"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.sampled_from([None, -1]), st.integers(2, 20))
def test_every_token_is_predicted_once_from_what_stands_before_it(count: int, before: int | None, window: int) -> None:
    tokens = list(range(count))
    whole = ([] if before is None else [before]) + tokens
    asked: list[int] = []
    for seen, wanted in texts.cut(tokens, before, window):
        assert wanted and len(seen) + len(wanted) <= window
        place = whole.index(wanted[0])
        assert whole[place - len(seen) : place + len(wanted)] == [*seen, *wanted]
        assert len(seen) >= min(place, window // 2)
        asked += wanted
    assert asked == whole[1:]


def test_figures_are_those_of_each_document(tiny: Path, folder: Path) -> None:
    """With a window of the whole context: where a document fits, the sum over its tokens is its score."""
    pipeline = nx.load(tiny / "text", device="cpu")
    result = quality.evaluate(str(tiny / "text"), data={"path": str(folder / "deep")}, progress=False)
    figures, scores = result["figures"]["tiny-text"]["text"], pipeline.score("naïve café")
    size = len("naïve café".encode())
    assert figures["nats_per_token"] == pytest.approx(-scores.totals[0] / size, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(-scores.totals[0] / size), rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(scores.bits_per_byte[0], rel=1e-5)
    assert result["protocol"]["documents"] == 1 and result["protocol"]["bytes"] == size
    assert "bits_per_byte" in quality.report(result) and "perplexity" in quality.report(result)


def test_neither_blocks_nor_neighbours_change_a_figure(tiny: Path, folder: Path, monkeypatch) -> None:
    def figure(**options) -> float:
        data = {"path": str(folder)}
        result = quality.evaluate(str(tiny / "text"), data=data, window=16, progress=False, **options)
        assert result["protocol"]["tokens"] == result["protocol"]["bytes"]
        return result["figures"]["tiny-text"]["text"]["nats_per_token"]

    first = figure()
    monkeypatch.setattr(texts, "BLOCK", 2)
    assert figure() == pytest.approx(first, rel=1e-6)
    model = nx.load(tiny / "text", device="cpu").generator
    total, count = 0.0, 0
    for document in ((folder / "a.txt").read_text(), (folder / "deep" / "b.md").read_text()):
        tokens = list(document.encode())
        for place, token in enumerate(tokens):  # one by one, from the window that it is in
            windows = [(seen, asked) for seen, asked in texts.cut(range(len(tokens)), -1, 16) if place in asked]
            first_seen = windows[0][0][0]
            context = [256, *tokens[:place]] if first_seen == -1 else tokens[first_seen:place]
            with torch.no_grad():
                total -= float(model.logits(torch.tensor([context]))[0, -1].log_softmax(-1)[token])
            count += 1
    assert total / count == pytest.approx(first, rel=1e-4)


def test_a_stopped_one_goes_on(tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BLOCK", 3)
    plain, calls = texts._measured, []

    def measured(generator, block):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(block)
        return plain(generator, block)

    def run():
        return quality.evaluate(str(tiny / "text"), data={"path": str(folder)}, window=8, progress=False)["figures"]

    monkeypatch.setattr(texts, "_measured", measured)
    with pytest.raises(KeyboardInterrupt):
        run()
    seen = [str(block) for block in calls]
    monkeypatch.setattr(texts, "_measured", lambda generator, block: (calls.append(block), plain(generator, block))[1])
    figures = run()
    assert len(seen) == 2 and not any(str(block) in seen for block in calls[2:])
    before = len(calls)
    assert run() == figures and len(calls) == before  # all of it is known now


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data: got no folder of text, accepted: --data FOLDER"),
        ({"data": {"path": "nowhere"}}, "data.path: got 'nowhere', accepted: a folder"),
        ({"data": {"kind": "emoji"}}, "data: got no folder of text"),
        ({"data": {"path": ".", "words": "bytes"}}, "data.words: got 'bytes', accepted: kind, path, field"),
        ({"data": {"path": "."}, "window": 65}, "window: got 65, accepted: a whole number from 2 to 64"),
        ({"data": {"path": "."}, "window": 1}, "window: got 1"),
        ({"data": {"path": "."}, "n": 0}, "n: got 0"),
        ({"data": {"path": "."}, "seed": 1}, "seed: got 1, accepted: none"),
        ({"data": {"path": "."}, "judges": ["a"]}, "judges: got .*, accepted: none"),
    ],
)
def test_what_is_not_accepted_is_named(tiny: Path, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quality.evaluate(str(tiny / "text"), **options)


def test_a_damaged_folder_is_one_line(tiny: Path, folder: Path) -> None:
    (folder / "d.txt").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"d\.txt: not UTF-8 \(byte 2\)"):
        quality.evaluate(str(tiny / "text"), data={"path": str(folder)}, progress=False)
    with pytest.raises(ValueError, match="has no text that could be measured"):
        quality.evaluate(str(tiny / "text"), data={"path": str(folder / "c.txt")}, progress=False)
