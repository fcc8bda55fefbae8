"""A row's numbers are its own: whatever the batch, the order of the rows, or the neighbours' seeds."""

import torch

from nextok_mm.rng import Rng, mix


def test_rows_do_not_depend_on_the_batch():
    both, alone = Rng([3, 7]), Rng([7])
    assert torch.equal(both.normal(5)[1:], alone.normal(5))
    assert torch.equal(both.uniform(2, 2)[1:], alone.uniform(2, 2))
    assert torch.equal(both.integers(10, 3)[1:], alone.integers(10, 3))


def test_seeds_that_share_low_bits_differ():
    assert not torch.equal(Rng([1]).normal(8), Rng([1 + (1 << 32)]).normal(8))
    assert len({mix(seed, row) for seed in range(50) for row in range(50)}) == 2500


def test_numbers_take_the_dtype_asked_for():
    assert Rng([1]).normal(2, like=torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_row_that_does_not_draw_stays_where_it_is():
    both, first, second = Rng([3, 7]), Rng([3]), Rng([7])
    some = both.only([True, False]).normal(4)
    assert torch.equal(some[:1], first.normal(4)) and not some[1].any()
    assert not both.only(torch.tensor([False, False])).integers(9, 5).any()
    after = both.uniform(3)
    assert torch.equal(after[:1], first.uniform(3)) and torch.equal(after[1:], second.uniform(3))
