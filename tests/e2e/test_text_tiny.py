"""The language model that ships: its figure on a page that it never saw, what it writes, its folder."""

from pathlib import Path

import pytest

import nextok_mm as nx
from nextok_mm.checkpoint import ZOO
from nextok_mm.eval import quality

pytest.importorskip("tokenizers")
PAGES = Path(__file__).parent / "pages"
"""library/textwrap of Python 3.11's documentation (PSF license, see NOTICE), held out by the training's own split."""
BITS = 1.357  # measured when it was shipped: nextok eval text-tiny --data tests/e2e/pages


@pytest.fixture(scope="module")
def pipeline():
    return nx.load("text-tiny")


def test_a_page_that_it_never_saw_is_short_to_it():
    found = quality.evaluate("text-tiny", data={"path": str(PAGES)}, progress=False)
    figures = found["figures"]["text-tiny"]["text"]
    assert figures["bits_per_byte"] == pytest.approx(BITS, abs=0.01)
    assert found["protocol"]["bytes"] == (PAGES / "textwrap.txt").stat().st_size


def test_it_goes_on_like_the_documentation(pipeline):
    first, again = (pipeline.generate(text="import os\n>>> os.", tokens=40, seed=1)[0] for _ in range(2))
    assert first == again and len(first) > 20 and first.isprintable() is False  # lines
    assert pipeline.generate(text="Return the number of", tokens=12, seed=0, temperature=0.1)[0].startswith(" ")
    likely, not_so = pipeline.score([" a list of", " of list a"], given="The method returns")
    assert likely > not_so + 5


def test_it_is_small_and_whole():
    folder = ZOO / "text-tiny"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= {
        file.name for file in folder.iterdir()
    }
    assert "Python Software Foundation" in (folder / "README.md").read_text(encoding="utf8")
