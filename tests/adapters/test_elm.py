"""Published ELM and BAE files through `nextok convert`: pickles read as data, and what isn't one of them refused."""

import pytest
import torch
from safetensors.torch import load_file

from nextok_mm.adapters import bae, elm
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.cli import app
from tests.parity.conftest import FOLDER


def official(name: str) -> dict[str, torch.Tensor]:
    tensors = load_file(FOLDER / f"{name}.safetensors")
    return {key.removeprefix("w."): value for key, value in tensors.items() if key.startswith("w.")}


def convert(kind, source, folder):
    app(["convert", kind, str(source), str(folder)], standalone_mode=False)
    return from_pretrained(folder)


@pytest.mark.parametrize("name, objective", [("elm_ar_2-4", "autoregressive"), ("elm_mlm_1-6", "masked")])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_published_pickle_converts(name, objective, wrapped, tmp_path, monkeypatch):
    weights = official(name)
    monkeypatch.setattr(elm, "_HEAD_DIM", 16)  # of the reference files, which are smaller than the published ones
    torch.save({"model": weights} if wrapped else weights, tmp_path / "L-2-4.pth")
    model, card = convert("elm", tmp_path / "L-2-4.pth", tmp_path / "ours")
    assert model.config.objective.kind == objective and model.config.grid == (16, 16) and model.config.classes == 5
    assert card.license and "L-2-4.pth" in card.about["converted from"]
    assert torch.equal(model.labels.weight, weights["cls_embedding.embedding_table.weight"])


def test_a_published_autoencoder_converts(tmp_path):
    weights = {f"ae.{key}": value for key, value in official("elm_bae").items()}
    torch.save({**weights, "disc.main.0.weight": torch.zeros(1)}, tmp_path / "binaryae_ema.th")
    model, _ = convert("bae", tmp_path / "binaryae_ema.th", tmp_path / "ours")
    assert model.config.bits == 6 and model.config.stride == 2 and model.config.norm_first
    assert model.config.attention == (1,) and model.config.block_layers == 1


@pytest.mark.parametrize("adapter", [elm, bae])
def test_something_else_is_one_line(adapter, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="accepted: a published") as error:
        adapter.read(tmp_path / "x.pth")
    assert "\n" not in str(error.value)
