"""A loss is one number per row and term, averaged last; rows may be weighed."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.contracts import Loss
from nextok_mm.rng import Rng


def test_terms_rows_and_weights():
    away = (torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[[4.0]], [[8.0]]]))  # two maps, of two sizes
    loss = Loss({"nats": torch.tensor([1.0, 2.0])}, measures={"used": torch.tensor(0.25)})
    loss = loss.plus({"away": away}, {"away": 0.5}, {"right": torch.tensor([1.0, 0.0])})
    assert loss.rows.tolist() == [1 + 0.5 * (2 + 4) / 2, 2 + 0.5 * (6 + 8) / 2]
    assert loss.total == loss.rows.mean() == loss.weighed(torch.ones(2))
    assert loss.weighed(torch.tensor([2.0, 0.0])) == loss.rows[0]
    parts = {name: float(part) for name, part in loss.parts.items()}
    assert parts == {"nats": 1.5, "away": 5.0, "used": 0.25, "right": 0.5}


def test_what_cannot_be_is_refused():
    for wrong in (lambda: Loss({}), lambda: Loss({"a": torch.ones(1)}, {"b": 1.0})):
        with pytest.raises(AssertionError):
            wrong()
    with pytest.raises(AssertionError):
        Loss({"a": torch.ones(1)}).plus({"a": torch.ones(1)})


def test_a_row_that_is_weighed_as_two_is_two_rows():
    """Of the gradient too, whatever batch it is in."""
    model = registry.build("generator", "elm", {"size": "tiny"}).eval()
    batch = model.example(3, Rng(range(3)))

    def gradient(rows, weights):
        model.zero_grad()
        some = {name: column[rows] for name, column in batch.items()}
        model.loss(some, Rng(rows)).weighed(torch.tensor(weights)).backward()
        return model.backbone.blocks[0].attention.qkv.weight.grad * len(rows)

    torch.testing.assert_close(gradient([0, 1, 2], [2.0, 0.0, 1.0]), gradient([0, 0, 2], [1.0, 1.0, 1.0]))
