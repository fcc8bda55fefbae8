"""Filters equal brute force; draws follow the distribution and don't depend on the batch."""

import pytest
import torch

from nextok_mm.decoding.logits import Drawing, _inverse, _inverse_of_row, _kept, draw, filtered, min_p, top_k, top_p
from nextok_mm.rng import Rng


def kept(logits: torch.Tensor) -> list[set[int]]:
    return [{code for code, logit in enumerate(row) if logit > float("-inf")} for row in logits.tolist()]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 3


def nucleus(row: list[float], share: float) -> set[int]:
    chosen, total = set(), 0.0
    for code in sorted(range(12), key=lambda code: -row[code]):
        if total >= share:
            break
        chosen.add(code)
        total += row[code]
    return chosen


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.9, 1 - 1e-7])
def test_filters_equal_brute_force(logits, share):
    """Where a sum comes within fp32's rounding of the share, either side of it will do."""
    shares, rounding = logits.softmax(-1).tolist(), 12 * 2**-24
    nuclei = [nucleus(row, share) for row in shares]
    for found, wanted, row in zip(kept(top_p(logits, share)), nuclei, shares):
        assert found == wanted or found in [nucleus(row, share + near) for near in (-rounding, rounding)]
    if share < 1 - rounding:
        assert kept(top_p(logits, share)) == nuclei
    assert kept(min_p(logits, share)) == [{c for c, p in enumerate(row) if p >= share * max(row)} for row in shares]
    k = max(1, int(12 * share))
    assert kept(top_k(logits, k)) == [set(sorted(range(12), key=lambda c: -row[c])[:k]) for row in shares]


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 1600},
        {"top_p": 0.9},
        {"top_p": 1e-6},
        {"top_k": 1600, "top_p": 0.5, "temperature": 1.7},
        {"top_k": 4999, "top_p": 0.999, "min_p": 0.01},
        {"temperature": 0.3},
    ],
    ids=str,
)
def test_searching_a_large_vocabulary_equals_sorting_it(settings):
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(1)) * 5
    logits[1, ::7] = -float("inf")
    logits[2] *= 1e-3
    logits[3, 17] = 1e4
    settings = Drawing(**settings)
    for row in logits:
        shares = _kept(row, settings)
        wanted = filtered(row, settings)
        assert torch.equal(shares > 0, wanted.softmax(-1) > 0)
        torch.testing.assert_close(shares / shares.sum(), wanted.softmax(-1), rtol=1e-4, atol=1e-7)


def test_ties_stay_together_in_a_large_vocabulary():
    row = torch.arange(5000.0) // 100
    assert (_kept(row, Drawing(top_k=150)) > 0).sum() == 200


def test_what_is_kept_is_not_changed(logits):
    out = filtered(logits, Drawing(temperature=0.5, top_k=6, top_p=0.9, min_p=0.01))
    inside = out > float("-inf")
    assert torch.equal(out[inside], (logits / 0.5)[inside]) and 0 < inside.sum() < inside.numel()
    assert torch.equal(filtered(logits, Drawing()), logits)


def test_draws_follow_the_filtered_shares():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -float("inf")])
    codes = draw(logits.expand(20, 2000, 5), Drawing(top_k=3, temperature=2.0), Rng(range(20)))
    shares = torch.bincount(codes.flatten(), minlength=5) / codes.numel()
    expected = torch.cat(((logits[:3] / 2).softmax(-1), torch.zeros(2)))
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    assert shares[3] == shares[4] == 0


def test_a_draw_does_not_depend_on_its_batch(logits):
    many = logits.view(5, 10, 12)
    together = draw(many, Drawing(), Rng(range(5)))
    alone = torch.cat([draw(many[row : row + 1], Drawing(), Rng([row])) for row in range(5)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, draw(many, Drawing(), Rng(range(5, 10))))


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 0.999999}])
def test_greedy_in_every_way(logits, settings):
    assert torch.equal(draw(logits, Drawing(**settings), Rng(range(50))), logits.argmax(-1))
    assert Drawing(**settings).greedy == ("temperature" in settings or "top_k" in settings)


@pytest.mark.parametrize(
    "field, value", [("top_p", 0), ("top_p", 1.1), ("temperature", -1), ("min_p", 1), ("top_k", -1)]
)
def test_a_setting_out_of_range_is_one_line(field, value):
    with pytest.raises(ValueError, match=f"sampling.{field}: got {value}") as error:
        Drawing.parse({field: value}, where="sampling")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("codes", [2, 7, 2500])
def test_the_inverse_is_that_of_exact_fractions(codes):
    """The first code whose share and those before it come to more than the chance, in whole numbers of any size."""
    gen = torch.Generator().manual_seed(codes)
    shares = (2 * torch.randn(40, codes, generator=gen)).softmax(-1)
    shares = shares.where(torch.rand(40, codes, generator=gen) < 0.7, 0)
    shares[0], shares[1] = 0, 0
    shares[0, 0], shares[1, -1] = 0.5, 1e-7
    chance = torch.rand(40, generator=gen)
    chance[:6] = torch.tensor([0, 1 - 2**-24, 0, 1 - 2**-24, 0.5, 2**-24])
    found = _inverse(shares, chance).tolist()
    for row, at, code in zip(shares, chance, found):
        exact, below = [int(share * 2.0**160) for share in row.tolist()], 0
        bound = int(at.item() * 2**24) * sum(exact)
        if not sum(exact):
            continue
        for wanted, share in enumerate(exact):  # noqa: B007, it is read below
            below += share << 24
            if below > bound:
                break
        assert code == wanted and row[code] > 0
        assert int(_inverse_of_row(row, at.item())) == code
