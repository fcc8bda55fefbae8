"""The model of n-grams: a probability everywhere, the formula counted by hand, longer is better."""

import random

import numpy as np
import pytest

from nextok_mm.bench.ngrams import NGrams


def drawn(count: int, seed: int) -> list[list[int]]:
    """Documents in which a token mostly follows from the one before it."""
    chance = random.Random(seed)
    documents = []
    for _ in range(count):
        document = [chance.randrange(7)]
        while len(document) < 30:
            document.append((3 * document[-1] + 1) % 7 if chance.random() < 0.8 else chance.randrange(7))
        documents.append(document)
    return documents


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_chances_of_all_tokens_are_one(order):
    model = NGrams(drawn(5, 0), 8, order)  # 7 is never seen
    for before in ([], [1], [7], [2, 0, 1, 4], [6, 6, 6, 6, 6, 6]):
        chances = [model.chances([*before, token])[-1] for token in range(8)]
        assert sum(chances) == pytest.approx(1, abs=1e-12) and min(chances) > 0


def test_the_formula_by_hand():
    model = NGrams([[0, 1, 0, 1, 0, 2]], 4, 2)
    # Pairs: -0 01 01 10 10 02, one of each but 01 and 10. Different tokens before 0: -, 1; before 1 and 2: 0.
    pairs, single = 2 / (2 + 2 * 2), 2 / (2 + 2 * 1)
    lower = [(count - single if count else 0) / 4 + single * 3 / 4 / 4 for count in (2, 1, 1, 0)]
    after_0 = [(max(count - pairs, 0) + pairs * 2 * low) / 3 for count, low in zip((0, 2, 1, 0), lower)]
    assert [model.chances([0, token])[1] for token in range(4)] == pytest.approx(after_0, rel=1e-12)
    assert model.chances([3, 1])[1] == pytest.approx(lower[1])  # nothing was seen after 3


def test_a_longer_history_helps_where_it_says_something():
    train, test = drawn(60, 1), drawn(20, 2)
    one, two, five = (NGrams(train, 7, order).bits(test) / 600 for order in (1, 2, 5))
    assert one > 2.7 and two < 1.6 and abs(five - two) < 0.2  # two tokens say all here
    best = -(0.8 + 0.2 / 7) * np.log2(0.8 + 0.2 / 7) - 6 * 0.2 / 7 * np.log2(0.2 / 7)
    assert two > best - 0.1  # nobody can be better than what the text was drawn from


@pytest.mark.parametrize(
    ("documents", "order", "message"),
    [
        ([[0]], 0, "order: got 0"),
        ([[0]], 40, "order: got 40, accepted: 1 to 19"),
        ([[]], 2, "got no token"),
        ([[9]], 2, "got tokens 9 to 9, accepted: 0 to 7"),
    ],
)
def test_what_can_not_be_counted_is_one_line(documents, order, message):
    with pytest.raises(ValueError, match=message):
        NGrams(documents, 8, order)
