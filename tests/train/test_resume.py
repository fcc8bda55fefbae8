"""A run that was interrupted, in whatever way, ends in the same bits as one that wasn't."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nextok_mm.train import loop, snapshots, train
from nextok_mm.train.torture import torture

from .conftest import config, losses, weights


@pytest.fixture
def plain(fields, tmp_path):
    """The folder of an uninterrupted run."""
    summary = train(config(fields, tmp_path / "plain"))
    assert (summary.status, summary.step, summary.exit_code) == ("finished", 12, 0)
    return tmp_path / "plain"


def same(plain: Path, other: Path) -> bool:
    return losses(plain) == losses(other) and weights(plain) == weights(other)


def test_a_run_cut_at_every_step_equals_the_uninterrupted_one(fields, plain, tmp_path):
    out = tmp_path / "cut"
    for step in range(1, 12):
        summary = train(config(fields, out, train__max_minutes=1e-9))
        assert (summary.status, summary.reason, summary.step, summary.exit_code) == ("stopped", "max_minutes", step, 75)
    assert train(config(fields, out)).status == "finished"
    assert same(plain, out)


def test_workers_and_the_number_of_parts_do_not_matter_to_the_order(fields, plain, tmp_path):
    train(config(fields, tmp_path / "workers", train__workers=2))
    assert same(plain, tmp_path / "workers")


def test_a_finished_run_stays_as_it_is(fields, plain):
    before, log = weights(plain), losses(plain)
    summary = train(config(fields, plain))
    assert (summary.status, summary.step) == ("finished", 12)
    assert weights(plain) == before and losses(plain) == log


def test_only_the_newest_snapshots_are_kept(plain):
    assert snapshots.steps(plain / "snapshots") == [10, 12]
    assert not list(plain.rglob(".*"))


def test_damaged_snapshots_are_passed_over(fields, plain, tmp_path):
    out = tmp_path / "damaged"
    train(config(fields, out, train__snapshots=5))
    (out / "snapshots" / "step-00000012" / "state.json").unlink()
    path = out / "snapshots" / "step-00000010" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="step-00000010 is not whole"):
        summary = train(config(fields, out, train__snapshots=5))
    assert summary.step == 12 and same(plain, out)


def test_snapshots_hold_no_pickles(plain):
    suffixes = {path.suffix for path in plain.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl", ".md"}


@pytest.mark.parametrize("at", range(1, 6))
def test_a_full_disk_during_a_snapshot_leaves_the_one_before(fields, plain, tmp_path, monkeypatch, at):
    out = tmp_path / "full"
    sync, calls = snapshots.sync, []

    def full(path):
        calls.append(path)
        if len(calls) == 5 + at:  # the first snapshot takes five
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "sync", full)
        with pytest.raises(ValueError, match=r"No space left on device.*the earlier ones are kept") as error:
            train(config(fields, out))
    assert "\n" not in str(error.value)
    assert snapshots.newest(out / "snapshots")[0] == 5 and not list(out.rglob(".*"))
    assert train(config(fields, out)).step == 12 and same(plain, out)


@pytest.mark.slow
def test_a_disk_that_is_really_full_leaves_the_snapshot_before(fields, tmp_path):
    """A file-size limit set by the system, so that the write itself fails inside the safetensors library."""
    out = tmp_path / "limited"
    train(config(fields, out, train__max_minutes=1e-9))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); sys.argv[0] = 'train';"
        "from nextok_mm.train.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, write(fields, out)], capture_output=True, text=True)
    assert done.returncode == 2 and "can't be written" in done.stderr.splitlines()[-1]
    assert snapshots.newest(out / "snapshots")[0] == 1 and not list(out.rglob(".*"))


def test_a_second_training_in_the_same_process_is_refused(fields, tmp_path, monkeypatch):
    """They would share Accelerate's state and torch's seed; the first one ends as if nothing had happened."""
    plain, refused = loop.Run._save, []

    def meanwhile(self):
        plain(self)
        with pytest.raises(ValueError, match="train: another training runs in this process") as error:
            train(config(fields, tmp_path / "other"))
        refused.append(error)

    train(config(fields, tmp_path / "plain"))
    monkeypatch.setattr(loop.Run, "_save", meanwhile)
    assert train(config(fields, tmp_path / "run")).status == "finished"
    assert len(refused) == 3 and same(tmp_path / "plain", tmp_path / "run") and not (tmp_path / "other").exists()


def test_a_second_training_in_the_same_folder_is_refused_and_a_killed_one_resumed_at_once(fields, tmp_path):
    """Refused whatever it was told, before it touches anything. The lock dies with its owner, not with its workers."""
    out = tmp_path / "killed"
    fields["optim"]["schedule"] = "constant"
    command = [sys.executable, "-m", "nextok_mm.train", write(fields, out), "train.workers=2", "train.steps=100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not snapshots.steps(out / "snapshots"):
        assert process.poll() is None
        time.sleep(0.02)
    before = (out / "config.json").read_bytes()
    for changes in ({}, {"train__overwrite": True}, {"optim__lr": 1e-2, "train__overwrite": True}):
        with pytest.raises(ValueError, match=f"train.out: another training, pid {process.pid}, writes here") as error:
            train(config(fields, out, **changes))
        assert "\n" not in str(error.value)
    assert (out / "config.json").read_bytes() == before and snapshots.steps(out / "snapshots")
    process.kill()
    process.wait()
    assert (out / ".lock").is_file()
    summary = train(config(fields, out, train__max_minutes=1e-9))
    assert summary.step >= 5 and not (out / ".lock").exists()


def test_a_snapshot_that_somebody_reads_is_pruned_later(fields, plain, tmp_path, monkeypatch):
    """Windows lets nobody move a folder with an open file; imitated by a rename that fails."""
    out, rename = tmp_path / "read", Path.rename

    def refuse(self, target):
        if self.name == "step-00000005":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        train(config(fields, out, train__snapshots=1))
    assert same(plain, out) and snapshots.steps(out / "snapshots") == [5, 12]
    snapshots.write(out / "snapshots", 13, {}, {}, 1)
    assert snapshots.steps(out / "snapshots") == [13]


def write(fields, out: Path) -> str:
    """The config as a file for another process."""
    path = out.parent / "train.yaml"
    path.write_text(yaml.safe_dump(config(fields, out).plain()))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(fields, tmp_path, number):
    out = tmp_path / "signalled"
    command = [
        sys.executable,
        "-m",
        "nextok_mm.train",
        write(fields, out),
        "train.steps=100000",
        "train.save_every=99999",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "log.jsonl").is_file() or not losses(out):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and f"({number.name})" in output
    (step,) = snapshots.steps(out / "snapshots")
    assert f"stopped at step {step}" in output and losses(out)[-1]["step"] <= step
    assert not (out / "final").exists()


def test_another_config_is_refused_unless_told_to_overwrite(fields, plain):
    before = weights(plain)
    for changes, words in (
        ({"optim__lr": 1e-2}, "optim.lr 0.0003, not 0.01"),
        ({"model__width": 64}, "model.width 32, not 64"),
        ({"train__steps": 20}, "train.steps 12, not 20"),
        ({"train__resume": "never"}, "train.resume is never"),
    ):
        with pytest.raises(ValueError, match=r"train\.overwrite=true") as error:
            train(config(fields, plain, **changes))
        assert words in str(error.value) and "\n" not in str(error.value)
    assert weights(plain) == before
    (plain / "mine.txt").write_text("kept")
    train(config(fields, plain, optim__lr=1e-2, train__overwrite=True))
    assert weights(plain) != before and (plain / "mine.txt").exists() and len(losses(plain)) == 4


def test_what_decides_nothing_may_change_at_a_resume(fields, plain, tmp_path):
    out = tmp_path / "changed"
    train(config(fields, out, train__max_minutes=1e-9))
    summary = train(config(fields, out, train__snapshots=1, train__save_every=2, train__workers=1))
    assert summary.step == 12 and weights(out) == weights(plain)
    assert json.loads((out / "config.json").read_text())["train"]["snapshots"] == 1


def test_a_constant_schedule_may_be_prolonged(fields, tmp_path):
    fields["optim"]["schedule"] = "constant"
    train(config(fields, tmp_path / "long"))
    train(config(fields, tmp_path / "short", train__steps=7))
    assert train(config(fields, tmp_path / "short")).step == 12
    assert weights(tmp_path / "long") == weights(tmp_path / "short")


def test_a_run_from_before_decay_was_a_choice_ends_as_it_would_have(fields, tmp_path):
    """Its config.json doesn't say which parameters decay: it goes on with every matrix, and says so from then on."""
    strong = {"optim__weight_decay": 5.0}
    train(config(fields, tmp_path / "old", optim__decay="matrices", **strong))
    train(config(fields, tmp_path / "new", **strong))
    assert weights(tmp_path / "old") != weights(tmp_path / "new")
    out = tmp_path / "resumed"
    train(config(fields, out, optim__decay="matrices", train__max_minutes=1e-9, **strong))
    stored = json.loads((out / "config.json").read_text())
    del stored["optim"]["decay"]
    (out / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="optim.decay matrices, not weights"):
        train(config(fields, out, optim__decay="weights", **strong))
    for _ in range(2):
        train(config(fields, out, train__max_minutes=1e-9, **strong))
        assert json.loads((out / "config.json").read_text())["optim"]["decay"] == "matrices"
    assert train(config(fields, out, **strong)).step == 12 and same(tmp_path / "old", out)
    train(config(fields, out, train__overwrite=True, **strong))
    assert same(tmp_path / "new", out)


def test_a_tokenizer_s_run_that_was_given_a_tokenizer_goes_on_without(fields, tmp_path):
    """It was accepted once, and looked at by nobody; now it is refused, and doesn't count as a difference."""
    save_file({"images": torch.rand(24, 1, 8, 8)}, tmp_path / "data.safetensors")
    fields["model"] = {"role": "tokenizer", "kind": "kl_vae", "size": "tiny"}
    out = tmp_path / "run"
    train(config(fields, out, train__max_minutes=1e-9))
    stored = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(stored | {"tokenizer": "vae-fashion"}))
    with pytest.raises(ValueError, match="tokenizer: got 'vae-fashion', accepted: none"):
        train(config(fields, out, tokenizer="vae-fashion"))
    assert train(config(fields, out)).step == 12


def test_a_new_run_decays_the_weights_of_layers(fields, plain):
    assert json.loads((plain / "config.json").read_text())["optim"]["decay"] == "weights"


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_in_the_same_bits(tmp_path):
    report = torture(tmp_path, kills=5, steps=60)
    assert report["same"] and report["kills"] == 5 and report["mid_save"] >= 1


def test_data_that_has_changed_is_not_gone_on_with_in_silence(fields, tmp_path, caplog):
    """Other rows at the same path: more or fewer of them come in another order than before, so the run is another."""
    path = Path(fields["data"]["path"])
    rows = load_file(path)
    train(config(fields, train__steps=5, optim__schedule="constant"))
    save_file({name: column[:20].clone() for name, column in rows.items()}, path)
    with pytest.raises(ValueError, match="data: it has 20 rows, accepted: the 24 .*train.overwrite=true"):
        train(config(fields, optim__schedule="constant"))
    for columns, words in ((rows, ""), ({**rows, "tokens": rows["tokens"] + 1}, "the data is no longer what it was")):
        save_file(columns, path)
        caplog.clear()
        train(config(fields, train__steps=7 if words else 6, optim__schedule="constant"))
        assert words in caplog.text and bool(words) == ("no longer" in caplog.text)


def test_a_snapshot_from_before_the_data_was_noted_goes_on(fields, tmp_path):
    train(config(fields, train__steps=5, optim__schedule="constant"))
    for state in (tmp_path / "run" / "snapshots").glob("step-*/state.json"):
        facts = json.loads(state.read_text())
        del facts["rows"], facts["data"]
        state.write_text(json.dumps(facts))
    assert train(config(fields, train__steps=6, optim__schedule="constant")).step == 6
