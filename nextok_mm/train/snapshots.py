"""Snapshots of a training: everything that the next step depends on, whole or not there.

`snapshots/step-00001000/` holds weights.safetensors, ema.safetensors, optimizer.safetensors and state.json, with the
size and SHA-256 of each. It is written as `.step-00001000.tmp`, synced and renamed; at a resume one that doesn't add
up is passed over for the one before. No pickles.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files import sha256, sync
from .shards import gather, spread

State = dict[str, dict[str, Tensor]]
"""File (without suffix) -> tensors by name."""
_STATE = "state.json"


def write(folder: Path, step: int, tensors: State, facts: dict[str, Any], newest: int) -> Path:
    """Add the snapshot of a step, then drop all but the `newest`. ValueError where the disk is full."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        files = {}
        for name, content in tensors.items():
            path = temporary / f"{name}.safetensors"
            save_file(content, path)
            sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        (temporary / _STATE).write_text(json.dumps({**facts, "step": step, "files": files}, indent=1), encoding="utf8")
        sync(temporary / _STATE)
        sync(temporary)
        shutil.rmtree(final, ignore_errors=True)  # an older, broken one of the same step
        temporary.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(f"snapshot {final}: can't be written ({error}); the earlier ones are kept") from None
    for old in _all(folder)[:-newest]:
        _remove(old)
    return final


def newest(folder: Path) -> tuple[int, State, dict[str, Any]] | None:
    """(step, tensors, facts) of the newest whole snapshot, or None; broken ones are named in a warning."""
    for temporary in folder.glob(".step-*.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)
    for path in reversed(_all(folder)):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.warn(f"snapshot {path} is not whole ({error}); taking the one before", stacklevel=2)
    return None


def steps(folder: Path) -> list[int]:
    """The steps that have a snapshot, whole or not, in order."""
    return [int(path.name.removeprefix("step-")) for path in _all(folder)]


def pack_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Any, str], gather_here: bool = True
) -> dict[str, Tensor]:
    """An optimizer's state as named tensors in one piece: `weight.name/exp_avg`. `gather_here`: see `shards.gather`."""
    packed = {}
    for parameter, state in optimizer.state.items():
        packed |= {f"{names[parameter]}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return gather(packed, gather_here)


def unpack_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[Any, str], packed: dict[str, Tensor]) -> None:
    """Put back what `pack_optimizer` took out, beside each parameter and cut up as that is."""
    parameters = {name: parameter for parameter, name in names.items()}
    optimizer.state.clear()
    for key, value in packed.items():
        name, _, leaf = key.rpartition("/")
        parameter = parameters[name]
        counter = value.ndim == 0  # fused AdamW wants its step counter beside the parameter
        placed = value.to(parameter.device) if counter else spread(value, parameter)
        optimizer.state[parameter][leaf] = placed.clone()


def _read(path: Path) -> tuple[int, State, dict[str, Any]]:
    facts = json.loads((path / _STATE).read_bytes())
    for name, recorded in facts["files"].items():
        if (path / name).stat().st_size != recorded["bytes"] or sha256(path / name) != recorded["sha256"]:
            raise ValueError(f"{name} is damaged")
    tensors = {Path(name).stem: load_file(path / name) for name in facts["files"]}
    return int(facts["step"]), tensors, facts


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _remove(path: Path) -> None:
    """Delete a snapshot so that a crash half-way leaves nothing that looks whole.

    One that somebody reads (Windows lets nobody move it then) stays until the next time: the run is worth more.
    """
    hidden = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    with suppress(OSError):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
