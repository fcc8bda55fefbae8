"""Numbers that aren't finite stop a training before they reach the weights, and the first one is named."""

import pytest
import torch
from torch import nn

from nextok_mm.config import ModelConfig
from nextok_mm.contracts import Loss, Model
from nextok_mm.registry import register
from nextok_mm.train import snapshots, train
from nextok_mm.train.guards import NotFinite
from nextok_mm.train.log import read_log

from .conftest import config


class BrokenConfig(ModelConfig):
    """Where the model breaks."""

    breaks: str = "nowhere"


@register("judge", "broken")
class Broken(Model):
    """A model of two layers that goes wrong, in the place that its config says, as soon as it sees label 2."""

    Config = BrokenConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.first, self.second = nn.Linear(4, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 1))
        self.dropout = nn.Dropout(0.1)

    def loss(self, batch, rng):
        bad = float("nan") if (batch["labels"] == 2).any() else 0.0
        breaks = self.config.breaks
        hidden = self.first(batch["tokens"] + (bad if breaks == "input of the first layer" else 0))
        output = self.dropout(self.second(hidden))
        if breaks == "gradient":  # finite forward, but the slope of a root at zero is infinite
            output = output + ((hidden * 0).abs() if bad != bad else hidden.abs() + 1).sqrt().mean() * 0
        size = output.square().mean()
        return Loss({"size": (size + (bad if breaks == "total" else 0)).expand(len(rng))})

    def example(self, n, rng):
        raise NotImplementedError


def attempt(fields, breaks, **changes) -> str:
    """The message of a training that goes wrong."""
    fields["model"] = {"role": "judge", "kind": "broken", "breaks": breaks}
    with pytest.raises(NotFinite) as error:
        train(config(fields, **changes))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "breaks, words",
    [
        ("input of the first layer", "output of module 'first'"),
        ("gradient", "gradient of weight 'first."),
        ("total", "the loss"),
    ],
)
def test_the_first_bad_tensor_is_named(fields, breaks, words):
    assert words in attempt(fields, breaks)


def test_nan_in_the_data_is_named(fields, tmp_path, monkeypatch):
    from nextok_mm.data.tensors import Tensors

    plain = Tensors.batch

    def spoiled(self, indices, seeds=None):
        batch = plain(self, indices, seeds)
        batch["tokens"][0, 0, 0] = float("inf")
        return batch

    monkeypatch.setattr(Tensors, "batch", spoiled)
    assert "step 1: " in (message := attempt(fields, "nowhere")) and "batch['tokens']" in message


def test_the_weights_before_the_bad_step_are_kept(fields, tmp_path, monkeypatch):
    """The bad step comes after the first snapshot, which must survive whole."""
    from nextok_mm.train import loop

    plain = loop.Run._gather

    def late(self, losses, norm):
        numbers, stop = plain(self, losses, norm)
        return ({**numbers, "loss": float("nan")} if self.step == 7 else numbers), stop

    monkeypatch.setattr(loop.Run, "_gather", late)
    message = attempt(fields, "nowhere")
    assert message.startswith("step 8: ") and "a second pass didn't meet" in message
    step, tensors, _ = snapshots.newest(tmp_path / "run" / "snapshots")
    assert step == 5 and all(torch.isfinite(tensor).all() for tensor in tensors["weights"].values())
    assert [line["step"] for line in read_log(tmp_path / "run")] == [3, 6]
