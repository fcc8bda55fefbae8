"""Objectives and weighed rows in the one training loop: resumed in the same bits, and refused where they can't be."""

import pytest
import torch
from safetensors.torch import save_file

from nextok_mm.train import train

from .conftest import config, losses, weights

MODEL = {"role": "generator", "kind": "elm", "size": "tiny", "dropout": 0.1}


@pytest.fixture
def rows(fields, tmp_path):
    """A training of codes, and how its file is written."""

    def write(**columns):
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(64, (24, 16), generator=generator)
        save_file({"tokens": tokens, "labels": torch.arange(24) % 3, **columns}, tmp_path / "data.safetensors")
        return {**fields, "model": dict(MODEL)}

    return write


@pytest.mark.parametrize("objective", [{"kind": "meap", "share": 0.2}, "mlm_u", "masked", "autoregressive"], ids=str)
def test_a_run_cut_at_every_step_equals_the_uninterrupted_one(rows, tmp_path, objective):
    fields = rows()
    fields["model"]["objective"] = objective
    train(config(fields, tmp_path / "plain"))
    for _ in range(12):
        train(config(fields, tmp_path / "cut", train__max_minutes=1e-9))
    assert losses(tmp_path / "plain") == losses(tmp_path / "cut")
    assert weights(tmp_path / "plain") == weights(tmp_path / "cut")


def test_another_objective_is_another_run(rows, tmp_path):
    fields = rows()
    train(config(fields, tmp_path / "run", train__steps=1))
    with pytest.raises(ValueError, match="holds a run with model.objective autoregressive, not mlm_u"):
        train(config({**fields, "model": {**MODEL, "objective": "mlm_u"}}, tmp_path / "run", train__steps=1))


def test_rows_of_weight_nothing_teach_nothing(rows, tmp_path):
    """A run whose odd rows count for nothing is the same whatever they hold; of equal weights it is the plain run."""
    found = {}
    for name, weight, shift in (("a", 2.0, 0), ("b", 2.0, 5), ("plain", None, 0), ("ones", 1.0, 0)):
        even = torch.arange(24) % 2 == 0
        weighed = {} if weight is None else {"weights": torch.where(even | (weight == 1), weight, 0.0)}
        fields = rows(**weighed)
        if shift:
            from safetensors.torch import load_file

            columns = load_file(tmp_path / "data.safetensors")
            columns["tokens"][1::2] = (columns["tokens"][1::2] + shift) % 64
            save_file(columns, tmp_path / "data.safetensors")
        train(config(fields, tmp_path / name, train__steps=4))
        found[name] = weights(tmp_path / name)
    assert found["a"] == found["b"] != found["plain"] and found["ones"] == found["plain"]


@pytest.mark.parametrize(
    "column, said",
    [
        (torch.tensor([-1.0] + [1.0] * 23), "weights are torch.float32 of -1 and more"),
        (torch.zeros(24), "weights are torch.float32 of 0 and more, .*not all of them 0"),
        (torch.ones(24, dtype=torch.long), "weights are torch.int64"),
        (torch.tensor([float("nan")] + [1.0] * 23), "weights are not finite"),
        (torch.ones(24, 2), "weights have shape"),
    ],
    ids=["negative", "nothing", "whole", "nan", "two"],
)
def test_bad_weights_are_refused(rows, tmp_path, column, said):
    with pytest.raises(ValueError, match=said) as error:
        train(config(rows(weights=column), tmp_path / "run"))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_puzzles_need_no_tokenizer(tmp_path):
    data = {"kind": "mazes", "side": 3, "shortest": 2, "longest": 5}
    model = {**MODEL, "grid": [16], "num_codes": 26, "groups": 1, "classes": 0, "rope": "sequence"}
    model["objective"] = {"kind": "mlm_u", "prompt": 11}
    fields = {"model": model, "data": data, "train": {"out": "x", "steps": 2, "batch": 4, "cpu": True}}
    assert train(config(fields, tmp_path / "run")).status == "finished"
    said = "data: got rows of 58 tokens of 53 codes, accepted: the 16 tokens of 26 codes of this model"
    with pytest.raises(ValueError, match=said):
        train(config({**fields, "data": {"kind": "mazes"}}, tmp_path / "other"))
