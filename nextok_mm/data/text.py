"""Text: files of a folder as one long row of tokens, cut into pieces that a language model reads.

| ending      | a document is                                            |
|-------------|----------------------------------------------------------|
| .txt, .md   | the file                                                 |
| .jsonl      | a line's field of this name                              |
| .parquet    | a row's column of this name (needs pyarrow)              |

Documents lie behind each other, each between the tokenizer's begin and end; row i holds the i-th piece of `length`
tokens, so the order of rows is the training loop's and a stopped run resumes exactly.

Shapes: B batch, N tokens of a piece.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from ..contracts import Batch
from ..media.texts import decoded
from ..media.words import Bytes, TextTokenizer, load_words
from .image_folder import listed
from .source import Source, SourceConfig

ENDINGS = (".txt", ".md", ".jsonl", ".parquet")
MAX_BYTES = 4 << 30


class Config(SourceConfig):
    """Text of a file or a folder."""

    kind: Literal["text"] = Field(default="text", description="Name of this kind of source, which selects this config.")
    path: str = Field(min_length=1, description="File or folder of the text.")
    words: str = Field(
        default="bytes", description="How text becomes tokens: bytes, or a folder that holds a text tokenizer."
    )
    length: int = Field(512, ge=2, le=1 << 20, description="Number of tokens per row.")
    field: str = Field(default="text", description="Field of a line or a row that holds the text.")
    split: Literal["train", "test"] = Field(
        default="train", description="Part of the documents: those of train, or the held-out ones of test."
    )
    held_out: int = Field(
        20,
        ge=0,
        le=1 << 20,
        description="One document of so many is held out for the split test, chosen by its name and content; 0 "
        "holds out none, and both splits are everything.",
    )

    def open(self) -> "Text":
        """All text of the split as tokens, in memory."""
        return Text(self)


class Text(Source):
    """The pieces of one long row of tokens."""

    makes_tokens = True

    def __init__(self, config: Config):
        self.config = config
        self.words = Bytes() if config.words == "bytes" else load_words(Path(config.words).expanduser())
        parts = [torch.tensor(ends(self.words, text), dtype=torch.int32) for _, text in documents(config)]
        self.tokens = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int32)
        self.documents = len(parts)
        if len(self) < 1:
            raise ValueError(
                f"data.path {config.path}: {len(self.tokens)} tokens in {len(parts)} documents of the split "
                f"{config.split}, accepted: {config.length} or more (data.length)"
            )

    def __len__(self) -> int:
        return len(self.tokens) // self.config.length

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`tokens` [B, N]; nothing is drawn."""
        starts = torch.tensor(indices)[:, None] * self.config.length
        return {"tokens": self.tokens[starts + torch.arange(self.config.length)].long()}


def documents(config: Config, split: str | None = None) -> Iterator[tuple[str, str]]:
    """(name, text) of every document of the config's split, or of another one."""
    share, test = config.held_out, (split or config.split) == "test"
    for name, text in read(Path(config.path).expanduser(), config.field):
        digest = hashlib.blake2b(f"{name}\0{text}".encode("utf8", "replace"), digest_size=8).digest()
        if not share or (int.from_bytes(digest, "little") % share == 0) == test:
            yield name, text


def ends(words: TextTokenizer, text: str) -> list[int]:
    """A document's tokens, with what stands before and after a text."""
    tokens = words.encode(text)
    last = words.end
    return tokens if last is None else [*tokens, last]


def read(path: Path, field: str = "text") -> Iterator[tuple[str, str]]:
    """(name, text) of every document of a file or a folder, in the order of their names.

    ValueError in one line names a file that is none of these, isn't UTF-8, or has no such field.
    """
    if path.is_file() and path.suffix.lower() in ENDINGS:
        files, root = [path], path.parent
    elif path.is_dir():
        files, root = listed(path, ENDINGS), path
    else:
        raise ValueError(
            f"data.path: got {str(path)!r}, accepted: a folder, or a file that ends with {', '.join(ENDINGS)}"
        )
    if not files:
        raise ValueError(f"data.path {path}: no text in it, accepted: files that end with {', '.join(ENDINGS)}")
    for file in files:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"data.path: {file} has {file.stat().st_size} bytes, at most {MAX_BYTES} accepted")
        name = file.relative_to(root).as_posix()
        documents = {".jsonl": _lines, ".parquet": _rows}.get(file.suffix.lower(), _whole)(file, field)
        for number, text in enumerate(documents):
            yield f"{name}:{number}", text


def _whole(file: Path, field: str) -> Iterator[str]:
    yield decoded(file.read_bytes(), f"data.path: {file}")


def _lines(file: Path, field: str) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                row = json.loads(decoded(line, f"data.path: {where}"))
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"data.path: {where}: not JSON: {' '.join(str(error).split())[:120]}") from None
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                there = ", ".join(map(str, row))[:120] if isinstance(row, dict) else type(row).__name__
                raise ValueError(f"data.field: {where} has no text {field!r}, it has {there}")
            if not row[field].isascii() and any("\ud800" <= letter <= "\udfff" for letter in row[field]):
                raise ValueError(f"data.path: {where}: half a letter (a lone surrogate), accepted: valid Unicode")
            yield row[field]


def _rows(file: Path, field: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException  # type: ignore[import-not-found]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(f"data.path: {file} needs a package: pip install pyarrow") from None
    try:
        table: Any = ParquetFile(file)
        if field not in table.schema_arrow.names:
            raise ValueError(
                f"data.field: {file} has no column {field!r}, it has {', '.join(table.schema_arrow.names)}"
            )
        for group in table.iter_batches(columns=[field]):
            yield from (str(text) for text in group.column(0).to_pylist() if text is not None)
    except (ArrowException, OSError) as error:
        raise ValueError(f"data.path: {file}: damaged, or no parquet ({' '.join(str(error).split())[:120]})") from None
