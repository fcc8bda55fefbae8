"""What one training step is: the same on one process as on two, whole or in parts; and what it writes down."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from nextok_mm import checkpoint, console, registry
from nextok_mm.train import load, train
from nextok_mm.train.log import read_log

from .conftest import config, losses, weights


def assert_same_losses(one: Path, other: Path):
    """Equal logs, in fp32 to 1e-5."""
    assert [line["step"] for line in losses(one)] == [line["step"] for line in losses(other)] != []
    for a, b in zip(losses(one), losses(other)):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


def test_parts_of_a_batch_equal_the_batch(fields, tmp_path):
    fields["model"]["dropout"] = 0.0  # a dropout mask belongs to a pass, not to a row
    for accumulate in (1, 4):
        train(config(fields, tmp_path / str(accumulate), train__accumulate=accumulate, train__log_every=1))
    assert_same_losses(tmp_path / "1", tmp_path / "4")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_equal_one(fields, tmp_path, launcher):
    fields["model"]["dropout"] = 0.0
    train(config(fields, tmp_path / "one", train__accumulate=1, train__log_every=1))
    cpu = launcher == "accelerate" or torch.accelerator.is_available()  # elsewhere nobody has to say so
    two = config(fields, tmp_path / "two", train__log_every=1, train__accumulate=1, train__processes=2, train__cpu=cpu)
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(two.plain()))
    command = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"],
        "accelerate": [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(ACCELERATE / "ddp_cpu.yaml"),
        ],
    }[launcher]
    environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"} if launcher == "accelerate" else ENVIRONMENT
    done = subprocess.run(
        [*command, "-m", "nextok_mm.train", str(path)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished at step 12") == 1, done.stdout
    assert_same_losses(tmp_path / "one", tmp_path / "two")
    one, two = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


ACCELERATE = Path(__file__).parents[2] / "configs" / "accelerate"


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


ENVIRONMENT = _environment()


def test_another_number_of_processes_than_meant_is_refused(fields):
    with pytest.raises(ValueError, match="2 were meant, but 1 run"):
        train(config(fields, train__processes=2))


def test_the_running_mean_is_what_final_holds(fields, tmp_path):
    train(config(fields, tmp_path / "ema", ema__decay=0.9, ema__warmup=False))
    train(config(fields, tmp_path / "plain", ema__decay=0.0))
    for name in ("ema", "plain"):
        assert (tmp_path / name / "final" / "config.json").is_file()
    snapshot = tmp_path / "ema" / "snapshots" / "step-00000012"
    raw, final = (
        load_file(snapshot / "weights.safetensors"),
        load_file(tmp_path / "ema" / "final" / "model.safetensors"),
    )
    assert weights(tmp_path / "plain") != weights(tmp_path / "ema")
    assert all(
        torch.equal(raw[name], tensor)
        for name, tensor in load_file(tmp_path / "plain" / "final" / "model.safetensors").items()
    )
    assert any(not torch.equal(raw[name], final[name]) for name in final)


def test_the_final_checkpoint_loads_and_says_what_it_is(fields, tmp_path):
    final = {"name": "little", "dtype": "float16", "labels": ["a", "b", "c"], "license": "MIT", "about": {"note": 1}}
    fields["final"] = final
    train(config(fields))
    model, card = checkpoint.from_pretrained(tmp_path / "run" / "final", role="generator")
    assert (card.name, card.labels, card.license) == ("little", ("a", "b", "c"), "MIT")
    assert card.about["note"] == 1 and card.about["steps"] == 12
    assert model.config == config(fields).model.fields


def test_a_run_can_begin_from_a_checkpoint(fields, tmp_path):
    torch.manual_seed(9)
    model = registry.build("generator", "xar", {"size": "tiny"})
    folder = checkpoint.save_pretrained(model, tmp_path / "start")
    train(config(fields, optim__lr=1e-12, optim__weight_decay=0, init=str(folder)))
    final = load_file(tmp_path / "run" / "final" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(final[name], tensor, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"init: .* doesn't fit"):
        train(config(fields, tmp_path / "wide", model__width=64, init=str(folder)))


def test_the_log_has_the_loss_its_parts_and_the_speed(fields, tmp_path):
    train(config(fields, train__tensorboard=True))
    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert lines[0].keys() == {"step", "loss", "flow", "grad_norm", "lr", "seconds_per_step", "images_per_second"}
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["kind"] == "xar"


def test_clipping_and_decay_reach_the_optimizer(fields, tmp_path):
    train(config(fields, tmp_path / "plain", optim__weight_decay=0))
    for name, changes in {"clip": {"optim__clip": 1e-3}, "decay": {"optim__weight_decay": 10.0}}.items():
        train(config(fields, tmp_path / name, **changes))
        assert weights(tmp_path / name) != weights(tmp_path / "plain")


def test_bf16_stays_close_to_fp32(fields, tmp_path):
    for precision in ("fp32", "bf16"):
        train(config(fields, tmp_path / precision, train__precision=precision))
    for a, b in zip(losses(tmp_path / "fp32"), losses(tmp_path / "bf16")):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.03) and a["loss"] != b["loss"]


def test_gradient_checkpointing_changes_no_number(fields, tmp_path):
    for on in (False, True):
        train(config(fields, tmp_path / str(on), train__gradient_checkpointing=on))
    assert_same_losses(tmp_path / "False", tmp_path / "True")


@pytest.mark.slow
def test_compiling_changes_no_number(fields, tmp_path, monkeypatch):
    """Captured by torch.compile, run by its eager backend: a C++ compiler would only cost time here."""
    captured, plain = [], torch.nn.Module.compile

    def backend(graph, inputs):
        captured.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plain(self, backend=backend))
    for on in (False, True):
        train(config(fields, tmp_path / str(on), train__compile=on, train__steps=2, train__log_every=1))
    assert captured
    assert_same_losses(tmp_path / "False", tmp_path / "True")


@pytest.mark.parametrize("role", ["tokenizer", "generator"])
def test_pictures_are_drawn_on_the_way(fields, tiny, tmp_path, role):
    """Originals beside reconstructions, or samples of the averaged weights; and no number of the run changes."""
    if role == "tokenizer":
        save_file({"images": torch.rand(24, 1, 8, 8)}, tmp_path / "data.safetensors")
        fields["model"] = {"role": "tokenizer", "kind": "kl_vae", "size": "tiny"}
    else:
        fields["tokenizer"] = str(tiny / "vae")
    train(config(fields, tmp_path / "plain"))
    train(config(fields, tmp_path / "drawn", train__sample_every=6, train__samples=4))
    assert losses(tmp_path / "plain") == losses(tmp_path / "drawn") and weights(tmp_path / "plain") == weights(
        tmp_path / "drawn"
    )
    grids = sorted((tmp_path / "drawn" / "samples").iterdir())
    assert [grid.name for grid in grids] == ["step-00000006.png", "step-00000012.png"]
    with Image.open(grids[-1]) as grid:
        assert grid.height == 12 and grid.width == {"tokenizer": 8, "generator": 4}[role] * 10 + 2
    assert not (tmp_path / "plain" / "samples").exists()


def test_a_switch_that_a_model_lacks_is_refused(fields):
    fields |= {"model": {"role": "judge", "kind": "fashion_cnn", "size": "tiny"}}
    with pytest.raises(ValueError, match=r"train\.gradient_checkpointing: a fashion_cnn has none"):
        train(config(fields, train__gradient_checkpointing=True))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"train__stpes": 3}, "did you mean 'steps'"),
        ({"train__batch": 7}, "accepted: a multiple of train.accumulate 2"),
        ({"model__kind": "xarr"}, "did you mean 'xar'"),
        ({"model__widht": 3}, "did you mean 'width'"),
        ({"data__kind": "tensor"}, "did you mean 'tensors'"),
        ({"data__pth": "x"}, "did you mean 'path'"),
        ({"train": None}, "accepted: a group of fields"),
        ({"ema__decay": 1.5}, "ema.decay"),
    ],
)
def test_a_wrong_config_is_one_line(fields, changes, words):
    with pytest.raises(ValueError) as error:
        config(fields, **changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_run_shorter_than_its_warmup_ends_on_the_way_up(fields, tmp_path, capsys):
    for name, warmup in (("short", 99), ("whole", 12)):
        with console.speaking():
            train(config(fields, tmp_path / name, optim__warmup=warmup))
    said = capsys.readouterr().err.splitlines()
    warnings = [line for line in said if line.startswith("warning: ")]
    assert warnings == ["warning: optim.warmup 99 is longer than train.steps 12: the rate never reaches optim.lr"]
    assert losses(tmp_path / "short")[-1]["lr"] == pytest.approx(3e-4 * 12 / 99)
    assert losses(tmp_path / "whole")[-1]["lr"] == pytest.approx(3e-4)


@pytest.mark.parametrize("precision, bf16, warned", [("bf16", 1e9, True), ("bf16", 2e11, False), ("fp32", 1e9, False)])
def test_bf16_on_a_cpu_that_lacks_it_is_warned_of(fields, monkeypatch, capsys, precision, bf16, warned):
    rates = {torch.float32: 1e11, torch.bfloat16: bf16}
    monkeypatch.setattr("nextok_mm.machine.matmul_rate", lambda dtype, **settings: rates[dtype])
    with console.speaking():
        train(config(fields, train__precision=precision, train__steps=1))
    line = "matmul on this CPU: fp32 100 GFLOP/s, bf16 1 GFLOP/s; bf16 is slower here, take train.precision=fp32"
    assert (line in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    "variables, words",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "launch: DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "launch: fsdp_version 1"),
    ],
)
def test_a_launch_that_could_not_be_resumed_is_refused(fields, tmp_path, monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{words}.*accepted: ddp\.yaml") as error:
        train(config(fields))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_fp16_without_a_gpu_is_refused(fields):
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        train(config(fields, train__precision="fp16"))


@pytest.mark.slow
def test_the_command_line_overrides_and_says_mistakes_in_one_line(fields, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(fields))
    assert load(path, ["optim.lr=3e-4", "train.steps=40"]).optim.lr == 3e-4
    done = subprocess.run(
        [sys.executable, "-m", "nextok_mm.train", str(path), "optim.lrr=1"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: optim.lrr: unknown key")
