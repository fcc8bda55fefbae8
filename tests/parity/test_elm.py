"""ELM equals the official implementation: logits, loss, greedy codes of every schedule, masked model, continuation."""

import pytest
import torch
from safetensors.torch import load_file

from generators.elm import ELM, Sampling
from nextok_mm.adapters.elm import read
from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.heads.categorical import compared, join
from nextok_mm.objectives.masked import shown
from nextok_mm.rng import Rng

SCHEDULES = {"cos": "cosine", "no_cfg": "constant"}


def load(path) -> tuple[ELM, dict[str, torch.Tensor]]:
    fields, state = read(path)
    model = ELM(ELM.Config.parse(fields)).eval()
    model.load_state_dict(state)
    return model, load_file(path)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def test_rotary_table_logits_and_loss(elm_ar_file):
    model, io = load(elm_ar_file)
    if "rope" in io:
        table = model.backbone.rope[: len(io["rope"])]
        assert relative(table, io["rope"][: len(table)]) < 1e-6
    null = torch.full_like(io["label"], model.config.classes)
    for name, labels in (("", io["label"]), ("_null", null)):
        codes = join(io["codes"], model.vocabulary)
        logits = model.logits(model.config.objective.view(codes, Rng([])), *model._prefix(labels))
        assert relative(logits.flatten(1, 2), io[f"logits{name}"]) < 1e-5
        assert relative(compared(logits, io["codes"]).total, io[f"loss{name}"]) < 1e-5


def sample(model: ELM, labels, known=None, **sampling) -> torch.Tensor:
    *_, done = decode(
        model, model.start({"labels": labels}, Rng(range(len(labels))), Sampling(temperature=0, **sampling), known)
    )
    return done.codes_BNG


@pytest.mark.parametrize("cache", [True, False])
def test_greedy_codes_under_every_schedule(elm_ar_file, cache):
    model, io = load(elm_ar_file)
    names = [name.removeprefix("greedy_") for name in io if name.startswith("greedy_")]
    assert "no_cfg" in names and len(names) > 1
    for name in names:
        settings = {"cfg": 1.0 if name == "no_cfg" else 3.0, "cfg_schedule": SCHEDULES.get(name, name)}
        assert torch.equal(sample(model, io["label"], cache=cache, **settings), io[f"greedy_{name}"]), name


def test_continuation(elm_ar_file):
    model, io = load(elm_ar_file)
    known = torch.arange(model.layout.tokens) < 6
    known = Known(join(io["codes"], model.vocabulary), known)
    continued = sample(model, io["label"], known, cfg=2.0, cfg_schedule="constant")
    assert torch.equal(continued, io["continued"])


@torch.no_grad()
def test_masked_logits_and_loss(elm_mlm_file):
    model, io = load(elm_mlm_file)
    mask = io["mask"].bool()
    logits = model.logits(shown(join(io["codes"], model.vocabulary), mask), *model._prefix(io["label"]))
    assert relative(logits.flatten(1, 2), io["logits"]) < 1e-5
    rows = compared(logits, io["codes"], mask.float(), model.config.smoothing).rows
    weights = mask.sum(1) / mask.sum()  # the official mean is over the codes of all rows together
    assert relative((rows * weights).sum(), io["loss"]) < 1e-5
