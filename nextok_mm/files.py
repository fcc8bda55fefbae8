"""Files: written whole or not at all, never silently over another one.

What is written lies beside its final place, synced, and is then renamed: a crash or a full disk in the middle leaves
what was there before.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any


def refuse_existing(path: str | Path, force: bool) -> None:
    """ValueError where a file is in the way and `force` isn't given: said before the work, not after it."""
    try:
        there = Path(path).exists()
    except OSError as error:  # a name that no file can have
        raise ValueError(f"out: {str(path)!r:.80} can't be written: {error.strerror}") from None
    if there and not force:
        raise ValueError(f"out: {str(path)!r} exists; choose another name, or force=True (--force) replaces it")


def check_name(path: str | Path, endings: Sequence[str], force: bool) -> None:
    """ValueError where a file's name has none of these endings, it can't be written, or exists without `force`."""
    if Path(path).suffix.lower() not in endings:
        raise ValueError(f"out: got {str(path)!r}, accepted: a name that ends with {', '.join(endings)}")
    refuse_existing(path, force)
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"out: {str(path)!r} can't be written: {folder} is no folder that takes files")


def write_whole(path: str | Path, write: Callable[[IO[bytes]], Any], force: bool = False) -> Path:
    """A file in one move: what `write` puts into the open file appears under its name when all of it is on the disk.

    ValueError in one line where it can't be written, or the name is taken and `force` isn't given.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise ValueError(f"out: {str(path)!r} can't be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        if force:
            os.replace(name, path)
        else:  # a link fails where the name has been taken since
            os.link(name, path)
    except FileExistsError:
        refuse_existing(path, force)
        raise
    except OSError as error:
        raise ValueError(f"out: {str(path)!r} can't be written: {error.strerror}") from None
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def write_files(folder: Path, contents: Mapping[str, bytes | Callable[[Path], None]]) -> None:
    """Put several files into a folder: all are on the disk before the first takes its place, in the order given.

    contents: bytes, or a function that writes the path it gets. ValueError where the disk is full or refuses.
    """
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            made.append(folder / f".{name}.{os.getpid()}.tmp")
            if callable(content):
                content(made[-1])
            else:
                made[-1].write_bytes(content)
            sync(made[-1])
        for path, name in zip(made, contents):
            os.replace(path, folder / name)
        sync(folder)
    except OSError as error:
        raise ValueError(f"cannot write {folder}: {error.strerror or error}; what was there before is kept") from None
    finally:
        for path in made:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows has no folder handles to sync
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
