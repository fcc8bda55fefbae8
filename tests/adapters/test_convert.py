"""`nextok convert`: what it says of itself, and files in no published form: one clear line each."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from nextok_mm import adapters, registry
from nextok_mm.adapters import bae, elm, kl_vae, next_block, video_vq, xar
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.cli import app

KINDS = adapters.kinds()
ELM = {"norm.weight": torch.ones(4), "cls_embedding.embedding_table.weight": torch.ones(3, 4)}
TABLES = {"tok_embedder.0.weight": torch.ones(4, 4), "tok_embedder.1.weight": torch.ones(4, 4)}


def refused(adapter, data, tmp_path) -> str:
    torch.save(data, tmp_path / "x.pth")
    with pytest.raises(ValueError) as error:
        adapter.read(tmp_path / "x.pth")
    assert "\n" not in str(error.value) and "invalid literal" not in str(error.value)
    return str(error.value)


def test_the_help_names_every_kind():
    text = CliRunner().invoke(app, ["convert", "--help"]).output
    assert not [kind for kind in KINDS if kind not in text]


@pytest.mark.parametrize(
    "damage, words",
    [
        ({"tok_embedder.1.weight": torch.ones(4, 8)}, r"tok_embedder has tables of shapes (4, 4), (4, 8)"),
        ({"tok_embedder.1.weight": [1.0]}, "weight 'tok_embedder.1.weight': got list, accepted: a tensor"),
        ({"layers.x.foo": torch.ones(1)}, "unknown key 'layers.x.foo'"),
        ({"tok_embedder.0.weight": torch.ones(4), "tok_embedder.1.weight": torch.ones(4)}, "not in the published form"),
        ({}, "no key begins with 'layers.'"),
    ],
)
def test_another_elm_is_one_line(damage, words, tmp_path):
    weights = {**ELM, **TABLES, "proj.weight": torch.ones(4, 8), "output.weight": torch.ones(4, 4), **damage}
    said = refused(elm, weights, tmp_path)
    assert words in said and said.startswith("elm checkpoint")


@pytest.mark.parametrize(
    "damage, words",
    [
        ({"hyper_parameters": {"args": 5}}, "hyper_parameters.args: got int, accepted: a mapping or a Namespace"),
        ({"hyper_parameters": {"args": {"n_head": "many"}}}, "n_head: got 'many', accepted: a whole number from 1"),
        ({"hyper_parameters": [1]}, "hyper_parameters: got list, accepted: a mapping"),
        ({"state_dict": [1]}, "weights: got list, accepted: tensors by name"),
        ({"state_dict": {"transformer.blocks.x.foo": torch.ones(1)}}, "unknown key 'blocks.x.foo'"),
    ],
)
def test_another_nbp_file_is_one_line(damage, words, tmp_path):
    said = refused(next_block, {"state_dict": {"transformer.x": torch.ones(1)}, **damage}, tmp_path)
    assert words in said and said.startswith("NBP checkpoint")


@pytest.mark.parametrize("adapter", [bae, elm, kl_vae, next_block, video_vq, xar])
def test_a_weight_that_is_no_tensor_is_named(adapter, tmp_path):
    assert "weight 'a.weight': got list, accepted: a tensor" in refused(adapter, {"a.weight": [1.0]}, tmp_path)


@pytest.mark.parametrize(
    "adapter, key",
    [
        (bae, "encoder.blocks.x.foo"),
        (kl_vae, "encoder.down.x.foo"),
        (video_vq, "encoder_layers.x.foo"),
        (xar, "encoder_blocks.x.foo"),
    ],
)
def test_a_key_without_its_number_is_named(adapter, key, tmp_path):
    assert f"unknown key {key!r}" in refused(adapter, {key: torch.ones(1)}, tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "llama"])  # which reads folders and GGUF files
def test_every_adapter_reads_the_names_that_wrappers_leave(kind, monkeypatch, tmp_path):
    """torch.compile's and DDP's names are stripped before any map of keys sees them."""
    adapter = import_module(f"nextok_mm.adapters.{kind}")
    seen = {}
    monkeypatch.setattr(adapter, "convert", lambda weights, *rest: seen.update(weights) or ({}, {}))
    path = tmp_path / "x.safetensors"
    save_file(
        {"module._orig_mod.a.b": torch.ones(1), "c._orig_mod.d": torch.ones(1), "module.module.e": torch.ones(1)}, path
    )
    adapter.read(path)
    assert set(seen) == {"a.b", "c.d", "e"}


def test_two_names_of_one_weight_are_refused():
    with pytest.raises(ValueError, match="'a' is there twice, once as 'module.a'"):
        adapters.plain_names({"a": torch.ones(1), "module.a": torch.ones(1)})


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_is_one(kind):
    """What the protocol names is there, and its role and kind are those of a method that can be built."""
    family = adapters.adapter(kind)
    assert isinstance(family, adapters.Adapter) and family.LICENSE.strip()
    assert family.KIND in registry.kinds(family.ROLE)
    reads = inspect.signature(family.read).parameters
    holds = isinstance(family, adapters.HoldingAdapter)
    assert list(reads)[1:] == (["tokenizer"] if holds else []) and holds == hasattr(family, "HOLDS_TOKENIZER")


def test_files_that_begin_with_an_underscore_are_no_kinds(tmp_path, monkeypatch):
    (tmp_path / "_parts.py").write_text("")
    (tmp_path / "other.py").write_text("")
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path)])
    assert "other" in adapters.kinds() and "_parts" not in adapters.kinds()
    with pytest.raises(ValueError, match="kind: got '_parts', accepted: .*xar"):
        adapters.adapter("_parts")


def published_xar(tmp_path):
    weights = load_file(Path(__file__).parents[1] / "parity" / "reference" / "xar_tiny.safetensors")
    torch.save(weights, tmp_path / "xAR.pth")
    return tmp_path / "xAR.pth"


def test_converting_draws_no_weights_and_holds_none_twice(tmp_path, monkeypatch):
    """The model takes over the tensors that were read, and until then has none."""
    drawn, read, filled = [], {}, []
    for name in ("uniform_", "normal_"):
        monkeypatch.setattr(torch.Tensor, name, lambda x, *_, **__: drawn.append(x.is_meta) or x)
    state = xar.read(published_xar(tmp_path))
    read.update({name: tensor.data_ptr() for name, tensor in state[1].items()})
    monkeypatch.setattr(xar, "read", lambda source: state)
    monkeypatch.setattr(adapters, "save_pretrained", lambda model, *rest, **meta: filled.append(model))
    adapters.convert("xar", tmp_path / "xAR.pth", tmp_path / "ours")
    assert all(drawn)  # of numbers that nobody holds
    assert {name: tensor.data_ptr() for name, tensor in filled[0].state_dict().items()} == read
    assert not state[1]


def test_parts_of_one_tensor_become_weights_of_their_own(tmp_path, monkeypatch):
    """A published file may hold a weight under two names, and an adapter cut one in pieces: no safetensors file can."""
    fields, state = xar.read(published_xar(tmp_path))
    whole = torch.stack((state["head.velocity.bias"], state["head.velocity.bias"] + 1))
    state["embed.bias"] = torch.cat((whole.flatten(), torch.zeros(96)))[:96]
    state["time.up.bias"] = state["embed.bias"]
    monkeypatch.setattr(xar, "read", lambda source: (fields, dict(state)))
    assert adapters.convert("xar", tmp_path / "xAR.pth", tmp_path / "ours") is None
    model, card = from_pretrained(tmp_path / "ours")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    assert card.about == {"converted from": "xAR.pth"} and card.license == xar.LICENSE


def test_weights_of_another_shape_are_one_line(tmp_path, monkeypatch):
    fields, state = xar.read(published_xar(tmp_path))
    monkeypatch.setattr(xar, "read", lambda source: (fields, state | {"embed.bias": torch.ones(3)}))
    with pytest.raises(ValueError, match="xar checkpoint .*embed.bias") as error:
        adapters.convert("xar", tmp_path / "xAR.pth", tmp_path / "ours")
    assert "\n" not in str(error.value) and not (tmp_path / "ours").exists()
