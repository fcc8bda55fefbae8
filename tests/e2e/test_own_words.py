"""From a folder of text to a text tokenizer of one's own, and to a language model that has it."""

from pathlib import Path

import pytest

from nextok_mm.media.words import load_words

pytest.importorskip("tokenizers")


def test_a_tokenizer_is_learned_and_trained_with(nextok, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(30):
        (pages / f"{number}.txt").write_text(f"the next token of page {number} is the next one\n" * 4)
    words = tmp_path / "words"
    code, said, error = nextok("words", pages, words, "--size", 280)
    assert (code, said) == (0, f"280 tokens in {words}\n"), error
    code, _, error = nextok("words", pages, words, "--size", 280)
    assert code == 2 and "exists" in error
    code, _, error = nextok("words", pages, tmp_path / "other", "--size", 9)
    assert code == 2 and "size: got 9, accepted: 258" in error and not (tmp_path / "other").exists()
    code, _, error = nextok("words", tmp_path / "nothing", tmp_path / "other")
    assert code == 2 and "data.path: got" in error

    config = tmp_path / "train.yaml"
    config.write_text(
        "model: {role: generator, kind: language, size: tiny, vocabulary: 280, begin: 0, ends: [1]}\n"
        f"data: {{kind: text, path: {pages}, words: {words}, length: 16}}\n"
        f"train: {{out: {tmp_path / 'run'}, steps: 2, batch: 2, cpu: true}}\n"
    )
    code, _, error = nextok("train", config)
    assert code == 0, error
    assert load_words(tmp_path / "run" / "final").encode("next") == load_words(words).encode("next")
