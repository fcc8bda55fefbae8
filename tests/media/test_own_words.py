"""A text tokenizer that is learned here: every text comes back, pieces are never merged across, bad sizes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
from nextok_mm.files import write_files
from nextok_mm.media.own_words import BEGIN, END, learn
from nextok_mm.media.words import load_words

TEXTS = ["def next_token(self, text):\n    return self.words[text]\n", "the next token, and the next one\n\n"] * 20


@pytest.fixture(scope="module")
def words():
    return learn(TEXTS, 290)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_every_text_comes_back(words, text):
    assert words.decode(words.encode(text)) == text


def test_it_learns_what_it_reads_and_marks_ends(words, tmp_path):
    assert words.size == 290 and words.end == 1 and words.encode("") == [0]
    text = "the next token"
    assert len(words.encode(text, begin=False)) <= 5 < len("".join(words.decode([t]) for t in words.encode(text)))
    assert not {0, 1} & set(words.encode(f"{BEGIN}{END}", begin=False))  # no text of a user's
    pieces = [words.decode([token]) for token in range(2, 290)]
    assert not [piece for piece in pieces if " " in piece.lstrip() and piece.strip()]  # never across words
    write_files(tmp_path, words.files())
    again = load_words(tmp_path)
    assert again.encode(TEXTS[0]) == words.encode(TEXTS[0]) and again.end == 1
    assert learn(TEXTS, 290).files() == words.files()


@pytest.mark.parametrize(
    ("size", "message"),
    [(257, "got 257, accepted: 258"), (70_000, "got 70000"), (2048, "got 2048, accepted: at most")],
)
def test_a_size_that_is_none_is_one_line(size, message):
    with pytest.raises(ValueError, match=f"size: {message}"):
        learn(TEXTS, size)
