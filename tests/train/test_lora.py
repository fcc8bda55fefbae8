"""LoRA: low-rank updates are trained alone, saved alone, and come back as part of their base's weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nextok_mm import bundled, lora, registry
from nextok_mm.checkpoint import fingerprint, from_pretrained, merge, read_card, save_pretrained
from nextok_mm.lora import Lora
from nextok_mm.rng import Rng
from nextok_mm.train import snapshots, train
from nextok_mm.train.config import TrainConfig

peft = pytest.importorskip("peft")


@pytest.fixture
def fields(tmp_path):
    """A fine-tuning of a tiny language model with grouped heads, biases and everything that has a state."""
    torch.manual_seed(0)
    model = registry.build("generator", "language", {"size": "tiny", "vocabulary": 258, "begin": 256, "qkv_bias": True})
    save_pretrained(model, tmp_path / "base", license="mit")
    (tmp_path / "text").mkdir()
    for number in range(6):
        (tmp_path / "text" / f"{number}.txt").write_text("the cat sat on the mat. " * 20)
    return {
        "init": str(tmp_path / "base"),
        "data": {"kind": "text", "path": str(tmp_path / "text"), "length": 32, "held_out": 0},
        "train": {"out": str(tmp_path / "run"), "steps": 6, "batch": 4, "log_every": 2, "save_every": 4, "cpu": True}
        | {"lora": {"rank": 3, "alpha": 8, "dropout": 0.1, "targets": ["q", "v", "gate_up", "mlp.out"]}},
        "optim": {"lr": 1e-2, "warmup": 2},
        "ema": {"decay": 0.5},
    }


def changed(fields, **groups):
    """The config with fields of its groups replaced."""
    return TrainConfig.parse({**fields, **{name: {**fields.get(name, {}), **new} for name, new in groups.items()}})


def test_only_the_update_is_trained_and_saved(fields, tmp_path):
    train(TrainConfig.parse(fields))
    final, base = tmp_path / "run" / "final", tmp_path / "base"
    assert {path.name for path in final.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "config.json", "README.md", "bytes.json")
    }
    before, after = (from_pretrained(folder)[0].state_dict() for folder in (base, final))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    ends = ("attention.qkv.weight", "mlp.gate_up.weight", "mlp.out.weight")
    assert moved == {f"backbone.blocks.{block}.{end}" for block in (0, 1) for end in ends}
    keys = slice(32, 48)  # between queries and values: they got no update
    for name in moved:
        if name.endswith("qkv.weight"):
            assert torch.equal(before[name][keys], after[name][keys])
    _, tensors, _ = snapshots.newest(tmp_path / "run" / "snapshots")
    assert all(".lora_" in name for part in tensors.values() for name in part)
    card = read_card(final)
    assert (card.base, card.base_fingerprint) == ("../../base", fingerprint(from_pretrained(base)[0]))
    assert "a LoRA with" in (final / "README.md").read_text()


@pytest.mark.parametrize("targets", [["q", "v"], ["qkv"], ["k", "attention.out", "up", "mlp.out"], ["gate_up", "q"]])
def test_merged_equals_unmerged(fields, tmp_path, targets):
    model = from_pretrained(fields["init"])[0]
    settings = Lora(rank=3, alpha=8, targets=tuple(targets))
    known = fingerprint(model)
    tokens = torch.randint(0, 258, (2, 20), generator=torch.Generator().manual_seed(1))
    plain = model.logits(tokens)
    lora.put_on(model, settings)
    assert torch.allclose(model.logits(tokens), plain, atol=1e-6)  # an update begins as nothing
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    lora.save(model, tmp_path / "tuned", settings, fields["init"], known)
    with torch.no_grad():
        unmerged = model.eval().logits(tokens)
        merged = from_pretrained(tmp_path / "tuned")[0].logits(tokens)
    assert (unmerged - plain).abs().max() > 1e-2
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-5)


def test_peft_reads_it_on_transformers_model(fields, tmp_path):
    """The folder is in peft's form, under the names that the published family has."""
    transformers = pytest.importorskip("transformers")
    from nextok_mm.adapters import llama

    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "hub")
    own, weights = llama.read(tmp_path / "hub")
    model = registry.build("generator", "language", own)
    model.load_state_dict(weights)
    save_pretrained(model, tmp_path / "ours")
    tokens = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    every, one = ["down_proj", "k_proj", "q_proj", "v_proj"], ["model.layers.1.mlp.gate_proj"]
    for targets, names in ((("qkv", "mlp.out"), every), (("blocks.1.mlp.gate_up.gate",), one)):
        model, _ = from_pretrained(tmp_path / "ours")
        known, settings = fingerprint(model), Lora(rank=2, targets=targets)
        lora.put_on(model, settings)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        lora.save(model, tmp_path / "tuned", settings, tmp_path / "ours", known)
        said = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())["target_modules"]
        assert said == names
        wrapped: Any = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hub")
        wrapped = peft.PeftModel.from_pretrained(wrapped, tmp_path / "tuned")
        with torch.no_grad():
            torch.testing.assert_close(model.eval().logits(tokens), wrapped.eval()(tokens).logits, rtol=0, atol=1e-5)


def test_a_stopped_run_ends_in_the_same_bits(fields, tmp_path):
    train(TrainConfig.parse(fields))
    for _ in range(6):
        train(changed(fields, train={"out": str(tmp_path / "cut"), "max_minutes": 1e-9}))
    whole, cut = (load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("run", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["ddp_cpu", "fsdp2"])
def test_two_processes_equal_one(fields, tmp_path, launched):
    fields["train"] |= {"lora": {**fields["train"]["lora"], "dropout": 0.0}, "log_every": 1}
    train(TrainConfig.parse(fields))
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(changed(fields, train={"out": str(tmp_path / "two")}).plain()))
    spread = [str(Path(__file__).with_name("fsdp_on_cpu.py"))] if launched == "fsdp2" else ["-m", "nextok_mm.train"]
    config = str(bundled.config(f"configs/accelerate/{launched}.yaml"))
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run([*line, *spread, path], capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    one, two = (load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("run", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


def test_another_base_is_refused(fields, tmp_path):
    train(changed(fields, train={"steps": 2, "max_minutes": 1e-9}))
    train(changed(fields, train={"steps": 2, "out": str(tmp_path / "other")}))
    model, _ = from_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.table.weight[0, 0] += 1
    save_pretrained(model, tmp_path / "base")
    with pytest.raises(ValueError, match=f"base: .* is {fingerprint(model)}, accepted: [0-9a-f]{{16}}, which other"):
        from_pretrained(tmp_path / "other" / "final")
    with pytest.raises(ValueError, match=f"init: .*base is {fingerprint(model)}, accepted: .*, which the run in"):
        train(changed(fields, train={"steps": 2}))
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"base: checkpoint .* stands on '../../base', which isn't there"):
        from_pretrained(tmp_path / "other" / "final")


def test_merging_makes_a_whole_checkpoint(fields, tmp_path):
    train(TrainConfig.parse(fields))
    final = tmp_path / "run" / "final"
    line = [sys.executable, "-m", "nextok_mm", "merge", str(final), str(tmp_path / "whole")]
    run = subprocess.run(line, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"{tmp_path / 'whole'}\n"), run.stderr
    (tmp_path / "base").rename(tmp_path / "gone")
    assert read_card(tmp_path / "whole").base is None and (tmp_path / "whole" / "bytes.json").is_file()
    (tmp_path / "gone").rename(tmp_path / "base")
    one, other = (from_pretrained(folder)[0].state_dict() for folder in (tmp_path / "whole", final))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="is a whole checkpoint, accepted: a LoRA"):
        merge(tmp_path / "whole", tmp_path / "more")
    with pytest.raises(ValueError, match="init: .* is a LoRA by itself"):
        changed({**fields, "init": str(final)})
    train(changed({**fields, "init": str(tmp_path / "whole")}, train={"overwrite": True}))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj"], "got 'q_proj'; it is called q here, accepted: .* mlp.out, head, qkv.q, "),
        (["nothing"], "got 'nothing', accepted: layers of this model by their names' ends, such as .*mlp.gate_up"),
        (["qkv", "v"], "attention.qkv.v twice, by itself and in all of"),
        ([], "targets"),
    ],
)
def test_layers_that_there_are_none_of(fields, tmp_path, targets, message):
    with pytest.raises(ValueError, match=message):
        train(changed(fields, train={"lora": {"targets": targets}}))
    assert not (tmp_path / "run").exists()


def test_it_needs_a_base_and_peft(fields, monkeypatch):
    with pytest.raises(ValueError, match="init: got None, accepted: the checkpoint that train.lora leaves as it is"):
        TrainConfig.parse({**fields, "init": None, "model": {"role": "generator", "kind": "language", "size": "tiny"}})
    for name, value in (("kind", "elm"), ("rope_theta", 500.0)):
        with pytest.raises(ValueError, match=f"model.{name}: got {value!r}, accepted: .*, as .*base has it"):
            changed(fields, model={name: value})
    assert changed(fields, model={"dropout": 0.2}).model.fields.model_dump()["dropout"] == 0.2
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"train.lora needs a package: pip install 'nextok_mm\[lora\]'"):
        train(TrainConfig.parse(fields))


def test_a_damaged_folder_is_one_line(fields, tmp_path):
    train(changed(fields, train={"steps": 1}))
    final = tmp_path / "run" / "final"
    card, settings = (json.loads((final / name).read_text()) for name in ("config.json", "adapter_config.json"))

    def loading(message, tensors=None, **said):
        (final / "adapter_config.json").write_text(json.dumps({**settings, **said}))
        if tensors is not None:
            save_file(tensors, final / "adapter_model.safetensors")
            (final / "config.json").write_text(json.dumps({**card, "sha256": ""}))
        with pytest.raises(ValueError, match=message) as error:
            from_pretrained(final)
        assert "\n" not in str(error.value)

    loading("use_dora: got True, accepted: a plain LoRA, without it", use_dora=True)
    loading("r: got 2.5, accepted: a whole number", r=2.5)
    loading("lora_alpha: got None", lora_alpha=None)
    loading("peft_type: got 'IA3', accepted: LORA", peft_type="IA3")
    loading(r"the update of .* has B and A of \(.*, 3\) and \(3, .*accepted: \(.*, 4\) and", r=4)
    whole = load_file(final / "adapter_model.safetensors")
    first = min(whole)
    loading("lora_A.weight', accepted: updates of its base's layers", {**whole, f"x{first}": whole[first].clone()})
    loading("is not finite", {**whole, first: whole[first] * float("inf")})
    loading("has B and A of", {name: tensor for name, tensor in whole.items() if name != first})
    data = (final / "adapter_model.safetensors").read_bytes()
    (final / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])
    loading("not a whole safetensors file")
    (final / "config.json").write_text(json.dumps(card))
    loading("is damaged, or not the one that config.json describes")
    (final / "adapter_model.safetensors").unlink()
    loading("no file adapter_model.safetensors")
    (final / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"no file adapter_config.json"):
        from_pretrained(final)


def test_a_matrix_that_is_used_otherwise_is_named(tmp_path):
    """A chained head multiplies by its rows itself, so an update of that layer would never take part."""
    torch.manual_seed(0)
    model = registry.build("generator", "elm", {"size": "tiny", "head": "chained"})
    lora.put_on(model, Lora(targets=("logits",)))
    model.loss(model.example(2, Rng([0, 1])), Rng([0, 1])).total.requires_grad_().backward()
    with pytest.raises(ValueError, match=r"got head\.logits, accepted: layers that take part in the loss"):
        lora.check_reached(model)
