"""Weights spread over processes (FSDP2, here on two CPU processes): the same losses, whole snapshots, pictures."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nextok_mm import bundled
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.train import snapshots, train

from .conftest import config, losses
from .test_loop import assert_same_losses

pytestmark = pytest.mark.slow


@pytest.fixture
def fields(fields, tiny):
    """Without dropout (a mask belongs to a process), with pictures drawn on the way."""
    fields["model"]["dropout"] = 0.0
    fields["tokenizer"] = str(tiny / "vae")
    fields["train"] |= {"log_every": 1, "accumulate": 1, "sample_every": 6, "samples": 3}
    return fields


def spread(fields, out: Path, *more: str) -> subprocess.CompletedProcess:
    """The same training, on two processes under FSDP2."""
    path = out.parent / "train.yaml"
    path.write_text(yaml.safe_dump(config(fields, out).plain()))
    launch = f"-m accelerate.commands.launch --config_file {bundled.config('configs/accelerate/fsdp2.yaml')}"
    line = [sys.executable, *launch.split(), "--num_processes", "2", str(Path(__file__).with_name("fsdp_on_cpu.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*line, path, *more], capture_output=True, text=True, env=environment, timeout=200)
    assert "weights are spread" in done.stdout, done.stderr
    return done


def test_spread_weights_equal_whole_ones(fields, tmp_path):
    """Cut after a step; from there the processes go on, and beside them a copy of the run on one process alone."""
    one, two, taken_up = (tmp_path / name for name in ("one", "two", "taken-up"))
    train(config(fields, one))
    for more, code, last in ((["train.max_minutes=1e-9"], 1, 1), ([], 0, 12)):  # the launcher makes 75 a 1
        done = spread(fields, two, *more)
        assert done.returncode == code and f"at step {last}" in done.stdout, done.stderr
        if more:
            assert snapshots.steps(two / "snapshots") == [1]
            shutil.copytree(two, taken_up)
    assert train(config(fields, taken_up)).step == 12
    for folder in (two, taken_up):
        assert_same_losses(one, folder)
        for file in ("final/model.safetensors", "snapshots/step-00000012/optimizer.safetensors"):
            wanted, found = load_file(one / file), load_file(folder / file)
            assert wanted.keys() == found.keys()
            for name in wanted:
                torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-5)
        assert sorted(path.name for path in (folder / "samples").iterdir()) == [
            "step-00000006.png",
            "step-00000012.png",
        ]
    assert from_pretrained(two / "final")[0].config == config(fields).model.fields


def test_a_bad_number_is_named_by_spread_weights_too(fields, tmp_path):
    done = spread(fields, tmp_path / "two", "optim.lr=1e30", "optim.warmup=0")
    assert "the first tensor that is not finite is the" in done.stderr and losses(tmp_path / "two")
