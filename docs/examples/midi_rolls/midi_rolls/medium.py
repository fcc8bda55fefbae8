"""The medium: piano rolls [B, 128, T] in [0, 1], the velocity of each of 128 pitches at T steps; 0 is silence."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextok_mm.files import check_name, write_whole
from nextok_mm.media import Fit, Medium, Saving, pictures

from . import midi

PITCHES = 128
QUIET = 0.25  # what is below isn't written: a network leaves traces everywhere
MAX_BYTES = 16 << 20
INPUTS = (".mid", ".midi", ".npy")


@dataclass(frozen=True)
class Rolls(Medium):
    """Piano rolls [B, 128, T]. size: (T,), the steps that a tokenizer was trained on; rate: steps a second."""

    size: tuple[int]
    rate: float = 8.0
    name: ClassVar[str] = "roll"
    plural: ClassVar[str] = "rolls"
    endings: ClassVar[tuple[str, ...]] = (".mid", ".png")
    axes: ClassVar[tuple[str, ...]] = ("pitches", "steps")
    rank: ClassVar[int] = 3
    temporal: ClassVar[bool] = True
    channels: ClassVar[int] = PITCHES  # type: ignore[misc]

    def take(self, given: Any, fit: Fit = "exact") -> Tensor:
        """Files, arrays or tensors [128, T] or [B, 128, T] (whole numbers are velocities to 127), or a list of them."""
        parts = [self._one(part, fit) for part in (given if isinstance(given, list | tuple) else [given])]
        if not parts or len({part.shape[2] for part in parts}) > 1:
            got = ", ".join(str(part.shape[2]) for part in parts) or "none"
            raise ValueError(f"rolls: got lengths of {got}, accepted: one or more, all of one length")
        return torch.cat(parts)

    def _one(self, given: Any, fit: Fit) -> Tensor:
        if isinstance(given, str | Path):
            return self.read(given, fit)
        if not isinstance(given, Tensor | np.ndarray):
            raise ValueError(f"rolls: got {type(given).__name__}, accepted: a tensor, an array or the name of a file")
        try:
            roll = torch.as_tensor(given).detach()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"rolls: got numbers of {given.dtype}, accepted: floats or bytes") from None
        whole = not roll.is_floating_point()
        roll = (roll / 127 if whole and roll.dtype != torch.bool else roll).float()
        roll = roll[None] if roll.dim() == 2 else roll
        if roll.dim() != 3 or roll.shape[1] != PITCHES or not roll.numel():
            raise ValueError(f"rolls: got shape {tuple(given.shape)}, accepted: [B, 128, T] or [128, T]")
        if not bool(roll.isfinite().all()) or not 0 <= float(roll.min()) <= float(roll.max()) <= 1:
            raise ValueError("rolls: got numbers beyond [0, 1], accepted: velocities in [0, 1], or bytes up to 127")
        return roll

    def read(self, path: str | Path, fit: Fit = "exact", frames: int | None = None) -> Tensor:
        """The first steps of a .mid or .npy file; one that is shorter is refused, unless fit is `pad`: then silence
        follows."""
        steps, roll = frames or self.size[0], self._whole(path)
        if roll.shape[1] < steps and fit != "pad":
            raise ValueError(
                f"roll {path}: {roll.shape[1]} steps ({roll.shape[1] / self.rate:g} s), accepted: {steps} or more; "
                "fit='pad' (--fit pad) adds silence"
            )
        return torch.nn.functional.pad(roll[:, :steps], (0, max(0, steps - roll.shape[1])))[None]

    def _whole(self, path: str | Path) -> Tensor:
        """A file as a roll [128, T]; ValueError in one line for whatever it is instead."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"roll: no file {str(path)!r}")
        if path.suffix.lower() not in INPUTS:
            raise ValueError(f"roll: got {str(path)!r}, accepted: a name that ends with {', '.join(INPUTS)}")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"roll {path}: {path.stat().st_size} bytes, at most {MAX_BYTES} accepted")
        try:
            if path.suffix.lower() == ".npy":
                return self._one(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False), "exact")[0]
            notes, seconds = midi.parse(path.read_bytes())
        except Exception as error:  # of a file that nobody vouches for
            words = " ".join(str(error).split())[:200]
            raise ValueError(f"roll {path}: {words or type(error).__name__}") from None
        if seconds * self.rate > MAX_BYTES:
            raise ValueError(f"roll {path}: lasts {seconds:.3g} s, accepted: up to {MAX_BYTES / self.rate:.3g}")
        roll = torch.zeros(PITCHES, min(round(seconds * self.rate), 64 * self.size[0]))
        for pitch, begin, end, velocity in notes:
            first = round(begin * self.rate)
            roll[pitch, first : max(first + 1, round(end * self.rate))] = velocity / 127
        return roll

    def changed(self, path: str | Path, fit: Fit) -> str:
        """See `Medium.changed`."""
        steps = self._whole(path).shape[1]
        if steps > self.size[0]:
            return f"its first {self.size[0] / self.rate:g} s are taken"
        return f"silence follows its {steps / self.rate:g} s" if steps < self.size[0] else ""

    def empty(self, n: int) -> Tensor:
        """Rolls of no steps."""
        return torch.zeros(n, PITCHES, 0)

    def check_out(self, path: str | Path, force: bool = False, how: Saving | None = None) -> None:
        """See `Medium.check_out`."""
        check_name(path, self.endings, force)

    def check_sheet(self, n: int, columns: int | None = None) -> None:
        """See `Medium.check_sheet`."""
        pictures.check_sheet(n, columns, (PITCHES, *self.size))

    def save(
        self,
        data: Tensor,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        how: Saving | None = None,
    ) -> Path:
        """All rolls in one .mid, one after another, or in one .png side by side."""
        how = how or Saving()
        self.check_out(path, force)
        if Path(path).suffix.lower() == ".png":
            return pictures.save_picture(self.sheet(data, how.columns, how.zoom), path, settings, force)
        roll = torch.cat(list(data), dim=1)
        text = json.dumps(dict(settings or {}), default=str)
        content = midi.written(self._notes(roll), roll.shape[1] / self.rate, text)
        return write_whole(path, lambda file: file.write(content), force)

    def _notes(self, roll: Tensor) -> list[midi.Note]:
        """What sounds with one velocity, from step to step, is one note."""
        loud = torch.where(roll >= QUIET, (roll * 127).round(), 0).cpu().int().tolist()
        notes: list[midi.Note] = []
        for pitch, row in enumerate(loud):
            begin = 0
            for step in range(1, len(row) + 1):
                if step == len(row) or row[step] != row[begin]:
                    if row[begin]:
                        notes.append((pitch, begin / self.rate, step / self.rate, row[begin]))
                    begin = step
        return notes

    def tiles(self, data: Tensor) -> tuple[Tensor, int | None]:
        """Each roll as a picture, high pitches above, dark on white."""
        return 1 - data.flip(1)[:, None], None

    def stills(self, data: Tensor) -> list[Image.Image]:
        """Each of them."""
        return [pictures.to_pil(picture) for picture in self.tiles(data)[0]]

    def sheet(self, data: Tensor, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """All of them, side by side."""
        return pictures.sheet(self.tiles(data)[0], columns, zoom)
