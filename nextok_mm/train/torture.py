"""`python -m nextok_mm.train.torture --kills 50`: a training that is killed again and again must end as if it were not.

A tiny generator is trained once undisturbed, then with SIGKILL at random moments (every other one aimed at a snapshot
being written) and resumed each time by the same call. The logged losses and the final weights have to be the same bits.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .log import read_log

_LOG_EVERY = 5
_TIMINGS = ("seconds_per_step", "images_per_second")


def main() -> int:
    """0 where every killed run ended like the undisturbed one."""
    parser = argparse.ArgumentParser(prog="python -m nextok_mm.train.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = torture(Path(folder), arguments.kills, arguments.seed, arguments.steps)
    print(json.dumps(report))
    return 0 if report["same"] else 1


def torture(folder: Path, kills: int, seed: int = 0, steps: int = 200) -> dict[str, Any]:
    """Kill `kills` times in all, over as many runs as that takes. Gives counts, and whether all ended the same."""
    chance = random.Random(seed)
    data = folder / "data.safetensors"
    generator = torch.Generator().manual_seed(seed)
    rows = {"tokens": torch.randn(64, 16, 4, generator=generator), "labels": torch.arange(64) % 3}
    save_file(rows, data)
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"  # Windows
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["nextok_mm.train.loop", "generators.xar"])  # then a start costs milliseconds
    started = time.monotonic()  # of the whole, imports included
    plain = _start(context, _fields(folder / "plain", data, steps))
    plain.join()
    wanted = _outcome(folder / "plain")
    report = {"kills": 0, "mid_save": 0, "runs": 0, "same": plain.exitcode == 0, "seconds": _seconds(folder / "plain")}
    while report["kills"] < kills and report["same"]:
        out = folder / f"run-{report['runs']}"
        _torment(context, _fields(out, data, steps), out, kills, chance, report)
        report["runs"] += 1
        report["same"] = _outcome(out) == wanted
    return {**report, "seconds": round(time.monotonic() - started, 1)}


def _torment(context: Any, fields: dict, out: Path, kills: int, chance: random.Random, report: dict[str, Any]) -> None:
    """One run to its end, killed on the way as long as kills are left."""
    while True:
        before = _half_written(out)
        child = _start(context, fields)
        if report["kills"] < kills:
            if report["kills"] % 2:
                _await_save(child, out, before, chance.uniform(0, 0.01))
            else:
                child.join(chance.uniform(0, report["seconds"] / 2))
            if child.is_alive():
                child.kill()
                child.join()
                report["kills"] += 1
                report["mid_save"] += bool(_half_written(out) - before)
                continue
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"a resumed run ended with exit code {child.exitcode}: {out}")
        return


def _await_save(child: BaseProcess, out: Path, before: set[tuple[str, int]], delay: float) -> None:
    """Until a snapshot has begun to be written, and `delay` seconds more, which is less than it takes."""
    while child.is_alive() and not _half_written(out) - before:
        time.sleep(0.0002)
    child.join(delay)


def _half_written(out: Path) -> set[tuple[str, int]]:
    """The snapshots under way (or left so by a kill), each with its inode."""
    found = set()
    for path in (out / "snapshots").glob(".*.tmp"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def _seconds(out: Path) -> float:
    """How long an undisturbed run's steps take."""
    return sum(line["seconds_per_step"] * _LOG_EVERY for line in read_log(out))


def _start(context: Any, fields: dict) -> BaseProcess:
    child = context.Process(target=_train, args=(fields,))
    child.start()
    return child


def _train(fields: dict) -> None:
    """What a child does: the ordinary call."""
    from . import TrainConfig, train

    torch.set_num_threads(1)
    sys.exit(train(TrainConfig.parse(fields)).exit_code)


def _fields(out: Path, data: Path, steps: int) -> dict[str, Any]:
    """Everything with a state is on: dropout, averaging, warm-up and cosine, accumulation, shuffled epochs."""
    return {
        "model": {"role": "generator", "kind": "xar", "size": "tiny", "dropout": 0.1},
        "data": {"kind": "tensors", "path": str(data)},
        "train": {
            "out": str(out),
            "steps": steps,
            "batch": 8,
            "accumulate": 2,
            "log_every": _LOG_EVERY,
            "save_every": 7,
            "cpu": True,
        },
        "optim": {"warmup": 10},
    }


def _outcome(out: Path) -> tuple[list[dict[str, Any]], bytes]:
    """The log without its timings, and the final weights."""
    lines = [{key: value for key, value in line.items() if key not in _TIMINGS} for line in read_log(out)]
    return lines, (out / "final" / "model.safetensors").read_bytes()


if __name__ == "__main__":
    sys.exit(main())
