"""The study's measures on sequences and models whose answer is known, and the command end to end on a tiny model."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nextok_mm import registry, study
from nextok_mm.rng import Rng
from nextok_mm.study import elm, entropy, locality


def test_entropy_of_sequences_that_are_known():
    even = entropy.randomness(torch.arange(8).repeat(500))
    assert even["bits"] == pytest.approx(3) and even["share of the largest possible"] == pytest.approx(1)
    assert even["bits given the one before"] == pytest.approx(0, abs=0.01)
    coin = torch.randint(2, (20000,), generator=torch.Generator().manual_seed(0))
    assert entropy.randomness(coin)["bits given the one before"] == pytest.approx(1, abs=0.01)
    text = entropy.beside_text(torch.randint(1600, (500, 16)))["text"]
    assert text["tokens"] == 8000 and text["bits given the one before"] < 0.6 * text["bits"] < 8


def test_locality_of_weights_that_are_known():
    model = registry.build("generator", "elm", {"size": "tiny", "depth": 1}).eval()
    torch.nn.init.zeros_(model.backbone.blocks[0].attention.qkv.weight)  # every score 0: all that is seen, equally
    batch = model.example(2, Rng([1, 2]))
    (row,) = locality.by_layer(model, batch)
    queries = range(2, 16)  # codes are tokens 1 to 15 of the pass; the first has no code before it
    assert row["prefix"] == pytest.approx(sum(1 / (q + 1) for q in queries) / 14, abs=1e-5)
    assert row["itself"] == pytest.approx(row["prefix"], abs=1e-5)
    assert "recorded" not in locality.BACKENDS and model.backbone.backend == "auto"


def test_the_weights_recorded_are_those_that_run():
    model = registry.build("generator", "elm", {"size": "tiny"}).eval()
    batch = model.example(2, Rng([1, 2]))
    with torch.no_grad(), locality.weights(model) as kept:
        recorded = model.predict(batch, Rng([1, 2]))
        assert len(kept) == 2 and kept[0].shape == (2, 16, 16)
        torch.testing.assert_close(kept[1].sum(-1), torch.ones(2, 16))
    with torch.no_grad():
        torch.testing.assert_close(recorded, model.predict(batch, Rng([1, 2])), rtol=1e-4, atol=1e-5)


def test_variants_fit_the_codes():
    assert list(elm.variants(1600)) == ["split 1", "split 2", "split 2 chained", "masked", "width 64", "width 192"]
    assert {"split 2", "split 3", "split 8"} <= set(elm.variants(2**24)) and "split 1" not in elm.variants(2**24)
    some = elm.variants(2**24, [2, 6])
    assert {"split 2", "split 6 chained"} <= set(some) and "split 3" not in some and "model.groups=2" in some["masked"]
    with pytest.raises(ValueError, match="splits: got 5, accepted for 1600 codes: 1, 2"):
        elm.variants(1600, [5])


def test_the_command_trains_measures_plots_and_goes_on(tmp_path, monkeypatch, capsys):
    rows = {"tokens": torch.randint(16, (20, 16)), "labels": torch.arange(20) % 3}
    save_file(rows, tmp_path / "rows.safetensors")
    config = tmp_path / "elm.yaml"
    config.write_text(
        "model: {role: generator, kind: elm, size: tiny, num_codes: 16}\n"
        f"data: {{kind: tensors, path: {tmp_path}/rows.safetensors}}\n"
        f"train: {{out: {tmp_path}/run, steps: 1, batch: 4, cpu: true}}\noptim: {{warmup: 0}}\n"
    )
    monkeypatch.setattr(elm, "_test_codes", lambda tokenizer, n=2000: rows)
    monkeypatch.setattr(elm, "SMALL", ("model.width=16",))
    monkeypatch.setattr(
        elm, "variants", lambda codes, only: {"split 2": ("model.groups=2",), "masked": ("model.objective=masked",)}
    )
    arguments = [
        "elm",
        "--config",
        str(config),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "1",
        "--steps",
        "1",
        "--n",
        "0",
    ]
    study.main([*arguments, "--parts", "variants"])
    figures = json.loads((tmp_path / "out" / "elm.json").read_text())["variants"]
    assert set(figures) == {"split 2, seed 0", "masked, seed 0"} and (tmp_path / "out" / "variants.png").is_file()
    assert 2 < figures["split 2, seed 0"]["bits a position"] < 6
    monkeypatch.setattr(elm, "_trained", None)  # nothing is trained twice
    study.main([*arguments, "--parts", "variants"])
    with pytest.raises(ValueError, match="parts: got 'entropies', accepted: entropy"):
        study.main([*arguments, "--parts", "entropies"])
