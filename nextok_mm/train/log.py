"""The record of a run: `log.jsonl` always, one line a logged step; TensorBoard by choice."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from ..files import write_files

_logger = logging.getLogger(__name__)
_NAME = "log.jsonl"


class Log:
    """Appends lines to `folder/log.jsonl`, after dropping those past `step`: a resumed run's log has no doubles.

    A record must not end a run: what the disk doesn't take waits, and is written as soon as it does; TensorBoard's
    files, which can't be gone on with, end there. Either is said once. ValueError where the log can't even begin.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        self.path, self.waiting, self.warned = folder / _NAME, b"", False
        kept = [line for line in _lines(self.path) if line["step"] <= step]
        write_files(folder, {_NAME: "".join(json.dumps(line) + "\n" for line in kept).encode()})
        self.file = self.path.open("ab", buffering=0)
        self.board = _tensorboard(folder, step) if tensorboard else None

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Add the numbers of a step."""
        line = json.dumps({"step": step, **{name: _short(value) for name, value in numbers.items()}}) + "\n"
        self.waiting += line.encode()
        self._flush()
        if self.board is not None:
            try:
                for name, value in numbers.items():
                    self.board.add_scalar(name, value, step)
            except OSError as error:
                self._drop_board(error)

    def close(self) -> None:
        """Flush and close."""
        self._flush()
        if self.waiting:
            _logger.warning("%s lacks its last lines: %s", self.path, self.waiting.decode(errors="replace"))
        self.file.close()
        try:
            if self.board is not None:
                self.board.close()
        except OSError as error:
            self._drop_board(error)

    def _flush(self) -> None:
        """Write what waits; of a line that is cut off, the rest comes next time."""
        try:
            while self.waiting:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
        except OSError as error:
            if not self.warned:
                _logger.warning("%s can't be written (%s): its lines wait, the run goes on", self.path, error.strerror)
            self.warned = True

    def _drop_board(self, error: OSError) -> None:
        _logger.warning("TensorBoard's files can't be written (%s): the run goes on without them", error.strerror)
        self.board = None


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log, in order; a last one cut short by a crash is left out."""
    return _lines(Path(folder) / _NAME)


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text(encoding="utf8").splitlines() if path.is_file() else []:
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
