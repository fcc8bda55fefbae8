"""The folder of a run: whose it is, and where things lie in it."""

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..files import only_writer, write_json
from . import snapshots
from .config import TrainConfig

_OURS = ("config.json", "log.jsonl", "snapshots", "samples", "final", "tensorboard")


class RunFolder:
    """`train.out`, checked against the config: a run is gone on with only where nothing decisive differs."""

    def __init__(self, config: TrainConfig):
        self.path = Path(config.train.out).expanduser()
        self.snapshots, self.samples, self.final = (self.path / name for name in ("snapshots", "samples", "final"))
        self.config = config

    def check(self) -> None:
        """ValueError where the folder holds another run, or one that may be neither resumed nor overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"train.out: {self.path} is a file, accepted: a folder")
        stored = self.path / "config.json"
        if self.config.train.overwrite or not stored.is_file():
            return
        try:
            before = TrainConfig.parse(json.loads(stored.read_text(encoding="utf8"))).decisive()
        except (ValueError, TypeError) as error:
            raise ValueError(f"train.out: {stored} can't be read ({error}); {_ROADS}") from None
        difference = _difference(before, self.config.decisive())
        if difference:
            raise ValueError(f"train.out: {self.path} holds a run with {difference}; {_ROADS}")
        if self.config.train.resume == "never" and snapshots.steps(self.snapshots):
            raise ValueError(f"train.out: {self.path} holds a run and train.resume is never; {_ROADS}")

    def claimed(self) -> AbstractContextManager[None]:
        """The folder is this run's alone in the meantime; ValueError where another training writes into it."""
        return only_writer(self.path, "train.out", "training")

    def prepare(self) -> None:
        """Empty it where `overwrite` says so (of what trainings write, nothing else), and note the config."""
        if self.config.train.overwrite:
            for name in _OURS:
                path = self.path / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        plain = self.config.plain()
        plain["train"]["overwrite"] = False
        write_json(self.path / "config.json", plain)


_ROADS = "accepted: another train.out, or train.overwrite=true"


def _difference(before: Any, now: Any, path: str = "") -> str:
    """The first field that differs, as `optim.lr 0.001, not 0.0003`; empty where none does."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            found = _difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return ""
    return "" if before == now else f"{path} {before}, not {now}"
