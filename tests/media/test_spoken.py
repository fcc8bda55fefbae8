"""Text to be spoken: how it is written, where it is cut, and how it is spelled in phonemes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextok_mm.media.spelling import PHONEMES, Spelling
from nextok_mm.media.spoken import pieces, prepared, sentences

ALPHABET = (
    " !,.;?AIOTWY_bdfhijklmnpstuvwz\u00e6\u00f0\u014b\u0251\u0250\u0254\u0259\u025b\u025c\u0261"
    "\u026a\u0279\u0283\u028a\u028c\u0292\u02a4\u02a7\u02c8\u02cc\u03b8\u1d4a\u1d7b"
)


def letters(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    "given, expected",
    [
        ("hello", "Hello."),
        ("  is\nthis\r\n it? ", "Is this it?"),
        ("7", "7."),
        ("Go on!", "Go on!"),
        ("ok :)", "Ok :)"),
    ],
)
def test_a_text_is_written_as_a_voice_expects_it(given, expected):
    assert prepared(given) == expected


@pytest.mark.parametrize("text", ["", "   ", "...!", "\U0001f642\U0001f642"])
def test_nothing_to_be_spoken_is_one_line(text):
    with pytest.raises(ValueError, match="text: got") as error:
        prepared(text)
    assert "\n" not in str(error.value)


def test_sentences_end_at_their_marks():
    assert sentences('He said "no." It is 3.5 miles! Why? e.g.this') == [
        'He said "no."',
        "It is 3.5 miles!",
        "Why?",
        "e.g.this",
    ]


def test_a_long_text_is_cut_at_sentences_then_at_commas_then_between_words():
    text = "One two. Three four five. Six, seven eight, nine ten, eleven. a b c d e f g h"
    assert pieces(text, letters, 100) == [text]
    assert pieces(text, letters, 5) == [
        "One two. Three four five.",
        "Six, seven eight, nine ten,",
        "eleven.",
        "a b c d e",
        "f g h",
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "bb", "c,", "d.", "e!", "f;", "ggg"]), min_size=1, max_size=60), st.integers(1, 9)
)
def test_pieces_are_the_whole_text_and_fit(words, most):
    found = pieces(" ".join(words), letters, most)
    assert " ".join(found).split() == words and all(letters(piece) <= most for piece in found)


def test_a_text_is_spelled_sentence_by_sentence():
    pytest.importorskip("hibari")
    spelling = Spelling(ALPHABET)
    one, two = spelling.phonemes("hello."), spelling.phonemes("Hello. It is 9!")
    assert two.startswith(one) and one[0] == one[-1] == "_" and two.count("_") == 4 and two.endswith("n\u02c8In!_")
    ids = spelling.encode("hello")
    assert spelling.decode(ids) == spelling.phonemes("hello") and max(ids) < spelling.size
    with pytest.raises(ValueError, match="text: got '你好', accepted: English"):
        spelling.encode("你好")


def test_an_alphabet_comes_back_from_its_file():
    spelling = Spelling(ALPHABET)
    again = Spelling.read(spelling.files()[PHONEMES])
    assert again.alphabet == ALPHABET and again.size == 53


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"alphabet": 3}', json.dumps({"alphabet": "aab_"}).encode(), b'{"alphabet": "ab"}']
)
def test_another_file_is_refused(data):
    with pytest.raises(ValueError, match=PHONEMES) as error:
        Spelling.read(data)
    assert "\n" not in str(error.value)
