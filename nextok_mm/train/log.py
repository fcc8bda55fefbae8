"""The record of a run: `log.jsonl` always, one line a logged step; TensorBoard by choice."""

import json
import math
from pathlib import Path
from typing import Any


class Log:
    """Appends lines to `folder/log.jsonl`, after dropping those past `step`: a resumed run's log has no doubles."""

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        self.path = folder / "log.jsonl"
        kept = [line for line in _lines(self.path) if line["step"] <= step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.file = self.path.open("a", buffering=1)
        self.board = _tensorboard(folder, step) if tensorboard else None

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Add the numbers of a step."""
        self.file.write(json.dumps({"step": step, **{name: _short(value) for name, value in numbers.items()}}) + "\n")
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log, in order; a last one cut short by a crash is left out."""
    return _lines(Path(folder) / "log.jsonl")


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _short(value: float) -> float:
    """Nine significant digits tell any two fp32 numbers apart."""
    return float(f"{value:.9g}") if math.isfinite(value) else value


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "train.tensorboard: the package tensorboard is not installed (pip install tensorboard)"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
