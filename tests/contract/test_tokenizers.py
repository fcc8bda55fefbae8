"""What every registered tokenizer keeps."""

import math

import pytest
import torch

from .conftest import example, tokenizer_output


def test_there_and_back_in_shape(tokenizer):
    images = example(tokenizer, range(3))["images"]
    tokens = tokenizer.encode(images)
    assert tokens.grid == tuple(tokenizer.grid(tuple(images.shape[2:])))
    assert tokens.data.shape[:2] == (3, math.prod(tokens.grid))
    out = tokenizer.decode(tokens)
    assert out.shape == images.shape and 0 <= out.min() and out.max() <= 1


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
