"""The record of a run: `log.jsonl` always, one line per logged step; accelerate's trackers by choice."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_files

_logger = logging.getLogger(__name__)
_NAME = "log.jsonl"


class Log:
    """Appends lines to `folder/log.jsonl`, after dropping those past `step`: a resumed run's log has no doubles.

    trackers: names of accelerate's trackers that get the same numbers; config: plain data of the run, which those that
    compare runs are given too. A resumed training goes on in the same TensorBoard files, elsewhere in a run of its own.

    A record must not end a run: what the disk doesn't take waits, and is written as soon as it does; a tracker that
    fails ends there. Either is said once. ValueError where the log, or a tracker, can't even begin.
    """

    def __init__(self, folder: Path, step: int, trackers: Sequence[str] = (), config: Mapping[str, Any] | None = None):
        self.path, self.waiting, self.warned = folder / _NAME, b"", False
        kept = [line for line in _lines(self.path) if line["step"] <= step]
        write_files(folder, {_NAME: "".join(json.dumps(line) + "\n" for line in kept).encode()})
        self.file = self.path.open("ab", buffering=0)
        self.trackers = {name: _tracker(name, folder, step, config or {}) for name in dict.fromkeys(trackers)}

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Add the numbers of a step."""
        line = json.dumps({"step": step, **{name: _short(value) for name, value in numbers.items()}}) + "\n"
        self.waiting += line.encode()
        self._flush()
        for name, tracker in list(self.trackers.items()):
            self._try(name, lambda tracker=tracker: tracker.log(dict(numbers), step=step))

    def close(self) -> None:
        """Flush and close."""
        self._flush()
        if self.waiting:
            _logger.warning("%s lacks its last lines: %s", self.path, self.waiting.decode(errors="replace"))
        self.file.close()
        for name, tracker in list(self.trackers.items()):
            self._try(name, tracker.finish)

    def _flush(self) -> None:
        """Write what waits; of a line that is cut off, the rest comes next time."""
        try:
            while self.waiting:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
        except OSError as error:
            if not self.warned:
                _logger.warning("%s can't be written (%s): its lines wait, the run goes on", self.path, error.strerror)
            self.warned = True

    def _try(self, name: str, record: Callable[[], None]) -> None:
        """Let a tracker record something; one that fails, in whatever way, is left out from then on."""
        try:
            record()
        except Exception as error:
            what = "TensorBoard's files" if name == "tensorboard" else f"The records of {name}"
            _logger.warning("%s can't be written (%s): the run goes on without them", what, _reason(error))
            del self.trackers[name]


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


def check_trackers(names: Sequence[str]) -> None:
    """ValueError where the package of a tracker is missing: said before a training begins, not in the middle of it."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:  # older accelerates know fewer
            known = ", ".join(LOGGER_TYPE_TO_CLASS)
            raise ValueError(f"train.trackers: this accelerate has no tracker {name}, accepted: {known}")
        if name not in there:
            package = _PACKAGES.get(name, name)
            raise ValueError(f"train.trackers: the package {name} is not installed (pip install {package})")


_PACKAGES = {"comet_ml": "comet-ml"}
"""Where a package is installed by another name than it is imported by."""


def _tracker(name: str, folder: Path, step: int, config: Mapping[str, Any]) -> Any:
    """A tracker of accelerate's, begun; TensorBoard's files lie in `folder/tensorboard`, of which those past `step` are
    hidden."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    cls: Any = LOGGER_TYPE_TO_CLASS[name]
    run = "tensorboard" if name == "tensorboard" else folder.name
    options: dict[str, Any] = {"purge_step": step + 1} if name == "tensorboard" else {}
    if cls.requires_logging_directory:
        options["logging_dir"] = str(folder)
    try:
        tracker = cls(run, **options)
        if hasattr(tracker, "start"):  # older ones begin at once
            tracker.start()
        if config and name != "tensorboard":  # which would make a run of its own of it
            tracker.store_init_configuration(_flat(config))
    except Exception as error:
        raise ValueError(f"train.trackers: {name} can't begin ({_reason(error)})") from None
    return tracker


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as `optim.lr`, which every tracker takes; lists as text."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str | int | float | None) else json.dumps(value)
    return flat


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(said.split())[:200]
