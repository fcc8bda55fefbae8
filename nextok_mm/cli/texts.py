"""Text on the command line: where it comes from, and how it appears on standard output, which holds nothing else."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..media import Medium

STDOUT = STDIN = "-"


def prompts(text: Sequence[str] | None, file: Path | None) -> list[str] | None:
    """What --text and --text-file say together; None for nothing. "-" is standard input."""
    if text and file is not None:
        raise ValueError(f"text-file: got {str(file)!r} beside --text, accepted: one of them")
    if file is not None:
        text = [STDIN] if str(file) == STDIN else _read(file)
    return [piped() if part == STDIN else part for part in text] if text else None


def _read(file: Path) -> list[str]:
    from ..media import Words

    return Words().read(file)


def piped() -> str:
    """All of standard input, of UTF-8 text."""
    from ..media.texts import MAX_TEXT, decoded

    data = sys.stdin.buffer.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise ValueError(f"text: standard input has more than {MAX_TEXT} bytes, accepted: at most so many")
    return decoded(data, "text from standard input")


def written(results: Iterator[Any], medium: "Medium") -> Any:
    """Write samples to standard output, a single one as it comes; the last result, on the way out by Ctrl-C too."""
    result, several, begun, out = None, False, False, sys.stdout.buffer
    try:
        for result in results:
            several = len(result) > 1
            if not several:
                out.write(medium.raw(result.added, not begun))
                out.flush()
                begun = True
    finally:
        if result is not None:
            out.write((medium.raw(result.data) if several else b"") + medium.last)
            out.flush()
    return result
