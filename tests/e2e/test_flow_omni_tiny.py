"""The model that speaks and ships: from plain text to a sound file, its times, its folder."""

import pytest
import torch

import nextok_mm as nx
from nextok_mm.checkpoint import ZOO
from nextok_mm.media.spelling import Spelling

TEXT = "_h\u0259l\u02c8O._"


@pytest.fixture(scope="module")
def pipeline():
    return nx.load("flow-omni-tiny")


def test_it_speaks_what_it_is_told(pipeline, monkeypatch):
    """Without the letter-to-sound rules, which are a package: their spelling of "hello" is given."""
    monkeypatch.setattr(Spelling, "phonemes", lambda self, text: TEXT)
    result = pipeline.generate(text="Hello.", seed=0, steps=2)
    again = pipeline.generate(text="Hello.", seed=0, steps=2)
    seconds = result.data.shape[2] / 24_000
    assert torch.equal(result.data, again.data) and 0.4 < seconds < 2
    assert [word for word, *_ in result.remarks[0]["words"]] == ["h\u0259l\u02c8O"] and result.remarks[0][
        "ended"
    ] == "stop"
    _, begins, ends = result.remarks[0]["words"][0]
    sound = result.data[0, 0].square()
    inside = sound[int(begins * 24_000) : int(ends * 24_000)].mean()
    assert inside > 0.001 and inside > 20 * sound[: int(0.5 * begins * 24_000)].mean()


def test_it_streams_what_it_makes_whole(pipeline, monkeypatch):
    monkeypatch.setattr(Spelling, "phonemes", lambda self, text: TEXT)
    parts = [result.added for result in pipeline.stream(text="Hello.", seed=3, steps=2)]
    whole = pipeline.generate(text="Hello.", seed=3, steps=2).data
    assert sum(part.shape[2] > 0 for part in parts) > 5
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-3, atol=1e-4)


def test_plain_text_needs_a_package_and_nothing_else(pipeline, tmp_path):
    pytest.importorskip("hibari")
    pytest.importorskip("soundfile")
    result = pipeline.generate(text="It is 9:30.", seed=0, steps=2)
    assert result.save(tmp_path / "out.wav").stat().st_size > 20_000
    assert len(result.remarks[0]["words"]) == 4


def test_it_is_small_and_whole():
    files = {file.name: file.stat().st_size for file in (ZOO / "flow-omni-tiny").iterdir()}
    assert {"config.json", "model.safetensors", "phonemes.json", "README.md"} == files.keys()
    assert sum(files.values()) < 12_000_000
    assert "text-to-speech" in (ZOO / "flow-omni-tiny" / "README.md").read_text(encoding="utf8")
