"""Packed weights give the same numbers, leave nothing behind, and stay out of the way of training."""

import pytest
import torch
from torch import nn

from nextok_mm.sequence.packed import packed


@pytest.mark.parametrize("bias", [True, False])
def test_same_numbers_and_nothing_left(bias):
    model = nn.Sequential(nn.Linear(64, 96, bias), nn.GELU(), nn.Linear(96, 64, bias))
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        expected = model(x)
        with packed(model):
            assert "forward" in model[0].__dict__
            torch.testing.assert_close(model(x), expected)
    assert "forward" not in model[0].__dict__


def test_gradients_and_half_precision_go_the_plain_way():
    model = nn.Sequential(nn.Linear(64, 64))
    with packed(model):
        model(torch.randn(2, 64)).sum().backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert model(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert model[0].weight.grad is not None


def test_an_error_inside_unpacks():
    model = nn.Sequential(nn.Linear(64, 64))
    with pytest.raises(RuntimeError, match="stop"), packed(model):
        raise RuntimeError("stop")
    assert "forward" not in model[0].__dict__


def test_other_dtypes_are_left_alone():
    model = nn.Sequential(nn.Linear(64, 64)).double()
    with packed(model):
        assert "forward" not in model[0].__dict__


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_few_rows_are_the_same_numbers(rows):
    """As many as one sample, with guidance or without, has when it is decoded token by token."""
    model = nn.Linear(64, 96)
    for x in (torch.randn(rows, 64), torch.randn(rows, 1, 64)):
        with torch.no_grad(), packed(model):
            torch.testing.assert_close(model(x), nn.functional.linear(x, model.weight, model.bias))
