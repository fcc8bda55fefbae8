"""What a training says and to whom, and what its record does where the disk takes nothing."""

import errno
import json
import logging
import os
import warnings
from typing import ClassVar

import pytest
from accelerate import tracking

from nextok_mm import console
from nextok_mm.train import train
from nextok_mm.train.log import Log, read_log

from .conftest import config, losses, weights


class Full:
    """A log file on a disk that has room for so many bytes."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fits = min(self.room, len(data))
        self.room -= fits
        return self.file.write(data[:fits])

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 5, 25, 60])
def test_lines_that_the_disk_did_not_take_come_when_there_is_room(tmp_path, caplog, room):
    log = Log(tmp_path, 0)
    plain = log.file
    log.file = Full(plain, room)
    for step in range(1, 5):
        log.write(step, {"loss": 1 / step})
    assert caplog.text.count("No space left on device") == 1
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, 5))[: room // 25]
    log.file = plain
    log.write(5, {"loss": 0.2})
    log.close()
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5] and len(caplog.records) == 1


def test_lines_that_never_found_room_are_said_at_the_end(tmp_path, caplog):
    log = Log(tmp_path, 0)
    log.file = Full(log.file, 0)
    log.write(1, {"loss": 0.25})
    log.close()
    assert "lacks its last lines" in caplog.text and '"loss": 0.25' in caplog.text


def test_a_resumed_log_is_never_half_there(tmp_path, monkeypatch):
    log = Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    before = (tmp_path / "log.jsonl").read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match="No space left on device; what was there before is kept"):
            Log(tmp_path, 2)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_tensorboard_without_room_ends_and_the_run_goes_on(fields, tmp_path, monkeypatch, caplog):
    from torch.utils.tensorboard import SummaryWriter

    def full(self, *more, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    assert train(config(fields, train__tensorboard=True)).status == "finished"
    assert caplog.text.count("TensorBoard's files can't be written (No space left on device)") == 1
    assert [line["step"] for line in read_log(tmp_path / "run")] == [3, 6, 9, 12]


class Tracker:
    """A tracker as accelerate has them, which only remembers; `fails_at` a step."""

    name, requires_logging_directory, main_process_only = "wandb", False, True
    begun: ClassVar[list["Tracker"]] = []
    fails_at = 0

    def __init__(self, run_name: str):
        self.run_name, self.config, self.rows, self.finished = run_name, {}, [], False

    def start(self) -> None:
        self.begun.append(self)

    def store_init_configuration(self, values: dict) -> None:
        self.config = values

    def log(self, values: dict, step: int) -> None:
        if step == self.fails_at:
            raise RuntimeError("no\nconnection")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def tracker(monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Tracker)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard", "wandb"])
    monkeypatch.setattr(Tracker, "begun", [])
    return Tracker


def test_trackers_get_the_numbers_of_the_log_and_the_config(fields, tracker, tmp_path):
    train(config(fields, train__trackers=["wandb", "tensorboard", "wandb"], train__tensorboard=True))
    (one,) = tracker.begun
    assert one.run_name == "run" and one.finished
    assert one.config["optim.warmup"] == 3 and one.config["train.steps"] == 12
    assert all(isinstance(value, str | int | float | None) for value in one.config.values())
    logged = read_log(tmp_path / "run")
    assert [step for step, _ in one.rows] == [line["step"] for line in logged] == [3, 6, 9, 12]
    assert [values["loss"] for _, values in one.rows] == pytest.approx([line["loss"] for line in logged])
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_a_tracker_that_fails_ends_and_the_run_goes_on(fields, tracker, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracker, "fails_at", 6)
    assert train(config(fields, train__trackers=["wandb"])).status == "finished"
    assert [step for step, _ in tracker.begun[0].rows] == [3]
    assert caplog.text.count("The records of wandb can't be written (no connection): the run goes on") == 1
    assert [line["step"] for line in read_log(tmp_path / "run")] == [3, 6, 9, 12]


def test_a_tracker_that_is_missing_or_can_not_begin_is_one_line(fields, tracker, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^train.trackers: the package mlflow is not installed \(pip "):
        train(config(fields, train__trackers=["mlflow"]))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"^train.trackers.0: got 'wanbd'"):
        config(fields, train__trackers=["wanbd"])

    def refused(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tracker, "start", refused)
    with pytest.raises(ValueError, match=r"^train.trackers: wandb can't begin \(No space left on device\)$"):
        train(config(fields, train__trackers=["wandb"]))


def test_trackers_decide_nothing_so_an_older_run_is_gone_on_with(fields, tmp_path):
    """Its config.json knows `tensorboard: true` and no trackers."""
    train(config(fields, train__tensorboard=True))
    stored = tmp_path / "run" / "config.json"
    older = json.loads(stored.read_text())
    del older["train"]["trackers"]
    stored.write_text(json.dumps(older))
    assert train(config(fields, train__trackers=["tensorboard"])).status == "finished"


def test_a_preview_that_the_disk_does_not_take_is_left_out(fields, tiny, tmp_path, monkeypatch, caplog):
    fields["tokenizer"] = str(tiny / "vae")
    plain = os.open

    def full(path, *more, **named):
        if "/samples/" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(path, *more, **named)

    train(config(fields, tmp_path / "plain"))
    monkeypatch.setattr(os, "open", full)
    assert train(config(fields, tmp_path / "drawn", train__sample_every=6, train__samples=2)).status == "finished"
    assert caplog.text.count("No space left on device") == 2
    assert not list((tmp_path / "drawn" / "samples").iterdir())
    assert weights(tmp_path / "plain") == weights(tmp_path / "drawn")
    assert losses(tmp_path / "plain") == losses(tmp_path / "drawn")


def test_a_library_call_prints_nothing_and_logs_what_it_does(fields, capfd, caplog):
    fields["optim"]["warmup"] = 99
    with caplog.at_level(logging.INFO, "nextok_mm"):
        train(config(fields))
    assert capfd.readouterr() == ("", "")
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said[0][0] == "WARNING" and "optim.warmup 99 is longer" in said[0][1]
    assert [text.split(" loss")[0] for level, text in said if text.startswith("step")] == [
        f"step {step}/12" for step in (3, 6, 9, 12)
    ]
    assert said[-1][1].startswith("finished at step 12 (all steps done): ")


def test_a_command_says_it_on_the_terminal_and_leaves_no_trace(capsys):
    logger = logging.getLogger("nextok_mm")
    before = (logger.level, list(logger.handlers), logger.propagate, warnings.formatwarning)

    def command() -> None:
        logging.getLogger("nextok_mm.any").info("news")
        logging.getLogger("nextok_mm.any").warning("in\ntwo lines")
        raise ValueError("a\nmistake")

    assert console.run(command) == 2
    assert capsys.readouterr() == ("news\n", "warning: in two lines\nerror: a mistake\n")
    assert (logger.level, list(logger.handlers), logger.propagate, warnings.formatwarning) == before
    assert console.run(lambda: None) == 0 and console.run(lambda: 75) == 75

    def refused() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert console.run(refused) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_closed_standard_output_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    assert console.run(console.reserve_stdout) == 2
    assert capsys.readouterr().err == "error: standard output: it is closed, accepted: an open one\n"
