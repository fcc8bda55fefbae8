"""Files: written whole or not at all, never silently over another one, by one process at a time where that matters.

What is written lies beside its final place, synced, and is then renamed: a crash or a full disk in the middle leaves
what was there before.
"""

import errno
import hashlib
import io
import json
import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

_log = logging.getLogger(__name__)
_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone tells text from bytes
_LOCKED = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_NO_SYNC = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_IN_USE = (5, 32)  # Windows: somebody has the file open
_FAR = 1 << 30  # Windows locks bytes, and nobody else may read those


def in_line(path: str | Path) -> str:
    """A path as it stands in the one line of a message: line feeds and the like, which a name may hold, are escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(path))


def refuse_existing(path: str | Path, force: bool) -> None:
    """ValueError where a file is in the way and `force` isn't given: said before the work, not after it."""
    try:
        there = os.path.lexists(path)  # a link that leads nowhere is in the way too
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):  # `check_out` says what is wrong with its folder
        there = False
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ValueError(f"out: {str(path)!r:.80} can't be written: {_reason(error)}") from None
    if there and not force:
        raise ValueError(f"out: {str(path)!r} exists; choose another name, or force=True (--force) replaces it")


def check_name(path: str | Path, endings: Sequence[str], force: bool) -> None:
    """ValueError where a file's name has none of these endings, it can't be written, or exists without `force`."""
    if Path(path).suffix.lower() not in endings:
        raise ValueError(f"out: got {str(path)!r}, accepted: a name that ends with {', '.join(endings)}")
    check_out(path, force)


def check_out(path: str | Path, force: bool) -> None:
    """ValueError where a file or folder can't be written at this place, or exists without `force`.

    Tried, not asked: what a system says about rights is not the whole truth (network folders, read-only mounts).
    """
    refuse_existing(path, force)
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"out: {str(path)!r} can't be written: {folder} is no folder that takes files ({_reason(error)})"
        ) from None


def write_whole(path: str | Path, write: Callable[[BinaryIO], Any], force: bool = False) -> Path:
    """A file in one move: what `write` puts into the open file appears under its name when all of it is on the disk.

    ValueError in one line where it can't be written, or the name is taken and `force` isn't given. What is finished is
    never thrown away: where it can't get its name, the line says under which one it lies.
    """
    path = Path(path)
    refuse_existing(path, force)
    content = io.BytesIO()  # so that only we meet a full disk, and no encoder in the middle of its file
    write(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = _write_beside(path, content.getbuffer())
    except OSError as error:
        raise ValueError(f"out: {str(path)!r} can't be written: {_reason(error)}") from None
    try:
        _replace(made, path) if force else _name_new(made, path)
    except OSError as error:
        reason = "exists" if isinstance(error, FileExistsError) else f"can't be written: {_reason(error)}"
        raise ValueError(f"out: {str(path)!r} {reason}; what was made is kept as {str(made)!r}") from None
    return path


def write_files(folder: Path, contents: Mapping[str, bytes | Callable[[Path], None]]) -> None:
    """Put several files into a folder: all are on the disk before the first takes its place, in the order given.

    contents: bytes, or a function that writes the path it gets. ValueError where the disk is full or refuses.
    """
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            made.append(_beside(folder / name))
            if callable(content):
                made[-1].touch()
                mode = made[-1].stat().st_mode
                content(made[-1])
                with suppress(OSError):  # safetensors makes files that nobody but their owner can read
                    made[-1].chmod(mode)
            else:
                made[-1].write_bytes(content)
            sync(made[-1])
        for path, name in zip(made, contents):
            _replace(path, folder / name)
        sync(folder)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot write {folder}: {_reason(error)}; what was there before is kept") from None
    finally:
        for path in made:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as a JSON file, whole or not at all. ValueError where the disk is full or refuses."""
    write_files(path.parent, {path.name: json.dumps(data, indent=2, ensure_ascii=False).encode() + b"\n"})


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk, as far as the system knows how to."""
    if not path.is_dir():
        handle = os.open(path, os.O_RDWR | _BINARY)  # Windows syncs what is open for writing, and nothing else
    else:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:  # Windows has no handles of folders
            return
    try:
        _fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def only_writer(folder: Path, field: str, what: str) -> Iterator[None]:
    """Nobody else writes into a folder in the meantime: ValueError where another process (or thread) already does.

    field, what: for the message, which setting names the folder, and who writes (`train.out`, `training`). The system
    holds the lock for as long as this process lives, so a killed one blocks nobody; the file `.lock` only says who it
    is. Where a folder has no locks (some network folders), a warning says so and the work goes on.
    """
    existed, path = folder.exists(), folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(path, field, what)
    except OSError as error:
        raise ValueError(f"{field}: {folder} can't be written: {_reason(error)}") from None
    _HELD.add(handle)
    try:
        yield
    finally:
        _HELD.discard(handle)
        if fcntl is None:  # Windows deletes no open file
            os.close(handle)
        with suppress(OSError):
            path.unlink()
        if fcntl is not None:
            os.close(handle)
        if not existed:
            with suppress(OSError):  # unless something has been written
                folder.rmdir()


_HELD: set[int] = set()


def _let_go() -> None:
    """A forked child doesn't hold on to its parent's locks: a worker may outlive a killed training by seconds."""
    for handle in _HELD:
        with suppress(OSError):
            os.close(handle)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock(path: Path, field: str, what: str) -> int:
    """The handle of a lock file that is ours; ValueError where it is somebody else's."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
        try:
            if not _try_lock(handle):
                raise ValueError(
                    f"{field}: another {what}{_owner(path)} writes here, into {path.parent}; "
                    "wait until it has ended, or take another folder"
                )
            if _same_file(handle, path):  # else its last owner has just deleted it: the next one makes a new one
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()} {socket.gethostname()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Whether a file could be locked, without waiting; a warning where there are no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[name-defined]
            os.lseek(handle, 0, os.SEEK_SET)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        _log.warning("this folder has no locks (%s): nothing keeps a second process from writing here", _reason(error))
    return True


def _owner(path: Path) -> str:
    """`, pid 123,` or `, pid 123 on HOST,`, as far as the lock file says."""
    with suppress(OSError, ValueError):
        pid, host = path.read_text(encoding="utf8").split()
        return f", pid {int(pid)}{'' if host == socket.gethostname() else f' on {host}'},"
    return ""


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _beside(path: Path) -> Path:
    """A name that nobody else uses, in the same folder; short enough wherever the file's own name is."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")


def _write_beside(path: Path, content: Any) -> Path:
    """The content in a file beside `path`, on the disk; nothing where that fails."""
    made = _beside(path)
    handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)  # less the user's own mask
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            _fsync(handle)
    except BaseException:
        with suppress(OSError):
            made.unlink()
        raise
    return made


def _name_new(made: Path, path: Path) -> None:
    """Give a finished file a name that is free; FileExistsError where it isn't."""
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # a folder without hard links (exFAT, many network folders): an empty file claims the name
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            if path.stat().st_size:  # somebody who was told to replace it has been quicker
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            _replace(made, path)
        except FileExistsError:
            raise
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
    else:
        with suppress(OSError):
            made.unlink()


def _replace(made: Path, path: Path) -> None:
    """os.replace, with patience on Windows, where it fails as long as somebody (a viewer, a scanner) reads the file."""
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8, None):
        try:
            return os.replace(made, path)
        except OSError as error:
            if pause is None or getattr(error, "winerror", None) not in _IN_USE:
                raise
            time.sleep(pause)


def _fsync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
