"""Sounds in and out: WAV, FLAC, OGG and MP3 through libsndfile, WAV and FLAC out; shown as waveform over spectrogram.

What comes in is untrusted: length, rate and channels are read from the header before a sample is decoded, and no more
is decoded than that allows. What goes out is written in one move and never silently replaces a file.

Sounds are float [B, C, T] in [-1, 1] (C channels, T samples of one channel).
"""

import base64
import io
import json
import logging
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..files import check_name, in_line, write_whole
from . import pictures
from .arrays import as_tensor
from .medium import STDOUT, Fit, Medium, Saving, png

_log = logging.getLogger(__name__)
ENDINGS = (".wav", ".flac", ".png")
INPUTS = (".wav", ".flac", ".ogg", ".oga", ".mp3")
MAX_BYTES = 1 << 30
MAX_SECONDS = 1200
"""Of one sound; longer ones are cut by other programs first."""
MAX_CHANNELS = 16
RATES = (1000, 768_000)
TOLERANCE = 1e-3
PAUSE = 0.25  # seconds of silence between the sounds of one file
WIDTH, WAVE, BANDS = 768, 64, 128  # of the picture of a sound: columns, rows of its waveform and of its spectrogram


@dataclass(frozen=True)
class Sounds(Medium):
    """Sounds [B, C, T] in [-1, 1].

    Attributes:
        rate: Sample rate (samples per second), to which files are brought.
        channels: Number of channels; files of more are mixed down to one, and one is copied to several.
        size: (T,), the length of the sounds that a tokenizer was trained on. Files keep their own length.
    """

    rate: int = 24_000
    channels: int = 1  # type: ignore[assignment]
    size: tuple[int] = (24_000,)  # type: ignore[assignment]
    name: ClassVar[str] = "sound"
    plural: ClassVar[str] = "sounds"
    out: ClassVar[str] = "out.wav"
    endings: ClassVar[tuple[str, ...]] = ENDINGS
    temporal: ClassVar[bool] = True
    axes: ClassVar[tuple[str, ...]] = ("channels", "samples")
    rank: ClassVar[int] = 3
    low: ClassVar[float] = -1.0

    def take(self, given: Any, fit: Fit = "exact") -> Tensor:
        """Bring sounds in any form to [B, C, T]; see `Medium.take`.

        Args:
            given: Names of files; tensors or arrays of floats in [-1, 1] or of 16-bit numbers, [T], [C, T], [T, C] or
                [B, C, T], at this medium's rate; pairs (rate, array); or a list of those.
            fit: What happens to sounds of different lengths in one list: `exact` refuses them, `crop` cuts them to the
                shortest, `pad` adds silence up to the longest.

        Returns:
            The sounds.

        Raises:
            ValueError: What was given is none of those forms, or of other numbers.
        """
        if fit not in get_args(Fit):
            raise ValueError(f"fit: got {fit!r}, accepted: {', '.join(get_args(Fit))}")
        listed = isinstance(given, list) or (isinstance(given, tuple) and not _is_pair(given))
        parts = [self._one(part) for part in (given if listed else [given])]
        if not parts:
            raise ValueError("sounds: got none in the list, accepted: at least one")
        lengths = [part.shape[2] for part in parts]
        if fit == "exact" and len(set(lengths)) > 1:
            got = " and ".join(f"{length / self.rate:.3f} s" for length in sorted(set(lengths))[:2])
            raise ValueError(
                f"sounds: got {got} in one list, accepted: all of one length; fit='crop' (--crop) cuts them to the "
                "shortest, fit='pad' (--fit pad) adds silence"
            )
        length = max(lengths) if fit == "pad" else min(lengths)
        return torch.cat([F.pad(part[:, :, :length], (0, max(0, length - part.shape[2]))) for part in parts])

    def _one(self, given: Any) -> Tensor:
        if isinstance(given, str | Path):
            return self.read(given)
        if _is_pair(given):
            return self._channels(resampled(_numbers(given[1]), _rate(given[0]), self.rate))
        if not isinstance(given, Tensor) and not hasattr(given, "__array__"):
            raise ValueError(
                f"sounds: got {type(given).__name__}, accepted: a tensor, an array, a pair (rate, array), a file's "
                "name, or a list of those"
            )
        return self._channels(_numbers(given))

    def _channels(self, sounds: Tensor) -> Tensor:
        """Mixed down to one channel, or one copied to several."""
        got = sounds.shape[1]
        if got != self.channels:
            sounds = sounds.mean(1, keepdim=True).expand(-1, self.channels, -1).contiguous()
        return sounds

    def read(self, path: str | Path, fit: Fit = "exact", frames: int | None = None) -> Tensor:
        """Read a file at this medium's rate and channels.

        Args:
            path: Name of a WAV, FLAC, OGG or MP3 file.
            fit: Not used: a sound by itself keeps its length.
            frames: Number of samples to read from the beginning; None reads all.

        Returns:
            The sound [1, C, T] in [-1, 1].

        Raises:
            ValueError: The file is missing, empty, damaged, truncated, too long or no sound, or a package is missing.
        """
        seconds = None if frames is None else frames / self.rate
        sound, rate = read_sound(path, seconds)
        made = self._channels(resampled(sound, rate, self.rate))
        if frames is not None and made.shape[2] < frames - 1:
            raise ValueError(
                f"sound {in_line(path)}: {made.shape[2]} samples at {self.rate} Hz, accepted: {frames} or more"
            )
        return made if frames is None else F.pad(made, (0, max(0, frames - made.shape[2])))[:, :, :frames]

    def changed(self, path: str | Path, fit: Fit) -> str:
        """Nothing that `fit` decides: a sound by itself keeps its length."""
        return ""

    def empty(self, n: int) -> Tensor:
        """Sounds of no samples."""
        return torch.zeros(n, self.channels, 0)

    def added(self, before: Tensor, now: Tensor) -> Tensor:
        """The samples at the end of each."""
        return now[:, :, before.shape[2] :]

    def check_out(self, path: str | Path, force: bool = False, how: Saving | None = None) -> None:
        """See `Medium.check_out`."""
        if str(path) == STDOUT:
            return
        check_name(path, ENDINGS, force)
        if Path(path).suffix.lower() != ".png":
            _soundfile()

    def raw(self, samples: Tensor, first: bool = True) -> bytes:
        """A WAV file of 16 bits as a stream, whose header says that nobody knows how long it is."""
        sounds = samples.detach().cpu().float().clamp(-1, 1)
        numbers = (sounds.permute(0, 2, 1).reshape(-1) * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()
        if not first:
            return numbers
        frame = 2 * self.channels
        form = struct.pack("<HHIIHH", 1, self.channels, self.rate, self.rate * frame, frame, 16)
        unknown = struct.pack("<I", 0xFFFFFFFF)
        return b"RIFF" + unknown + b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + unknown + numbers

    def check_sheet(self, n: int, columns: int | None = None) -> None:
        """See `Medium.check_sheet`."""
        pictures.check_sheet(n, columns or 1, (WAVE + BANDS, WIDTH), 1)

    def save(
        self,
        data: Tensor,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        force: bool = False,
        how: Saving | None = None,
    ) -> Path:
        """All sounds one after another in one .wav or .flac of 16 bits, or as pictures in one .png.

        `settings` go into the file's comment, as JSON.
        """
        how = how or Saving()
        self.check_out(path, force)
        if Path(path).suffix.lower() == ".png":
            return pictures.save_picture(self.sheet(data, how.columns, how.zoom), path, settings, force)
        _check(data)
        pause = torch.zeros(data.shape[1], round(PAUSE * self.rate))
        parts = [part for sound in data.detach().cpu().float() for part in (pause, sound)][1:]
        content = encoded(torch.cat(parts, dim=1), self.rate, Path(path).suffix.lower(), settings)
        return write_whole(path, lambda file: file.write(content), force)

    def tiles(self, data: Tensor) -> tuple[Tensor, int | None]:
        """Each sound as a picture of its waveform over its spectrogram, one below the other."""
        _check(data)
        return torch.stack([portrait(sound, self.rate) for sound in data]), 1

    def stills(self, data: Tensor) -> list[Image.Image]:
        """Each sound as such a picture."""
        return [pictures.to_pil(tile) for tile in self.tiles(data)[0]]

    def sheet(self, data: Tensor, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """All pictures in one, below each other unless `columns` says otherwise."""
        return pictures.sheet(self.tiles(data)[0], columns or 1, zoom or 1)

    def shown(self, data: Tensor) -> Mapping[str, bytes | str]:
        """A player for each sound, and below it its picture."""
        parts = []
        for sound, picture in zip(data, self.stills(data)):
            wav = base64.b64encode(encoded(sound, self.rate, ".wav")).decode()
            image = base64.b64encode(png(picture)).decode()
            parts.append(
                f'<div><audio controls src="data:audio/wav;base64,{wav}"></audio><br>'
                f'<img alt="waveform and spectrogram" src="data:image/png;base64,{image}"></div>'
            )
        return {"text/html": "".join(parts), "image/png": png(self.sheet(data))}


def header(path: str | Path) -> tuple[float, int, int]:
    """(seconds, rate, channels) of a sound file, by its header alone.

    ValueError in one line where it is missing, too large, too long or no sound.
    """
    path = _checked(path)
    with _opened(path) as file:
        return file.frames / file.samplerate, file.samplerate, file.channels


def read_sound(path: str | Path, seconds: float | None = None, start: float = 0.0) -> tuple[Tensor, int]:
    """A file's sound [1, C, T] in [-1, 1], in its own channels, and its rate (samples per second).

    seconds: how much to read (None: all); start: seconds into the file. Louder numbers than 1, as MP3 and files of
    floats have them, are cut. ValueError as of `header`, and where the file ends before it says it does.
    """
    path = _checked(path)
    with _opened(path) as file:
        rate, first = file.samplerate, round(start * file.samplerate)
        left = file.frames - first
        wanted = left if seconds is None else min(left, math.ceil(seconds * rate) + 1)
        if wanted < 1:
            raise ValueError(f"sound {in_line(path)}: {max(0, left)} samples, accepted: 1 or more")
        try:
            if first:
                file.seek(first)
            numbers = file.read(wanted, dtype="float32", always_2d=True)
        except (RuntimeError, OSError) as error:
            raise _damaged(path, error) from None
    # An MP3 without a count of its frames is measured by its size, and may hold a little less.
    if len(numbers) < wanted * (0.9 if path.suffix.lower() == ".mp3" else 1) or not len(numbers):
        raise ValueError(f"sound {in_line(path)}: truncated, {len(numbers)} of {wanted} samples are there")
    sound = torch.from_numpy(numbers).T[None].contiguous()
    if not bool(sound.isfinite().all()):
        raise ValueError(f"sound {in_line(path)}: NaN or infinity in it, accepted: finite numbers")
    loud = float((sound.abs() > 1).float().mean())
    if loud > 0.001:
        _log.warning("sound %s: %.1f %% of its samples are beyond [-1, 1] and are cut", in_line(path), 100 * loud)
    return sound.clamp(-1, 1), rate


def resampled(sounds: Tensor, rate: int, wanted: int) -> Tensor:
    """Sounds [B, C, T] at another rate, without aliasing; ValueError where soxr is missing."""
    if rate == wanted:
        return sounds
    try:
        import soxr
    except ImportError:
        raise ValueError("sounds of another rate need soxr: pip install 'nextok_mm[audio]'") from None
    made = [soxr.resample(sound.T.numpy(), rate, wanted, "HQ") for sound in sounds.detach().cpu().float()]
    if not len(made[0]):
        raise ValueError(f"sounds: got {sounds.shape[2]} samples at {rate} Hz, accepted: one or more at {wanted} Hz")
    return torch.stack([torch.from_numpy(np.ascontiguousarray(each.T)) for each in made]).clamp(-1, 1)


def encoded(sound: Tensor, rate: int, ending: str = ".wav", settings: Mapping[str, Any] | None = None) -> bytes:
    """One sound [C, T] in [-1, 1] as the bytes of a WAV or FLAC file of 16 bits, cut where it is louder."""
    soundfile, buffer = _soundfile(), io.BytesIO()
    numbers = sound.detach().cpu().float().clamp(-1, 1).T.numpy()
    kind = {".wav": "WAV", ".flac": "FLAC"}[ending]
    with soundfile.SoundFile(buffer, "w", rate, numbers.shape[1], "PCM_16", format=kind) as file:
        if settings:
            file.comment = json.dumps(dict(settings), default=str)
        file.write(numbers)
    return buffer.getvalue()


def portrait(sound: Tensor, rate: int, width: int = WIDTH) -> Tensor:
    """A sound [C, T] as a picture [3, 192, width] in [0, 1]: its waveform over its spectrogram.

    Time runs to the right over the whole width. Frequencies run up to half the rate, spread as pitch is heard (mel);
    100 dB lie between black and white.
    """
    mono = sound.detach().cpu().float().mean(0)
    return torch.cat((_waveform(mono, width), _spectrogram(mono, rate, width)), dim=1)


def _waveform(mono: Tensor, width: int) -> Tensor:
    """[T] -> [3, WAVE, width]: from the least to the greatest number of each column's samples, blue on white."""
    parts = F.interpolate(mono[None, None], size=width)[0] if len(mono) < width else mono[None]
    high, low = (F.adaptive_max_pool1d(sign * parts, width)[0] * sign for sign in (1, -1))
    rows = torch.linspace(1, -1, WAVE)[:, None]
    inked = (rows <= high.clamp(-1, 1) + 1 / WAVE) & (rows >= low.clamp(-1, 1) - 1 / WAVE)
    return torch.where(inked, torch.tensor([0.12, 0.3, 0.65])[:, None, None], 1.0)


def _spectrogram(mono: Tensor, rate: int, width: int) -> Tensor:
    """[T] -> [3, BANDS, width]."""
    window = max(64, 1 << round(math.log2(rate * 0.04)))
    hop = max(1, math.ceil(len(mono) / width))
    padded = F.pad(mono, (window // 2, window))
    frames = padded.unfold(0, window, hop)[: max(1, math.ceil(len(mono) / hop))]
    power = torch.fft.rfft(frames * torch.hann_window(window)).abs().square() / window
    top = 2595 * math.log10(1 + rate / 2 / 700)
    hertz = 700 * (10 ** (torch.linspace(0, top, BANDS) / 2595) - 1)
    bins = (hertz / rate * window).clamp(0, window // 2)
    below = bins.floor().long().clamp(max=window // 2 - 1)
    share = bins - below
    level = 10 * torch.log10(power[:, below] * (1 - share) + power[:, below + 1] * share + 1e-10)
    heat = ((level - level.amax().clamp(min=-40) + 80) / 80).clamp(0, 1).T.flip(0)
    heat = F.interpolate(heat[None], size=width, mode="nearest")[0]
    return torch.stack([(heat * 2.2 - 0.2).clamp(0, 1), (heat * 2 - 0.9).clamp(0, 1), (0.35 * heat + heat**6)]).clamp(
        0, 1
    )


def _numbers(given: Any) -> Tensor:
    """A tensor or an array as floats [B, C, T]; ValueError in one line for another shape or other numbers."""
    x = as_tensor("sounds", given)
    shape = tuple(x.shape)
    if x.dim() == 1:
        x = x[None, None]
    elif x.dim() == 2:  # the short axis is that of channels, and people have it first or last
        last = shape[1] <= MAX_CHANNELS < shape[0] or (not isinstance(given, Tensor) and shape[1] <= 2 < shape[0])
        x = (x.T if last else x)[None]
    if x.dim() != 3 or not x.numel() or x.shape[1] > MAX_CHANNELS:
        raise ValueError(
            f"sounds: got shape {shape}, accepted: [T], [channels, T] or [B, channels, T], up to {MAX_CHANNELS} "
            "channels and one sample or more"
        )
    if x.dtype == torch.int16:
        return x.float() / 32_768
    if not x.is_floating_point():
        raise ValueError(f"sounds: got {x.dtype}, accepted: floating point in [-1, 1], or 16-bit numbers (int16)")
    if not bool(x.isfinite().all()):
        raise ValueError("sounds: got NaN or infinity, accepted: numbers in [-1, 1]")
    peak = float(x.abs().max())
    if peak > 1 + TOLERANCE:
        help_ = "; divide them by 32768" if 2 < peak <= 32_768 else f"; sounds / {peak:.4g} brings them there"
        raise ValueError(f"sounds: got numbers up to {peak:.4g}, accepted: numbers in [-1, 1]{help_}")
    return x.float().clamp(-1, 1).contiguous()


def _is_pair(given: Any) -> bool:
    """Whether this is (rate, array), as SciPy and Gradio have sounds."""
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[0], int)
        and (isinstance(given[1], Tensor) or hasattr(given[1], "__array__"))
    )


def _rate(rate: int) -> int:
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"sounds: got a rate of {rate} Hz, accepted: {RATES[0]} to {RATES[1]}")
    return rate


def _check(data: Tensor) -> None:
    if data.dim() != 3 or not data.numel():
        raise ValueError(f"sounds: got shape {tuple(data.shape)}, accepted: [n, channels, samples], none of them 0")


def _soundfile() -> Any:
    """The module `soundfile`; ValueError says how to install it."""
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: it is there, and its library isn't
        raise ValueError("sound files need soundfile: pip install 'nextok_mm[audio]'") from None
    return soundfile


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"sound: no file {str(path)!r}")
    if path.suffix.lower() not in INPUTS:
        raise ValueError(f"sound: got {str(path)!r}, accepted: a name that ends with {', '.join(INPUTS)}")
    length = path.stat().st_size
    if length > MAX_BYTES:
        raise ValueError(f"sound {in_line(path)}: {length} bytes, at most {MAX_BYTES} accepted")
    if not length:
        raise ValueError(f"sound {in_line(path)}: an empty file, accepted: a sound")
    return path


def _opened(path: Path) -> Any:
    """The open file, whose header is within all bounds."""
    soundfile = _soundfile()
    try:
        file = soundfile.SoundFile(str(path))
    except (RuntimeError, OSError, TypeError) as error:
        raise _damaged(path, error) from None
    seconds = file.frames / max(1, file.samplerate)
    problem = ""
    if not RATES[0] <= file.samplerate <= RATES[1]:
        problem = f"{file.samplerate} Hz, accepted: {RATES[0]} to {RATES[1]}"
    elif not 1 <= file.channels <= MAX_CHANNELS:
        problem = f"{file.channels} channels, accepted: 1 to {MAX_CHANNELS}"
    elif seconds > MAX_SECONDS:
        problem = f"{seconds / 60:.4g} minutes, accepted: up to {MAX_SECONDS // 60}; cut it into pieces first"
    elif (missing := _missing(path)) > 0:
        problem = f"truncated, its last {missing} bytes are missing"
    if problem:
        file.close()
        raise ValueError(f"sound {in_line(path)}: {problem}")
    return file


def _missing(path: Path) -> int:
    """How many bytes of its sound a WAV file announces and lacks; 0 where it says nothing (a recorded stream)."""
    with path.open("rb") as file:
        start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return 0
        end = path.stat().st_size
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                return 0 if length >= 0xFFFFFF00 else max(0, file.tell() + length - end)
            file.seek(length + length % 2, 1)
    return 0


def _damaged(path: Path, error: Exception) -> ValueError:
    words = " ".join(str(error).split()).rpartition(": ")[2][:120]
    return ValueError(f"sound {in_line(path)}: damaged, truncated or no sound ({words})")
