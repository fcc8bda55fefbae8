"""Tokenizers of sound beside each other: what comes back of held-out recordings, and what it costs.

    nextok bench sounds NAME [NAME ...] --data FOLDER [--rows 50] [--out runs/sounds]

| figure | what                                                                                 | wants       |
|--------|--------------------------------------------------------------------------------------|-------------|
| mel    | mean distance of log-mel bands (dB) of frames in which there is something to hear    |             |
| stoi   | short-time objective intelligibility, 0 to 1                                         | `pystoi`    |
| pesq   | perceptual evaluation of speech quality (wide band), 1 to 4.6                        | `pesq`      |
| dnsmos | a listener's score as a network guesses it, 1 to 5; also of the recordings           | `speechmos` |
| rtf    | seconds of work per second of sound, decoding, on one thread                         |             |
| first  | milliseconds until the first sound of a stream, token by token                       |             |

Packages that are missing leave their figures out, and a line says so.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import from_pretrained
from ..contracts import StreamingTokenizer, Tokens
from ..data.speech import Config as Speech
from ..inference import inference
from ..media.sounds import resampled
from .harness import options, shown, write_json

Figure = Callable[[np.ndarray, np.ndarray], float]
RATE = 16_000  # at which listeners' scores are computed


def main(arguments: list[str]) -> None:
    """Measure each tokenizer, and print a line of figures as it is there."""
    parser = options("bench sounds", __doc__, out="runs/sounds")
    parser.add_argument("names", nargs="+", help="tokenizers: names of shipped ones, or folders")
    parser.add_argument("--data", required=True, help="folder of recordings that none of them has seen")
    parser.add_argument("--rows", type=int, default=50, help="number of recordings")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    listeners, figures = dict(_listeners()), dict[str, Any]()
    for name in given.names:
        figures[name] = _measured(name, given, listeners)
        print(f"{name:32s} {shown(figures[name])}", flush=True)
        write_json(given.out / "sounds.json", figures)


def _measured(name: str, given: argparse.Namespace, listeners: dict[str, Figure]) -> dict[str, float]:
    """The figures of one tokenizer."""
    model, _ = from_pretrained(name, role="tokenizer")
    if not isinstance(model, StreamingTokenizer) or model.medium.name != "sound":
        raise ValueError(f"bench sounds: {name} is a {model.kind}, accepted: tokenizers of sound")
    medium: Any = model.medium
    source = Speech(path=given.data, rate=medium.rate, channels=medium.channels, size=1, rows=given.rows).open()
    found: dict[str, list[float]] = {}
    spent = heard = 0.0
    with inference(model):
        for row in range(len(source)):
            sound = source.sound(row)
            tokens = model.encode(sound)
            started = time.perf_counter()
            made = model.decode(tokens)[..., : sound.shape[2]]
            spent, heard = spent + time.perf_counter() - started, heard + sound.shape[2] / medium.rate
            found.setdefault("first", []).append(1000 * _first(model, tokens))
            found.setdefault("mel", []).append(mel_distance(made, sound, medium.rate))
            pair = [resampled(x, medium.rate, RATE).mean((0, 1)).numpy() for x in (made, sound)]
            for figure, listen in listeners.items():
                found.setdefault(figure, []).append(listen(*pair))
    means = {figure: statistics.fmean(values) for figure, values in found.items()}
    return {**means, "rtf": spent / heard, "tokens a second": medium.rate / _samples(model)}


def _samples(model: Any) -> int:
    return int(model.samples_per_token)


def _first(model: StreamingTokenizer[Any], tokens: Tokens) -> float:
    """Seconds until a stream of single tokens gives sound."""
    started, carry = time.perf_counter(), model.carry()
    for token in tokens.data.split(1, dim=1):
        if model.decode_more(token, carry).numel():
            return time.perf_counter() - started
    model.decode_end(carry)
    return time.perf_counter() - started


def mel_distance(made: Tensor, sound: Tensor, rate: int) -> float:
    """Mean absolute distance of 80 log-mel bands (dB), of frames less than 60 dB below the loudest one.

    Frames of 50 ms, 12.5 ms apart; bands from 0 Hz to half the rate, floored 60 dB below the loudest.
    """
    window, hop = round(rate * 0.05) // 2 * 2, round(rate * 0.0125)
    filters = torch.from_numpy(_filters(rate, window, 80)).float()

    def bands(x: Tensor) -> Tensor:
        frames = torch.nn.functional.pad(x.mean((0, 1)), (window // 2, window // 2)).unfold(0, window, hop)
        return torch.fft.rfft(frames * torch.hann_window(window)).abs() @ filters.T

    mine, theirs = bands(made), bands(sound)
    floor = float(theirs.max()) * 1e-3 + 1e-9
    logs = [20 * x.clamp(min=floor).log10() for x in (mine, theirs)]
    heard = theirs.amax(1) > floor
    return float((logs[0] - logs[1]).abs()[heard].mean()) if bool(heard.any()) else 0.0


def _filters(rate: int, window: int, bands: int) -> np.ndarray:
    """[M, K] triangles, equally wide on the mel scale up to half the rate."""
    points = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), bands + 2) / 2595) - 1)
    hertz = np.arange(window // 2 + 1) * rate / window
    left, middle, right = points[:-2, None], points[1:-1, None], points[2:, None]
    return np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)).clip(0)


def _listeners() -> Iterable[tuple[str, Figure]]:
    """What judges two sounds at 16 kHz, made and as it was, of those that are installed."""
    try:
        from pystoi import stoi  # type: ignore[import-not-found]

        yield "stoi", lambda made, was: float(stoi(was, made, RATE))
    except ImportError:
        print("stoi is left out: pip install pystoi")
    try:
        from pesq import NoUtterancesError, pesq  # type: ignore[import-not-found]

        def score(made: np.ndarray, was: np.ndarray) -> float:
            try:
                return float(pesq(RATE, was, made, "wb"))
            except NoUtterancesError:  # it hears nobody speak
                return 1.0

        yield "pesq", score
    except ImportError:
        print("pesq is left out: pip install pesq")
    try:
        from speechmos import dnsmos  # type: ignore[import-not-found]

        def guessed(x: np.ndarray) -> float:
            return float(dnsmos.run(x.clip(-1, 1), RATE)["ovrl_mos"])

        yield "dnsmos", lambda made, was: guessed(made)
        yield "dnsmos as it was", lambda made, was: guessed(was)
    except ImportError:
        print("dnsmos is left out: pip install speechmos librosa")
