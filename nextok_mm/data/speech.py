"""A folder of sound files, with what is said in them where the folder says it. Every file is distrusted.

| text                                | where it is                                                                |
|-------------------------------------|----------------------------------------------------------------------------|
| `metadata.csv`, LJSpeech's form     | a line `ID|text|text in words` a file, which lies in `wavs/ID.*` or in `ID.*` |
| `.txt` beside a sound of that name  | the file                                                                   |

`phonemes.jsonl`, as `teacher_speech` writes it, adds how long each phoneme lasts. In training a row is a crop of
so many samples from a random moment, seeded by the row; else it is the beginning. Shorter sounds end in silence.

Shapes: B batch, C channels, T samples.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..contracts import Batch
from ..media.sounds import INPUTS, Sounds, header, read_sound, resampled
from ..rng import Rng, mix
from .image_folder import listed
from .source import Source, SourceConfig

METADATA, PHONEMES = "metadata.csv", "phonemes.jsonl"
MAX_TEXT = 64 << 20


class Config(SourceConfig):
    """Sounds of a folder and of its subfolders."""

    kind: Literal["speech"] = Field(
        default="speech", description="Name of this kind of source, which selects this config."
    )
    path: str = Field(min_length=1, description="Folder of the sound files.")
    size: int = Field(gt=0, le=1 << 24, description="Number of samples that sounds are cut or lengthened to.")
    rate: int = Field(default=24_000, ge=1000, le=192_000, description="Sample rate that sounds are brought to (Hz).")
    channels: Literal[1, 2] = Field(default=1, description="Number of channels that sounds are brought to.")
    crop: Literal["beginning", "random"] = Field(
        default="beginning",
        description="Which part of a longer sound is taken in training: its beginning, or a random part.",
    )
    rows: int | None = Field(default=None, gt=0, description="Number of files, the first ones by name; null takes all.")

    def open(self) -> "Speech":
        """The list of files; none is opened yet."""
        return Speech(self)


class Speech(Source):
    """The sound files in the order of their names, or of metadata.csv.

    timed: what `phonemes.jsonl` says of each row: phonemes, one letter each, and their lengths in units of 25 ms; None
    where the folder has none.
    """

    timed: tuple[tuple[str, tuple[int, ...]], ...] | None = None

    def __init__(self, config: Config):
        self.config = config
        root = Path(config.path).expanduser()
        if not root.is_dir():
            raise ValueError(f"data.path: got {str(root)!r}, accepted: a folder of sounds")
        self.draws = frozenset({"crop"} if config.crop == "random" else ())
        self.medium = Sounds(config.rate, config.channels, (config.size,))
        self.paths, self.captions = _spoken(root) if (root / METADATA).is_file() else _beside(listed(root, INPUTS))
        if not self.paths:
            raise ValueError(f"data.path: no sound in {str(root)!r}, accepted: {', '.join(INPUTS)}")
        if (root / PHONEMES).is_file():
            self.timed = _timed(root / PHONEMES, self.paths)
        if config.rows is not None:
            self.paths = self.paths[: config.rows]
            self.captions = None if self.captions is None else self.captions[: config.rows]
            self.timed = None if self.timed is None else self.timed[: config.rows]

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`images` [B, C, T] in [-1, 1]. ValueError names a bad file."""
        moments = [0.0] * len(indices)
        if self.config.crop == "random" and seeds is not None:
            moments = Rng([mix(seed, "crop") for seed in seeds]).uniform().tolist()
        return {"images": torch.cat([self._crop(self.paths[i], moment) for i, moment in zip(indices, moments)])}

    def sound(self, index: int) -> Tensor:
        """All of one file, [1, C, T] in [-1, 1]. ValueError names a bad file."""
        return self.medium.read(self.paths[index])

    def _crop(self, path: Path, moment: float) -> Tensor:
        size, rate = self.config.size, self.config.rate
        start = 0.0
        if moment:
            length = header(path)[0]
            start = moment * max(0.0, length - size / rate)
        sound, own = read_sound(path, size / rate, math.floor(start * 1000) / 1000)
        made = self.medium.take(resampled(sound, own, rate))[:, :, :size]
        return F.pad(made, (0, size - made.shape[2]))


def _spoken(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The files and texts of metadata.csv; ValueError names the first line that isn't right."""
    paths, texts = [], []
    there = {path.with_suffix("").relative_to(root).as_posix(): path for path in listed(root, INPUTS)}
    for number, line in enumerate(_text(root / METADATA).splitlines(), 1):
        if not line.strip():
            continue
        name, *said = line.split("|")
        path = there.get(f"wavs/{name}") or there.get(name)
        if not said or path is None:
            reason = "no file of that name" if said else "accepted: a name and a text with | between them"
            raise ValueError(f"data.path: {root / METADATA}, line {number}: got {line[:80]!r}, {reason}")
        paths.append(path)
        texts.append(said[-1].strip() or said[0].strip())
    return paths, tuple(texts)


def _beside(paths: list[Path]) -> tuple[list[Path], tuple[str, ...] | None]:
    """The files, and the texts that lie beside them: of all or of none."""
    texts = [path.with_suffix(".txt") for path in paths]
    found = [path for path in texts if path.is_file()]
    if found and len(found) < len(paths):
        missing = next(path for path in texts if not path.is_file())
        raise ValueError(f"data.path: {missing} is missing, accepted: a .txt beside every sound, or beside none")
    return paths, tuple(_text(path).strip() for path in found) or None


def _timed(path: Path, sounds: Sequence[Path]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Phonemes and lengths of these sounds; ValueError names what is missing or wrong."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            row: Any = json.loads(line)
            found[row["id"]] = str(row["phonemes"]), tuple(map(int, row["units"]))
            if len(row["phonemes"]) != len(row["units"]):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"data.path: {path}, line {number}: no phonemes with a length each") from None
    for sound in sounds:
        if sound.stem not in found:
            raise ValueError(f"data.path: {path} says nothing of {sound.name}")
    return tuple(found[sound.stem] for sound in sounds)


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"data.path: {path} has {path.stat().st_size} bytes, at most {MAX_TEXT} accepted")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"data.path: {path}: not UTF-8 (byte {error.start}), accepted: UTF-8 text") from None
