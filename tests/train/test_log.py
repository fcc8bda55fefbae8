"""What a training says and to whom, and what its record does where the disk takes nothing."""

import errno
import logging
import os
import warnings

import pytest

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
    log = Log(tmp_path, 0, tensorboard=False)
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
    log = Log(tmp_path, 0, tensorboard=False)
    log.file = Full(log.file, 0)
    log.write(1, {"loss": 0.25})
    log.close()
    assert "lacks its last lines" in caplog.text and '"loss": 0.25' in caplog.text


def test_a_resumed_log_is_never_half_there(tmp_path, monkeypatch):
    log = Log(tmp_path, 0, tensorboard=False)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    before = (tmp_path / "log.jsonl").read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match="No space left on device; what was there before is kept"):
            Log(tmp_path, 2, tensorboard=False)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_tensorboard_without_room_ends_and_the_run_goes_on(fields, tmp_path, monkeypatch, caplog):
    from torch.utils.tensorboard import SummaryWriter

    def full(self, *more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    assert train(config(fields, train__tensorboard=True)).status == "finished"
    assert caplog.text.count("TensorBoard's files can't be written (No space left on device)") == 1
    assert [line["step"] for line in read_log(tmp_path / "run")] == [3, 6, 9, 12]


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
