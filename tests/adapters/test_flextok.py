"""Published FlexTok files: their composition is read as data, and what isn't known is refused by its name."""

import ast
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nextok_mm.adapters.flextok import convert, read
from tests.parity.conftest import FOLDER

FILE = Path(__file__).parents[1] / "parity" / "reference" / "flextok_tiny.safetensors"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no reference numbers in {FOLDER}")


@pytest.fixture
def published() -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    with safe_open(FILE, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, {
            name: ast.literal_eval(text) for name, text in opened.metadata().items()
        }


def module(described, half: str, name: str) -> dict:
    return described[half]["module_dict"][name]


def refused(weights, described) -> str:
    with pytest.raises(ValueError, match="flextok") as error:
        convert(weights, described)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_names_of_parts_are_free(published):
    weights, described = published
    fields, state = convert(weights, described)
    for half in ("encoder", "decoder"):
        parts = described[half]["module_dict"]
        names = {name: f"part{i}" for i, name in enumerate(parts)}
        described[half]["module_dict"] = {names[name]: part for name, part in parts.items()}
        for key in [key for key in weights if key.startswith(half)]:
            _, _, name, rest = key.split(".", 3)
            weights[f"{half}.module_dict.{names[name]}.{rest}"] = weights.pop(key)
    again, tensors = convert(weights, described)
    assert again == fields and all(torch.equal(tensors[name], value) for name, value in state.items())


def test_nothing_that_a_file_names_is_imported(published, tmp_path):
    weights, described = published
    module(described, "encoder", "enc_patch_emb")["_target_"] = "os.system"
    assert "unknown part 'system'" in refused(weights, described)
    trap = tmp_path / "sprung"
    described["encoder"] = f"__import__('os').mkdir({str(trap)!r})"
    assert "not plain data" in refused(weights, described)
    assert not os.path.exists(trap)


@pytest.mark.parametrize("target", ["take", "linear", "only", "_init__", "_class__", "_setattr__", "", "x.y.take"])
def test_a_part_is_never_a_method_that_is_none(published, target):
    weights, described = published
    module(described, "decoder", "dec_time")["_target_"] = f"flextok.{target}"
    assert f"unknown part {target.rpartition('.')[2]!r} in the decoder" in refused(weights, described)


@pytest.mark.parametrize(
    "half, name, field, value",
    [
        ("encoder", "enc_transformer", "head_dim", 0),
        ("encoder", "enc_transformer", "depth", "__import__('os')"),
        ("encoder", "enc_patch_emb", "patch_sizes", None),
        ("decoder", "dec_posembs", "max_sizes", "big"),
        ("decoder", "dec_posembs", "read_key", ["patches"]),
        ("decoder", "dec_time", "max_timestep", 0.0),
    ],
)
def test_fields_of_another_type_are_one_line(published, half, name, field, value):
    weights, described = published
    module(described, half, name)[field] = value
    refused(weights, described)


def test_a_config_beside_the_weights_is_read_as_data(published, tmp_path):
    weights, described = published
    save_file(weights, tmp_path / "model.safetensors")
    fields, _ = convert(dict(weights), described)
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert read(tmp_path)[0] == fields
    for text, words in (("{", "not JSON"), ("[1]", "got list"), ("[" * 100_000, "not JSON")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=words) as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


def test_a_description_too_deep_or_too_long_is_refused(published):
    weights, described = published
    for text in ("{" * 5000, "[" * 100_000, "x" * (1 << 21)):
        assert "description of" in refused(weights, {**described, "encoder": text})


@pytest.mark.parametrize(
    "half, name, field, value",
    [
        ("encoder", "enc_transformer", "qk_norm", False),
        ("encoder", "enc_seq_packer", "mask_mode", "sideways"),
        ("encoder", "enc_posembs", "posemb_type", "rotary"),
        ("decoder", "dec_transformer", "adaLN_expansion", 3),
        ("decoder", "dec_to_patches", "use_mup_readout", True),
        ("decoder", "dec_patch_emb", "patch_sizes", [2, 4]),
    ],
)
def test_a_composition_that_is_not_built_is_refused_by_name(published, half, name, field, value):
    weights, described = published
    module(described, half, name)[field] = value
    assert str(value) in refused(weights, described)


def test_another_order_of_patches_and_registers_is_refused(published):
    weights, described = published
    module(described, "encoder", "enc_seq_packer")["input_list_read_keys"].reverse()
    assert "accepted: patches, then registers" in refused(weights, described)


def test_missing_and_unknown_keys_are_named(published):
    weights, described = published
    assert "nobody" in refused({**weights, "encoder.module_dict.nobody.weight": torch.zeros(1)}, described)
    assert "'regularizer' is missing" in refused(weights, {k: v for k, v in described.items() if k != "regularizer"})
    gone = "decoder.module_dict.dec_transformer.blocks.1.attn.wq.weight"
    del weights[gone]
    assert gone in refused(weights, described)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    for path in (tmp_path / "x.safetensors", tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(ValueError, match="not a safetensors file"):
            read(path)
