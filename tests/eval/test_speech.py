"""Word errors of a model that speaks, beside its teacher's."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.eval import quality, speech
from nextok_mm.files import write_files
from nextok_mm.media.spelling import Spelling

ALPHABET = " !,.?_abcdefghijklmnopqrstuvwxyz\u02c8\u0259\u028a"


@pytest.fixture
def speaks(tmp_path):
    torch.manual_seed(0)
    save_pretrained(registry.build("tokenizer", "mel", {"size": "tiny"}), tmp_path / "mel")
    fields = {"size": "tiny-aligned", "channels": 6, "vocabulary": len(ALPHABET), "sampling": {"steps": 1}}
    model = registry.build("generator", "flow_omni", fields)
    save_pretrained(model, tmp_path / "speaks", tokenizer=tmp_path / "mel")
    write_files(tmp_path / "speaks", Spelling(ALPHABET).files())
    return str(tmp_path / "speaks")


def test_rates_are_told_by_length():
    found = speech.figures(["Yes.", "One two three four five six."], ["no", "1 2 3 4 5 7"])
    assert found == pytest.approx(
        {"WER all %": 100 * 2 / 7, "WER long %": 100 / 6, "WER short %": 100.0, "silent": 0.0}
    )


def test_a_model_is_measured_beside_its_teacher(speaks):
    pytest.importorskip("hibari")
    lengths = []

    def read(sounds, rate):
        lengths.append((len(sounds[0]), rate))
        return ["the number is five"]

    found = speech.evaluate(speaks, n=3, progress=False, read=read)
    assert (
        list(found["figures"]) == ["speaks", "teacher"] and found["figures"]["speaks"]["words"]["real-time factor"] > 0
    )
    assert [rate for _, rate in lengths] == [2000] * 3 + [24_000] * 3 and all(length > 100 for length, _ in lengths)
    assert "WER all %" in quality.report(found)


def test_what_does_not_speak_is_refused(speaks):
    with pytest.raises(ValueError, match="n: got 0"):
        quality.evaluate(speaks, n=0)
    with pytest.raises(ValueError, match="a model that speaks is accepted"):
        speech.evaluate("xar-fashion")
    with pytest.raises(ValueError, match="judges"):
        quality.evaluate(speaks, judges=["x"])
