"""The one loop over entities: partial results, progress, and stopping half-way."""

from dataclasses import dataclass

import torch
from torch import nn

from nextok_mm.contracts import State
from nextok_mm.decoding import decode


class Counting(nn.Module):
    """A generator of three entities, each as large as its number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.gradients: list[bool] = []
        self.packed: list[bool] = []

    def step(self, state: State) -> State:
        self.gradients.append(torch.is_grad_enabled())
        self.packed.append("forward" in self.linear.__dict__)
        state.finished += 1
        state.data[:, state.finished - 1] = state.finished
        return state


@dataclass
class Begun(State):
    """Three entities of one token, none of them done."""


def begun() -> Begun:
    return Begun(data=torch.zeros(1, 3), finished=0, total=3)


def test_every_entity_is_handed_out_and_counted() -> None:
    model, seen = Counting(), []
    partials = [state.data.tolist()[0] for state in decode(model, begun(), lambda *count: seen.append(count))]
    assert partials == [[1, 0, 0], [1, 2, 0], [1, 2, 3]]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert model.gradients == [False] * 3 and torch.is_grad_enabled()


def test_who_stops_early_leaves_nothing_behind() -> None:
    model = Counting()
    loop = decode(model, begun())
    next(loop)
    assert model.packed == [True]
    loop.close()
    assert len(model.gradients) == 1 and "forward" not in model.linear.__dict__


def test_what_is_done_already_takes_no_step() -> None:
    model = Counting()
    assert list(decode(model, Begun(data=torch.zeros(1, 3), finished=3, total=3))) == [] and not model.gradients
