"""Files are whole or not there, whatever the disk, the folder and the system; and one process writes at a time."""

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from nextok_mm import files


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(before=st.none() | st.binary(max_size=9), content=st.binary(max_size=200), room=st.integers(0, 250))
@settings(max_examples=30, deadline=None)
def test_a_disk_that_fills_at_any_byte_leaves_what_was_there(before: bytes | None, content: bytes, room: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        path = Path(name) / "x.bin"
        if before is not None:
            path.write_bytes(before)
        fdopen, left = os.fdopen, [room]

        def tight(handle: int, mode: str):
            file = fdopen(handle, mode)

            def write(data: bytes) -> int:
                fits = min(left[0], len(data))
                left[0] -= fits
                file.write(data[:fits])
                if fits < len(data):
                    raise refusal(errno.ENOSPC)
                return fits

            return _Opened(file, SimpleNamespace(write=write, flush=file.flush))

        patch.setattr(os, "fdopen", tight)
        if room >= len(content):
            files.write_whole(path, lambda file: file.write(content), force=True)
            assert path.read_bytes() == content and names(path.parent) == ["x.bin"]
        else:
            with pytest.raises(ValueError, match="can't be written: No space left on device") as error:
                files.write_whole(path, lambda file: file.write(content), force=True)
            assert "\n" not in str(error.value)
            assert names(path.parent) == ([] if before is None else ["x.bin"])
            assert before is None or path.read_bytes() == before


class _Opened:
    """An open file whose `write` is another one."""

    def __init__(self, file, proxy):
        self.file, self.proxy = file, proxy

    def __enter__(self):
        return self.proxy

    def __exit__(self, *error):
        self.file.close()


def test_no_encoder_meets_a_full_disk(tmp_path: Path) -> None:
    """A limit set by the system: pictures and clips of every ending are refused in one line, old files stay."""
    pytest.importorskip("av")
    code = """
import resource, signal, sys
from pathlib import Path
import torch
from nextok_mm.media import clips
folder = Path(sys.argv[1])
moving = torch.rand(2, 3, 6, 32, 32)
for ending in clips.ENDINGS:
    (folder / f"old{ending}").write_bytes(b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for ending in clips.ENDINGS:
    for name in ("old", "new"):
        try:
            clips.save_clips(moving, folder / f"{name}{ending}", force=True)
        except ValueError as error:
            print(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 8 and all("can't be written: File too large" in line for line in said), said
    assert names(tmp_path) == ["old.gif", "old.mp4", "old.png", "old.webp"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS])
def test_a_folder_without_hard_links_takes_files_and_replaces_none(tmp_path: Path, monkeypatch, number: int) -> None:
    """Google Drive, exFAT, many network folders: imitated by an os.link that fails."""

    def link(source, target):
        raise refusal(number)

    monkeypatch.setattr(os, "link", link)
    path = files.write_whole(tmp_path / "x.bin", lambda file: file.write(b"one"))
    assert path.read_bytes() == b"one" and names(tmp_path) == ["x.bin"]
    with pytest.raises(ValueError, match="exists"):
        files.write_whole(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"one" and names(tmp_path) == ["x.bin"]
    files.write_whole(path, lambda file: file.write(b"two"), force=True)
    assert path.read_bytes() == b"two" and names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("links", [True, False])
def test_a_name_taken_in_the_meantime_loses_neither_file(tmp_path: Path, monkeypatch, links: bool) -> None:
    path = tmp_path / "x.bin"
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(refusal(errno.EPERM)))

    def slowly(file) -> None:
        path.write_bytes(b"theirs")
        file.write(b"ours")

    with pytest.raises(ValueError, match="exists; what was made is kept as") as error:
        files.write_whole(path, slowly)
    kept = Path(str(error.value).rsplit("'", 2)[1])
    assert path.read_bytes() == b"theirs" and kept.read_bytes() == b"ours" and "\n" not in str(error.value)


@pytest.mark.parametrize("force", [True, False])
def test_what_can_not_get_its_name_is_kept_and_named(tmp_path: Path, monkeypatch, force: bool) -> None:
    def never(*names, **options):
        raise refusal(errno.EACCES)

    monkeypatch.setattr(os, "link", never)
    monkeypatch.setattr(os, "replace", never)
    with pytest.raises(ValueError, match="can't be written: Permission denied; what was made is kept as") as error:
        files.write_whole(tmp_path / "x.bin", lambda file: file.write(b"ours"), force)
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == b"ours" and repr(str(kept)) in str(error.value)


@pytest.fixture
def windows(monkeypatch):
    """os.open and os.fsync as Windows has them: no handles of folders, and no syncing of one opened for reading."""
    plain_open, plain_sync = os.open, os.fsync

    def opened(path, flags, *more, **named):
        if os.path.isdir(path) and not flags & getattr(os, "O_TMPFILE", 0):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return plain_open(path, flags, *more, **named)

    def synced(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise refusal(errno.EBADF)
        plain_sync(handle)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)


def test_files_are_synced_as_windows_wants_it(tmp_path: Path, windows) -> None:
    files.write_files(tmp_path / "new", {"a": b"1", "b": lambda path: path.write_bytes(b"2")})
    files.write_whole(tmp_path / "new" / "c", lambda file: file.write(b"3"))
    assert [path.read_bytes() for path in sorted((tmp_path / "new").iterdir())] == [b"1", b"2", b"3"]


def test_a_file_that_somebody_reads_is_replaced_when_he_is_done(tmp_path: Path, monkeypatch) -> None:
    """Windows replaces no open file; imitated by an os.replace that fails twice with that system's number."""
    plain, tries = os.replace, []

    def replace(source, target):
        tries.append(target)
        if len(tries) <= 2:
            error = PermissionError(errno.EACCES, "in use")
            error.winerror = 32
            raise error
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    files.write_files(tmp_path, {"a": b"1"})
    assert (tmp_path / "a").read_bytes() == b"1" and len(tries) == 3


@pytest.mark.parametrize("error", [refusal(errno.ENOSPC), SafetensorError("I/O error: No space left on device")])
def test_all_files_or_none_of_them_appear(tmp_path: Path, error: Exception) -> None:
    files.write_files(tmp_path, {"a": b"old", "b": b"old"})

    def full(path: Path) -> None:
        path.write_bytes(b"ne")
        raise error

    with pytest.raises(ValueError, match="No space left on device; what was there before is kept") as said:
        files.write_files(tmp_path, {"a": b"new", "b": full})
    assert "\n" not in str(said.value)
    assert names(tmp_path) == ["a", "b"] and {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}


def test_many_threads_may_write_the_same_file(tmp_path: Path) -> None:
    failed = []

    def write(letter: bytes) -> None:
        try:
            for _ in range(20):
                files.write_files(tmp_path, {"a": letter * 1000})
        except ValueError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"x", b"y", b"z")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert not failed and names(tmp_path) == ["a"] and len(content) == 1000 and len(set(content)) == 1


def test_a_place_that_takes_no_files_is_refused_before_the_work(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.json", tmp_path / "file" / "deeper" / "x.json"):
        with pytest.raises(ValueError, match="can't be written"):
            files.check_out(path, False)
    files.check_out(tmp_path / "new" / "x.json", False)
    assert names(tmp_path) == ["file"]

    def read_only(**options):
        raise refusal(errno.EROFS)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(ValueError, match="can't be written.*Read-only file system"):
        files.check_out(tmp_path / "x.json", False)


def hold(folder: Path, ready, forks: bool = False) -> None:
    """Another process that writes into a folder, for ever; with a forked child of its own, as a data worker is."""
    with files.only_writer(folder, "out", "test"):
        if forks and os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        ready.set()
        time.sleep(60)


def test_a_second_writer_is_refused_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    folder, ready = tmp_path / "run", context.Event()
    owner = context.Process(target=hold, args=(folder, ready, True))
    owner.start()
    assert ready.wait(20)
    with pytest.raises(ValueError, match=rf"^out: another test, pid {owner.pid}, writes here") as error:
        with files.only_writer(folder, "out", "test"):
            raise AssertionError
    assert "\n" not in str(error.value)
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    with files.only_writer(folder, "out", "test"):
        assert str(os.getpid()) in (folder / ".lock").read_text()
    assert names(folder) == []


def test_threads_are_two_writers_as_well_and_an_empty_folder_goes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with files.only_writer(folder, "out", "test"):
        with pytest.raises(ValueError, match=f"pid {os.getpid()}, writes here"):
            with files.only_writer(folder, "out", "test"):
                raise AssertionError
    assert not folder.exists()
    with pytest.raises(RuntimeError), files.only_writer(folder, "out", "test"):
        (folder / "x").write_text("")
        raise RuntimeError
    assert names(folder) == ["x"]


def test_a_lock_deleted_under_its_owner_is_made_anew(tmp_path: Path, monkeypatch) -> None:
    """Between opening and locking the file, its last owner deletes it: that lock is worth nothing."""
    plain, calls = fcntl.flock, []

    def late(handle, how):
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        plain(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with files.only_writer(tmp_path, "out", "test"):
        assert len(calls) == 2 and (tmp_path / ".lock").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_where_there_are_no_locks_the_work_goes_on_with_a_warning(tmp_path: Path, monkeypatch, caplog, number) -> None:
    def none(handle, how):
        raise refusal(number)

    monkeypatch.setattr(fcntl, "flock", none)
    with caplog.at_level(logging.WARNING), files.only_writer(tmp_path, "out", "test"):
        (tmp_path / "x").write_text("")
    assert "has no locks" in caplog.text and names(tmp_path) == ["x"]


def test_windows_locks_a_byte_and_closes_before_it_deletes(tmp_path: Path, monkeypatch) -> None:
    """Imitated: no fcntl, an msvcrt that locks by fcntl's means, and files that can't be deleted while open."""
    taken: set[int] = set()

    def locking(handle: int, mode: int, count: int) -> None:
        assert os.lseek(handle, 0, os.SEEK_CUR) > 1000  # beyond what others read
        if any(os.path.samestat(os.fstat(handle), os.fstat(other)) for other in taken):
            raise PermissionError(errno.EACCES, "Permission denied")
        taken.add(handle)

    plain_close, plain_unlink = os.close, Path.unlink

    def close(handle: int) -> None:
        taken.discard(handle)
        plain_close(handle)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if any(os.path.samestat(os.fstat(handle), self.stat()) for handle in taken):
            raise PermissionError(errno.EACCES, "in use")
        plain_unlink(self, missing_ok)

    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(files, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2), raising=False)
    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(Path, "unlink", unlink)
    with files.only_writer(tmp_path, "out", "test"):
        with pytest.raises(ValueError, match=f"another test, pid {os.getpid()}, writes here"):
            with files.only_writer(tmp_path, "out", "test"):
                raise AssertionError
        assert (tmp_path / ".lock").stat().st_size < 200
    assert names(tmp_path) == []
    with files.only_writer(tmp_path, "out", "test"):
        pass


def test_a_link_that_leads_nowhere_is_in_the_way_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="x.json' exists"):
        files.check_out(tmp_path / "x.json", False)
    files.check_out(tmp_path / "x.json", True)
    with pytest.raises(ValueError, match="x.json' exists"):
        files.write_whole(tmp_path / "x.json", lambda file: file.write(b"x"))
    assert names(tmp_path) == ["x.json"]


def test_a_name_that_no_file_can_have_is_named(tmp_path: Path) -> None:
    for name in ("a\0b.json", "x" * 300, "a\udcffb\0"):
        with pytest.raises(ValueError, match="out: .* can't be written: "):
            files.check_out(tmp_path / name, False)
