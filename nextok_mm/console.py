"""What every command does around its work: our log's lines on the terminal, a mistake as one line and an exit code.

The package itself never prints what happens: it logs under `nextok_mm`, and Python's users hear what they ask for. A
command hears all of it.
"""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

NAMED = (errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ENOENT)
"""What the system says of a name that can't be a file's, or isn't."""
MISTAKE, FAILURE = 2, 1
"""Exit codes: something given was wrong, or can't be done; the system refused something on the way."""


def run(command: Callable[[], int | None]) -> int:
    """A command's exit code: its own (None: 0), or that of a mistake, said in one line (NEXTOK_DEBUG=1: with all)."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that can't show a letter shows its number
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with speaking():
            return command() or 0
    except ModuleNotFoundError as error:
        from .doctor import OPTIONAL

        module = (error.name or "").partition(".")[0]
        if module not in OPTIONAL or os.environ.get("NEXTOK_DEBUG"):
            raise
        print(f"error: {module} is not installed; pip install 'nextok_mm[{OPTIONAL[module]}]'", file=sys.stderr)
        return MISTAKE
    except BrokenPipeError:  # whoever read what we write has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILURE
    except (ValueError, OSError) as error:
        if os.environ.get("NEXTOK_DEBUG"):
            raise
        place = f"{error.filename!r:.200}: " if isinstance(error, OSError) and error.filename else ""
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        print(f"error: {place}{' '.join(said.split())}", file=sys.stderr)
        return MISTAKE if isinstance(error, ValueError) or error.errno in NAMED else FAILURE


@contextmanager
def speaking() -> Iterator[None]:
    """What the package logs goes to the terminal: news to stdout, warnings to stderr as `warning: ...`, in one line."""
    logger, handler, plain = logging.getLogger("nextok_mm"), _Terminal(), warnings.formatwarning
    before = logger.level, logger.propagate
    package = str(Path(__file__).parent)

    def brief(message: Warning | str, category: type[Warning], filename: str, *more: Any, **named: Any) -> str:
        if filename.startswith(package):
            return f"warning: {' '.join(str(message).split())}\n"
        return plain(message, category, filename, *more, **named)

    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # else once more, by whatever else listens
    warnings.formatwarning = brief
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        warnings.formatwarning = plain


def reserve_stdout() -> None:
    """From here on the command's standard output holds its data alone, and news go to standard error. ValueError where
    it is closed: what it is to hold would be lost."""
    if sys.stdout is None:
        raise ValueError("standard output: it is closed, accepted: an open one")
    for handler in logging.getLogger("nextok_mm").handlers:
        if isinstance(handler, _Terminal):
            handler.reserved = True


class _Terminal(logging.Handler):
    reserved = False

    def emit(self, record: logging.LogRecord) -> None:
        loud, line = record.levelno >= logging.WARNING, " ".join(record.getMessage().split())
        if loud:
            line = f"{record.levelname.lower()}: {line}"
        print(line, file=sys.stderr if loud or self.reserved else sys.stdout, flush=True)
