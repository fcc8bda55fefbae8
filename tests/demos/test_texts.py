"""The Text tab's limits and what it shows, and the sampler of texts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nextok_mm as nx
from nextok_mm import bundled
from nextok_mm.media.words import Bytes

SCRIPT = bundled.folder("demos") / "sample_text.py"


def test_limits_hold_without_gradios_own_checks(tiny: Path) -> None:
    gr = pytest.importorskip("gradio")
    tab = bundled.demo("text_tab")
    loaded = {"m": nx.load(tiny / "text", device="cpu")}
    good: dict[str, Any] = dict(model="m", text="a", said=[], tokens=4, seed=1)
    own = dict(temperature=1, top_p=0.9, repetition=1.1)

    def checked(**other: Any) -> Any:
        given = {**good, **own, **other}
        return tab.checked(loaded, *given.values())

    assert checked()[1] == {"tokens": 4, "seed": 1, "temperature": 1, "top_p": 0.9, "repetition": 1.1}
    assert checked(**dict.fromkeys(own))[1] == {"tokens": 4, "seed": 1}  # the model's own
    for name, values in {
        "model": ("other", None, ["m"]),
        "text": ("", " ", None, 5, "x" * 4001),
        "tokens": (0, 513, 1.5, "4", True),
        "seed": (-1, 2**31, None),
        "temperature": (-1, 4.1, float("nan"), "1", True),
        "top_p": (0, 1.1),
        "repetition": (0, 3),
    }.items():
        for value in values:
            with pytest.raises(gr.Error, match="accepted: "):
                checked(**{name: value})


def test_a_text_appears_as_it_is_written(tiny: Path) -> None:
    pytest.importorskip("gradio")
    tab, pipeline = bundled.demo("text_tab"), nx.load(tiny / "text", device="cpu")
    parts = list(tab._written(pipeline, [], "the cat", {"tokens": 12, "seed": 3}))
    texts = [said[-1]["content"] for said, _, _ in parts]
    assert all(b.startswith(a) for a, b in zip(texts, texts[1:])) and len(texts) > 2  # noqa: RUF007
    assert texts[-1] == pipeline.generate(text="the cat", tokens=12, seed=3)[0]
    assert parts[-1][0][0] == {"role": "user", "content": "the cat"} and parts[-1][2].startswith("Done: ")


def test_a_conversation_goes_on_up_to_a_limit(tiny: Path) -> None:
    gr = pytest.importorskip("gradio")
    tab, pipeline = bundled.demo("text_tab"), nx.load(tiny / "text", device="cpu")

    class Talking(Bytes):
        template = "{% for m in messages %}{{ m.content }}|{% endfor %}"

    pipeline.words = Talking()
    *_, (said, _, _) = tab._written(pipeline, [], "one", {"tokens": 4, "seed": 0})
    *_, (said, kept, _) = tab._written(pipeline, said, "two", {"tokens": 4, "seed": 0})
    assert [each["role"] for each in said] == ["user", "assistant"] * 2 and kept == said
    with pytest.raises(gr.Error, match="conversation: got 40, accepted: at most 40 messages"):
        tab.checked({"m": pipeline}, "m", "a", [{}] * 40, 4, 0, None, None, None)


def test_the_page_has_a_tab_of_its_own(tiny: Path) -> None:
    pytest.importorskip("gradio")
    page = bundled.demo("app").build([str(tiny / "text")])
    assert [block.label for block in page.blocks.values() if type(block).__name__ == "Tab"] == ["Text"]


@pytest.mark.slow
def test_texts_are_written_one_a_file_and_a_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "texts"
    line = [sys.executable, SCRIPT, "--model", tiny / "text", "--out", out, "--text", "a", "--text", "bc", "--n", "3"]
    line = [*map(str, line), "--batch", "2", "--tokens", "9", "--ending", "jsonl", "--device", "cpu"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "3 new texts" in done.stdout, done.stderr
    expected = nx.load(tiny / "text", device="cpu").generate(text=["a", "bc"], n=3, tokens=9)
    rows = [json.loads((out / f"{row:06d}.jsonl").read_text()) for row in range(3)]
    assert [row["text"] for row in rows] == expected.texts and rows[1]["nextok.text"] == "bc"
    (out / "000001.jsonl").unlink()
    again = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert "1 new text " in again.stdout and json.loads((out / "000001.jsonl").read_text()) == rows[1]
    refused = subprocess.run([*line, "--tokens", "8"], capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "tokens differ" in refused.stderr
