"""Texts as a medium. What comes in is UTF-8, or refused; a file is read whole, and nothing of it is cut off."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..config import shown
from ..files import check_name, in_line, write_whole
from .medium import STDOUT, Fit, Medium, Saving

ENDINGS = (".txt", ".md", ".jsonl")
BETWEEN = "\n\n"
"""What stands between several texts in one file or on a terminal; a .jsonl has a line for each instead."""
MAX_TEXT = 16 << 20


@dataclass(frozen=True)
class Words(Medium):
    """Texts: a list of strings, each as long as it is."""

    name: ClassVar[str] = "text"
    plural: ClassVar[str] = "texts"
    field: ClassVar[str] = "texts"
    out: ClassVar[str] = STDOUT
    last: ClassVar[bytes] = b"\n"
    endings: ClassVar[tuple[str, ...]] = ENDINGS

    def take(self, given: Any, fit: Fit = "exact") -> list[str]:
        """See `Medium.take`. A string is a text, a `Path` a file of it; each needs a letter at least."""
        parts = list(given) if isinstance(given, list | tuple) else [given]
        if not parts:
            raise ValueError("text: got none in the list, accepted: at least one")
        return [self._one(part, fit) for part in parts]

    def _one(self, given: Any, fit: Fit) -> str:
        text = self.read(given, fit)[0] if isinstance(given, Path) else checked(given)
        if not text:
            raise ValueError("text: got an empty text, accepted: one letter or more")
        return text

    def read(self, path: str | Path, fit: Fit = "exact") -> list[str]:
        """A file of UTF-8 text, as it stands (without a mark of its byte order)."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"text: no file {str(path)!r}")
        if path.stat().st_size > MAX_TEXT:
            raise ValueError(f"text {in_line(path)}: {path.stat().st_size} bytes, at most {MAX_TEXT} accepted")
        try:
            return [decoded(path.read_bytes(), f"text {in_line(path)}")]
        except OSError as error:
            raise ValueError(f"text {in_line(path)}: {error.strerror or error}") from None

    def empty(self, n: int) -> list[str]:
        """Texts of no letters."""
        return [""] * n

    def join(self, parts: Sequence[Any]) -> list[str]:
        """One list of all."""
        return [text for part in parts for text in part]

    def added(self, before: Any, now: Any) -> list[str]:
        """The letters at the end of each."""
        return [text[len(earlier) :] for earlier, text in zip(before, now)]

    def extent(self, data: Any) -> str:
        """How many letters each has."""
        sizes = sorted({len(text) for text in data}) or [0]
        return f"{' to '.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))} letters"

    def check_out(self, path: str | Path, force: bool = False, how: Saving | None = None) -> None:
        """The name, and that nothing is in the way; "-" is standard output."""
        if str(path) != STDOUT:
            check_name(path, self.endings, force)

    def save(
        self,
        data: Any,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        how: Saving | None = None,
    ) -> Path:
        """As UTF-8: texts as they are, with an empty line between them; in a .jsonl a line per text, with settings."""
        if Path(path).suffix.lower() == ".jsonl":
            rows = [{"text": text, **_of_row(settings or {}, row, len(data))} for row, text in enumerate(data)]
            content = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        else:
            check_name(path, self.endings, force)
            content = self.printed(data)
        return write_whole(path, lambda file: file.write(content.encode()), force)

    def raw(self, samples: Any, first: bool = True) -> bytes:
        """As `printed`, in UTF-8."""
        return self.printed(samples).encode("utf8", "replace")

    def printed(self, data: Any) -> str:
        """The texts, with an empty line between them."""
        return BETWEEN.join(data)

    def shown(self, data: Any) -> Mapping[str, bytes | str]:
        """As plain text: what a model writes is no HTML and no Markdown of ours."""
        return {"text/plain": self.printed(data)}


def _of_row(settings: Mapping[str, Any], row: int, rows: int) -> dict[str, Any]:
    """The settings of one of several texts: of lists with a value for each, its own."""
    return {
        name: value[row] if isinstance(value, list) and len(value) == rows else value
        for name, value in settings.items()
    }


def decoded(data: bytes, where: str) -> str:
    """Bytes as text; ValueError in one line where they are no UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start}), accepted: UTF-8 text") from None


def checked(text: str) -> str:
    """The text; ValueError in one line for what is none, is too long, or holds half a letter."""
    if not isinstance(text, str):
        raise ValueError(f"text: got {shown(text)}, accepted: text")
    if len(text) > MAX_TEXT:
        raise ValueError(f"text: got {len(text)} letters, accepted: at most {MAX_TEXT}")
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        raise ValueError(f"text: got {text[:60]!r}, accepted: valid Unicode") from None
    return text
