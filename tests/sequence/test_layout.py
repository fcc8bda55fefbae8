"""Layouts: every kind on 1-D, 2-D and 3-D grids, square or not, goes there and back and covers each token once."""

import math
from dataclasses import replace

import pytest
import torch

from nextok_mm.sequence import make_layout

CASES = [
    ("token", (7,), None),
    ("patch", (4, 6), None),
    ("cell", (4, 6), 2),
    ("cell", (4, 6), (1, 6)),
    ("cell", (3, 4, 6), (1, 4, 6)),
    ("subsample", (4, 6), 2),
    ("subsample", (4, 6), (2, 3)),
    ("subsample", (2, 4, 4), 2),
    ("image", (5, 3), None),
    ("scale", (4, 6), None),
    ("scale", (8, 8), (1, 3, 8)),
    ("scale", (5,), None),
]


@pytest.mark.parametrize("kind, grid, size", CASES)
def test_there_and_back(kind, grid, size):
    layout = make_layout(kind, grid, size)
    x = torch.randn(2, math.prod(grid), 3)
    sequence = layout.to_sequence(x)
    assert sequence.shape == (2, layout.tokens, 3) and sum(layout.sizes) == layout.tokens
    torch.testing.assert_close(layout.to_raster(sequence), x, rtol=0, atol=0)
    assert layout.positions.shape == (layout.tokens, len(grid))
    assert layout.entity_ids.bincount().tolist() == list(layout.sizes)
    if kind != "scale":
        assert sorted(layout.order.tolist()) == list(range(math.prod(grid)))
        strides = torch.tensor([math.prod(grid[i + 1 :]) for i in range(len(grid))])
        assert ((layout.positions.long() * strides).sum(-1) == layout.order).all()


def test_cells_are_neighbours_and_subsamples_are_spread():
    assert make_layout("cell", (4, 4), 2).order.tolist()[:8] == [0, 1, 4, 5, 2, 3, 6, 7]
    assert make_layout("subsample", (4, 4), 2).order.tolist()[:8] == [0, 2, 8, 10, 1, 3, 9, 11]
    assert make_layout("cell", (4, 6), (1, 6)).sizes == (6, 6, 6, 6)


def test_scales_average_and_coarse_positions_are_centres():
    layout = make_layout("scale", (4, 4))
    assert layout.sizes == (1, 4, 16)
    x = torch.arange(16.0).reshape(1, 16, 1)
    assert layout.to_sequence(x)[0, 0, 0] == 7.5
    assert layout.positions[0].tolist() == [1.5, 1.5]
    assert layout.positions[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind, grid, size", CASES)
def test_unfinished_tokens_are_zero(kind, grid, size):
    layout = make_layout(kind, grid, size)
    ones = torch.ones(1, layout.tokens, 1)
    assert layout.to_raster(ones, 0).abs().sum() == 0
    done = layout.to_raster(ones, 1)
    expected = math.prod(grid) if kind == "scale" else layout.sizes[0]  # a first scale covers the whole picture
    assert done.shape == (1, math.prod(grid), 1) and int(done.sum()) == expected


@pytest.mark.parametrize(
    "kind, grid, size, word",
    [
        ("row", (4, 4), None, "entity"),
        ("cell", (4, 6), 4, "entity_size"),
        ("cell", (4, 6), (2, 2, 2), "entity_size"),
        ("subsample", (4, 6), 3, "entity_size"),
        ("image", (4, 4), 2, "takes none"),
        ("scale", (4, 4), (4, 2), "entity_size"),
        ("scale", (4, 4), (1, 2), "end with 4"),
        ("cell", (0, 4), 1, "grid"),
        ("cell", (2, 2, 2, 2), 1, "grid"),
    ],
)
def test_a_wrong_cut_names_its_field(kind, grid, size, word):
    with pytest.raises(ValueError, match=word) as error:
        make_layout(kind, grid, size)
    assert "\n" not in str(error.value)


class Counted(tuple[int, ...]):
    """Sizes that count how many of them are read."""

    read = 0

    def __getitem__(self, place):
        got = super().__getitem__(place)
        Counted.read += len(got) if isinstance(place, slice) else 1
        return got

    def __iter__(self):
        Counted.read += len(self)
        return super().__iter__()


@pytest.mark.parametrize("kind, grid, size", CASES)
def test_spans_and_sizes_come_from_offsets_that_are_added_up_once(kind, grid, size):
    layout = make_layout(kind, grid, size)
    layout = replace(layout, sizes=Counted(layout.sizes))
    Counted.read = 0
    spans = [layout.span(entity) for entity in range(layout.entities)]
    assert Counted.read <= layout.entities  # a sum from the start for each would be quadratic
    assert spans == [(sum(layout.sizes[:e]), sum(layout.sizes[: e + 1])) for e in range(layout.entities)]
    edges = [0, *(stop for _, stop in spans)]
    for start in edges:
        for stop in edges:
            within = tuple(b - a for a, b in spans if a >= start and b <= stop)
            assert layout.sizes_between(start, stop) == within
