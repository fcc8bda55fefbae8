"""The quantizer by itself; its numbers are checked against the official ones in tests/parity."""

import pytest
import torch

from nextok_mm.quantizers.fsq import FSQ, usage

LEVELS = (8, 5, 4, 3, 2)


def test_every_code_comes_back():
    fsq = FSQ(LEVELS)
    codes = torch.arange(fsq.size)
    values = fsq.dequantize(codes)
    assert values.unique(dim=0).shape == values.shape and values.abs().max() <= 1
    basis = [8**0, 8, 40, 160, 480]
    again = ((values * (fsq.levels // 2)).round().long() + fsq.levels // 2) @ torch.tensor(basis)
    assert torch.equal(again, codes)


def test_every_level_is_reached_and_values_agree_with_their_codes():
    fsq = FSQ(LEVELS)
    quantized, codes = fsq(torch.randn(20_000, len(LEVELS), generator=torch.Generator().manual_seed(0)) * 2)
    assert torch.equal(quantized, fsq.dequantize(codes))
    assert [len(column.unique()) for column in quantized.T] == list(LEVELS)


def test_the_gradient_passes_the_rounding():
    z = torch.linspace(-1, 1, 10).reshape(2, 5).requires_grad_()
    fsq = FSQ(LEVELS)
    fsq(z)[0].sum().backward()
    bounded = torch.autograd.functional.jacobian(lambda x: (fsq.bound(x) / (fsq.levels // 2)).sum(), z.detach())
    torch.testing.assert_close(z.grad, bounded)


def test_it_stays_in_fp32_under_autocast():
    fsq, z = FSQ(LEVELS), torch.randn(64, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fsq(z)[0], FSQ(LEVELS)(z)[0]) and fsq(z)[0].dtype == torch.float32


@pytest.mark.parametrize("bound", ["atanh", "tan"])
@pytest.mark.parametrize("levels", [(1001, 3), (1002, 4), (2, 5000), (8, 8, 5, 5)])
def test_no_number_reaches_beyond_the_outermost_levels(levels, bound):
    fsq = FSQ(levels, bound)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * len(levels))
    quantized, codes = fsq(torch.cat((50 * signs, 3 * signs, 0.1 * signs)))
    assert 0 <= int(codes.min()) <= int(codes.max()) < fsq.size
    assert torch.equal(quantized, fsq.dequantize(codes))


def test_the_extremes_of_many_levels_are_the_first_and_the_last():
    quantized, codes = FSQ([1002, 4])(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]))
    assert codes.tolist() == [1001, 3 * 1002]
    torch.testing.assert_close(quantized, torch.tensor([[500 / 501, -1.0], [-1.0, 0.5]]))


def test_usage_counts():
    found = usage(torch.tensor([[0, 0], [3, 3]]), 8)
    assert found["code_usage"] == 0.25 and found["code_perplexity"].item() == pytest.approx(2)


def test_more_codes_than_can_be_counted_are_refused():
    with pytest.raises(ValueError, match="accepted: fewer than"):
        FSQ([2**16] * 4)


@pytest.mark.parametrize("levels", [(), (8, 1), (0,)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="levels: got"):
        FSQ(levels)


@pytest.mark.parametrize("levels", [(8, 5, 4, 3), (8, 8, 8, 5, 5, 5), (3,)])
def test_it_agrees_with_vector_quantize_pytorch(levels):
    peer = pytest.importorskip("vector_quantize_pytorch")
    theirs, fsq = peer.FSQ(list(levels)), FSQ(levels)
    mine, other = (torch.randn(1, 500, len(levels), generator=torch.Generator().manual_seed(1)) * 2 for _ in range(2))
    (quantized, codes), (expected, their_codes) = fsq(mine.requires_grad_()), theirs(other.requires_grad_())
    torch.testing.assert_close(quantized, expected)
    assert torch.equal(codes, their_codes.long())
    quantized.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(mine.grad, other.grad)
