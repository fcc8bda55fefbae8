"""Bits a byte: every token once, what a model knows counts, what it can't read is one line."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextok_mm import registry
from nextok_mm.data.text import ends
from nextok_mm.eval.bits import bits_per_byte, windows
from nextok_mm.media.words import Bytes

TEXTS = ["a text that is longer than any window of sixty-four tokens is, ends included, naïve as it is", "", "short"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    built = registry.build("generator", "language", {"size": "tiny", "vocabulary": 258, "begin": 256, "ends": [257]})
    for parameter in built.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return built.eval()


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(2, 20), st.data())
def test_every_token_is_scored_once_with_enough_before_it(count, context, data):
    stride = data.draw(st.integers(1, context - 1))
    scored, tokens = [], list(range(count))
    for window, known in windows(tokens, context, stride):
        assert len(window) <= context and window == tokens[window[0] : window[0] + len(window)]
        assert known >= (1 if window[0] == 0 else context - stride)
        scored += window[known:]
    assert scored == tokens[1:]


def test_it_is_the_models_own_cross_entropy(model):
    words = Bytes()
    found = bits_per_byte(model, words, TEXTS, stride=16)
    nats = 0.0
    for text in TEXTS:
        for window, known in windows(ends(words, text), 64, 16):
            chances = model.logits(torch.tensor([window])).log_softmax(-1)[0]
            nats -= sum(float(chances[place - 1, window[place]]) for place in range(known, len(window)))
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["bits a byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found["bytes"] == size and found["tokens"] == size + 3 and found["documents"] == 3
    assert found["nats a token"] == pytest.approx(nats / (size + 3), rel=1e-5)
    for batch in (1, 3):
        assert bits_per_byte(model, words, TEXTS, 16, batch) == pytest.approx(found, rel=1e-5)


def test_what_can_not_be_measured_is_one_line(model):
    with pytest.raises(ValueError, match="stride: got 64, accepted: 1 to 63"):
        bits_per_byte(model, Bytes(), TEXTS, 64)
    for nothing in ([], [""]):
        with pytest.raises(ValueError, match="texts: got 0 bytes"):
            bits_per_byte(model, Bytes(), nothing)
    other = registry.build("generator", "language", {"size": "tiny"})
    with pytest.raises(ValueError, match="words: got 258 different tokens, accepted: 61"):
        bits_per_byte(other, Bytes(), TEXTS)
