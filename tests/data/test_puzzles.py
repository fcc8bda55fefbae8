"""Mazes and recall: rows whose answer is known, checked by other means than those that made them."""

import pytest
import torch

from nextok_mm import data
from nextok_mm.data import mazes


def rows(kind, n=40, **fields):
    config = data.parse({"kind": kind, **fields})
    return config, config.open().batch(range(n))["tokens"]


@pytest.mark.parametrize("side, shortest, longest", [(2, 1, 3), (4, 3, 9), (6, 5, 20)])
def test_a_path_leads_through_open_sides_from_its_first_to_its_last_cell(side, shortest, longest):
    config, tokens = rows("mazes", side=side, shortest=shortest, longest=longest)
    assert tokens.shape == (40, config.length) and int(tokens.max()) == config.num_codes - 1
    for row in tokens.tolist():
        doors, (first, last) = row[: side**2], (cell - mazes.WALLS for cell in row[side**2 : config.prompt])
        path = [cell - mazes.WALLS for cell in row[config.prompt :] if cell != config.num_codes - 1]
        assert shortest <= len(path) <= longest and path[-1] == last and len({first, *path}) == len(path) + 1
        for here, there in zip([first, *path], path):
            (down, right) = (there // side - here // side, there % side - here % side)
            bit = mazes.STEPS.index((down, right))  # ValueError where it is no neighbor
            assert doors[here] >> bit & 1 and doors[there] >> (bit + 2) % 4 & 1
        assert row[config.prompt + len(path) :] == [config.num_codes - 1] * (longest - len(path))


def test_a_maze_is_a_tree():
    """One door less than cells, and every cell is reached: so there is one path."""
    for row in rows("mazes", side=5, shortest=4, longest=18)[1][:, :25].tolist():
        assert sum(bin(doors).count("1") for doors in row) == 2 * 24
        assert len(mazes.walk(row, 5, 0)[1]) == 25


def test_values_are_asked_for_that_were_shown():
    config, tokens = rows("recall", pairs=8, queries=5, keys=10, values=7)
    shown, asked = tokens[:, :16].view(40, 8, 2), tokens[:, 16:].view(40, 5, 2)
    assert int(shown[..., 0].max()) < 10 <= int(shown[..., 1].min()) and int(tokens.max()) == config.num_codes - 1
    for pairs, queries in zip(shown.tolist(), asked.tolist()):
        known = dict(pairs)
        assert len(known) == 8 and all(known[key] == value for key, value in queries) and len(dict(queries)) == 5
    assert len({tuple(row) for row in tokens.tolist()}) == 40


@pytest.mark.parametrize("kind", ["mazes", "recall"])
def test_a_row_depends_on_its_index_split_and_seed(kind):
    source = data.parse({"kind": kind}).open()
    twice = source.batch([3, 5, 3])["tokens"]
    assert torch.equal(twice[0], twice[2]) and not torch.equal(twice[0], twice[1])
    for other in ({"split": "test"}, {"seed": 1}):
        assert not torch.equal(data.parse({"kind": kind, **other}).open().batch([3])["tokens"][0], twice[0])
    assert len(data.parse({"kind": kind, "rows": 7}).open()) == 7


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"kind": "mazes", "side": 3}, "longest: got paths of 5 to 20 steps, accepted: from shortest up to 8"),
        ({"kind": "mazes", "side": 1}, "data.side: got 1"),
        ({"kind": "mazes", "shortest": 9, "longest": 8}, "longest: got paths of 9 to 8 steps"),
        ({"kind": "recall", "pairs": 70}, "pairs: got 8 queries, 70 pairs, 64 keys, accepted: queries up to pairs"),
        ({"kind": "recall", "queries": 20}, "pairs: got 20 queries"),
    ],
)
def test_what_cannot_be_is_one_line(fields, word):
    with pytest.raises(ValueError, match=word) as error:
        data.parse(fields)
    assert "\n" not in str(error.value)
