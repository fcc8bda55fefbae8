"""The learning rate, the groups that decay, and the running mean, each against its formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nextok_mm.train.config import EMA, Optim
from nextok_mm.train.optim import RunningMean, build_optimizer, learning_rate


def test_the_rate_rises_and_falls_as_said():
    cosine = Optim(lr=2.0, warmup=4, final=0.1)
    rates = [learning_rate(step, 14, cosine) for step in range(14)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0] and rates[4] == 2.0
    assert rates[9] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[-1] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.9))))
    constant = Optim(lr=2.0, warmup=0, schedule="constant")
    assert {learning_rate(step, 14, constant) for step in range(14)} == {2.0}


def test_matrices_decay_and_vectors_do_not():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = build_optimizer(model, Optim(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    for was, now in zip(before, model.parameters()):
        torch.testing.assert_close(now.detach(), was * (0.95 if was.ndim == 2 else 1.0))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(model, Optim())


LAYERS = {
    "linear": lambda: nn.Linear(3, 3),
    "conv": lambda: nn.Conv2d(3, 3, 1),
    "conv3d": lambda: nn.ConvTranspose3d(3, 3, 1, bias=False),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "table": lambda: nn.Embedding(3, 3),
    "norm": lambda: nn.LayerNorm((3, 3)),
    "vector": lambda: nn.ParameterDict({"start": nn.Parameter(torch.zeros(3, 3))}),
    "frozen": lambda: nn.Linear(3, 3).requires_grad_(False),
}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([None, "matrices"]),
)
def test_every_parameter_is_in_one_group(names, tied, decay):
    model = nn.ModuleList([LAYERS[name]() for name in names] + [nn.Linear(3, 3)])
    if tied and "table" in names:  # the output layer shares the table of the codes
        model[-1].weight = model[names.index("table")].weight
    groups = build_optimizer(model, Optim(weight_decay=0.5, decay=decay)).param_groups
    taken = [id(p) for group in groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    if decay is None:
        tables = {id(m.weight) for m in model if isinstance(m, nn.Embedding)}
        wanted = {id(m.weight) for m in model if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose3d))} - tables
        found = {
            id(p) for m in model if not isinstance(m, (nn.MultiheadAttention, nn.LayerNorm)) for p in m.parameters()
        }
        assert decayed & found == wanted & set(taken)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_running_mean_is_its_formula(warmup):
    model = nn.Linear(2, 2)
    mean = RunningMean(model, EMA(decay=0.9, warmup=warmup))
    expected = model.weight.detach().clone()
    for n in range(1, 5):
        with torch.no_grad():
            model.weight.add_(n)
        mean.update()
        decay = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * model.weight.detach()
    own = model.weight.detach().clone()
    with mean.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), own)
