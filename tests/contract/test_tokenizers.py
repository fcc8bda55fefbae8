"""What every registered tokenizer keeps."""

import math

import pytest
import torch

from nextok_mm.contracts import Tokens
from nextok_mm.rng import Rng

from .conftest import example, tokenizer_output


def test_there_and_back_in_shape(tokenizer):
    images = example(tokenizer, range(3))["images"]
    tokens = tokenizer.encode(images)
    assert tokens.grid == tuple(tokenizer.grid(tuple(images.shape[2:])))
    assert tokens.data.shape[:2] == (3, math.prod(tokens.grid))
    out = tokenizer.decode(tokens)
    assert out.shape == images.shape and tokenizer.medium.low <= out.min() and out.max() <= 1


def test_rows_do_not_depend_on_the_batch(tokenizer):
    images = example(tokenizer, range(3))["images"]
    alone = tokenizer_output(tokenizer, {"images": images[1:2]})
    torch.testing.assert_close(tokenizer_output(tokenizer, {"images": images})[1:2], alone, rtol=1e-4, atol=1e-5)


def test_tokens_name_their_tokenizer(tokenizer):
    images = example(tokenizer, range(1))["images"]
    source = tokenizer.encode(images).source
    assert source and source == tokenizer.encode(images).source
    with torch.no_grad():
        next(tokenizer.parameters()).add_(1)
    assert type(tokenizer)(tokenizer.config).encode(images).source != source


def test_a_picture_that_does_not_fit_is_refused(tokenizer):
    with pytest.raises(ValueError) as error:
        tokenizer.grid((13, 7))
    assert "13" in str(error.value) and "\n" not in str(error.value)


def ordered_tokens(ordered) -> Tokens:
    return ordered.encode(example(ordered, range(3))["images"])


def test_a_shorter_list_of_tokens_is_the_same_as_keeping_fewer(ordered):
    tokens = ordered_tokens(ordered)
    for k in (1, 3, tokens.data.shape[1]):
        short = Tokens(tokens.data[:, :k], (k,), tokens.source)
        torch.testing.assert_close(ordered.decode(short), ordered.decode(tokens, num_tokens=k))


def test_tokens_that_are_not_kept_do_not_matter(ordered):
    tokens = ordered_tokens(ordered)
    other = tokens.data.clone()
    other[:, 3:] = 0
    kept = ordered.decode(tokens, num_tokens=3)
    torch.testing.assert_close(ordered.decode(Tokens(other, tokens.grid, tokens.source), num_tokens=3), kept)
    assert (ordered.decode(tokens, num_tokens=4) - kept).abs().max() > 1e-4


def test_codes_of_no_picture_are_refused(ordered):
    tokens = ordered_tokens(ordered)
    with pytest.raises(ValueError, match=r"codes: got \(0, "):
        ordered.decode(Tokens(tokens.data[:0], tokens.grid))


def test_each_picture_of_a_batch_keeps_its_own_number(ordered):
    tokens, numbers = ordered_tokens(ordered), (1, 5, 8)
    mixed = ordered.decode(tokens, num_tokens=torch.tensor(numbers))
    for row, k in enumerate(numbers):
        alone = ordered.decode(Tokens(tokens.data[row : row + 1], tokens.grid, tokens.source), num_tokens=k)
        torch.testing.assert_close(mixed[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_decoding_counts_its_steps(ordered):
    seen = []
    ordered.decode(ordered_tokens(ordered), rng=Rng(range(3)), progress=lambda done, steps: seen.append((done, steps)))
    assert seen and seen[-1][0] == seen[-1][1] and seen == sorted(seen)
