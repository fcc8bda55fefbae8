"""A tiny training that has everything with a state: dropout, averaging, schedule, accumulation, epochs."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nextok_mm.train import TrainConfig
from nextok_mm.train.log import read_log

TIMINGS = ("seconds_per_step", "images_per_second")


@pytest.fixture
def fields(tmp_path):
    """The plain config of a training that takes a second."""
    generator = torch.Generator().manual_seed(0)
    rows = {"tokens": torch.randn(24, 16, 4, generator=generator), "labels": torch.arange(24) % 3}
    save_file(rows, tmp_path / "data.safetensors")
    return {
        "model": {"role": "generator", "kind": "xar", "size": "tiny", "dropout": 0.1},
        "data": {"kind": "tensors", "path": str(tmp_path / "data.safetensors")},
        "train": {
            "out": str(tmp_path / "run"),
            "steps": 12,
            "batch": 8,
            "accumulate": 2,
            "log_every": 3,
            "save_every": 5,
            "cpu": True,
        },
        "optim": {"warmup": 3},
        "ema": {"decay": 0.9},
    }


def config(fields, out: Path | None = None, **changes) -> TrainConfig:
    """The config, with another folder and `group__field=value` changes."""
    fields = copy.deepcopy(fields)
    if out is not None:
        fields["train"]["out"] = str(out)
    for name, value in changes.items():
        *groups, leaf = name.split("__")
        node = fields
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return TrainConfig.parse(fields)


def losses(folder: Path) -> list[dict]:
    """The log without what the clock says."""
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in read_log(folder)]


def weights(folder: Path) -> bytes:
    """The final weights."""
    return (folder / "final" / "model.safetensors").read_bytes()
