"""Every registered model takes low-rank updates, and merged it computes what it computed unmerged."""

import pytest
import torch

from nextok_mm import lora
from nextok_mm.checkpoint import fingerprint, from_pretrained, save_pretrained
from nextok_mm.lora import Lora
from nextok_mm.rng import Rng

from .conftest import example

pytest.importorskip("peft")
SEEDS = (3, 4)


def loss(model) -> torch.Tensor:
    torch.manual_seed(0)
    return model.loss(example(model, SEEDS), Rng(SEEDS)).total


def test_merged_equals_unmerged(model, tmp_path):
    save_pretrained(model, tmp_path / "base", without=model.training_only)
    model, _ = from_pretrained(tmp_path / "base")
    known, there = fingerprint(model), lora.places(model)
    loss(model).backward()
    trained = tuple(name for name in there if model.get_submodule(there[name].layer).weight.grad is not None)
    parts = tuple(name for name in trained if there[name].rows is not None)
    joined = {there[name].layer for name in parts}
    settings = Lora(rank=2, targets=tuple(name for name in trained if name not in joined))
    model.zero_grad(set_to_none=True)
    lora.put_on(model, settings)
    loss(model).backward()
    lora.check_reached(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        lora.save(model, tmp_path / "tuned", settings, str(tmp_path / "base"), known)
        merged, _ = from_pretrained(tmp_path / "tuned")
        before = loss(from_pretrained(tmp_path / "base")[0])
        assert abs(before - loss(merged)) > 1e-4 * abs(before), "the update changes nothing"
        torch.testing.assert_close(loss(merged), loss(model.eval()), rtol=1e-5, atol=1e-5)
