"""Speech: how fast latents and sound come, how soon the first sound is there, and what memory a long stream takes.

    nextok bench speech                    the published shape of Pocket TTS at random weights
    nextok bench speech --model NAME       a checkpoint that speaks
    nextok bench speech --minutes 10       one stream of that length, with its memory at every tenth of it

Latents and sound are made one after the other here, on as many threads as torch has. A real-time factor is seconds of
work per second of sound; below 1 is faster than it is spoken.
"""

import resource
import statistics
import time
from typing import Any

import torch

from .. import registry
from ..decoding.sounds import Heard
from ..inference import inference
from ..machine import describe
from ..pipeline import load
from ..rng import Rng
from ..sequence.packed import packed
from .harness import options, shown

TEXT = "The quick brown fox jumps over the lazy dog, and nobody in the village knows what it was looking for."
IDS = 30
"""Tokens of the text that the published shape is timed with."""


def pocket() -> tuple[Any, Any, dict[str, Any]]:
    """The published shape with random weights, its codec, and a condition."""
    torch.manual_seed(0)
    generator = registry.build("generator", "flow_omni", {"size": "Pocket-TTS"}).eval()
    tokenizer = registry.build("tokenizer", "speech_vae", {"size": "pocket"}).eval()
    return generator, tokenizer, {"tokens": [list(range(IDS))], "voice": torch.randn(40, generator.config.channels)}


def stream(generator: Any, tokenizer: Any, condition: dict[str, Any], settings: Any, marks: int = 0) -> dict[str, Any]:
    """Speak, and time it: milliseconds to the first sound, per latent and per latent's sound, and the real-time factor.

    marks: how many times the peak of memory is noted on the way (MiB).
    """
    preview, latents, sounds, peaks = Heard(tokenizer), list[float](), list[float](), list[int]()
    with packed(generator), packed(tokenizer):
        began = time.perf_counter()
        state, first, samples = generator.start(condition, Rng([0]), settings), 0.0, 0
        while not state.done:
            at = time.perf_counter()
            with inference(generator):
                state = generator.step(state)
            latents.append(time.perf_counter() - at)
            at = time.perf_counter()
            heard = preview.decode(state).shape[2]
            sounds.append(time.perf_counter() - at)
            if heard > samples and not first:
                first = time.perf_counter() - began
            samples = heard
            if marks and len(latents) % max(state.total // marks, 1) == 0:
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        took = time.perf_counter() - began
    figures: dict[str, Any] = {
        "first sound ms": 1000 * first,
        "latent ms": 1000 * statistics.median(latents),
        "its sound ms": 1000 * statistics.median(sounds),
        "seconds of sound": samples / tokenizer.medium.rate,
        "real-time factor": took / (samples / tokenizer.medium.rate),
    }
    return figures | ({"peak MiB": peaks} if marks else {})


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = options("bench speech", __doc__, repeats=3)
    parser.add_argument("--model", help="a checkpoint that speaks; without it, Pocket TTS's shape")
    parser.add_argument("--text", default=TEXT, help="what a checkpoint says")
    parser.add_argument("--steps", type=int, help="flow steps per latent")
    parser.add_argument("--latents", type=int, default=60, help="latents of the shape at random weights (default 60)")
    parser.add_argument("--minutes", type=float, help="length of one stream whose memory is measured")
    given = parser.parse_args(arguments)
    print(f"speech, {torch.get_num_threads()} threads, fp32; {describe()}")
    fields: dict[str, Any] = {} if given.steps is None else {"steps": given.steps}
    if given.model:
        pipeline = load(given.model)
        generator, tokenizer = pipeline.generator, pipeline.tokenizer
        if generator is None or tokenizer is None or "tokens" not in generator.takes:
            raise ValueError(f"model: got {given.model}, accepted: a checkpoint that speaks")
        condition = pipeline.condition(1, text=given.text)
        fields = {**generator.config.sampling.model_dump(), **fields}
    else:
        generator, tokenizer, condition = pocket()
        fields |= {"stop_logit": 100.0, "tokens": given.latents, "pace": 0.1}
    if given.minutes:
        condition = {name: value for name, value in condition.items() if name == "voice"}
        count = round(given.minutes * 60 * generator.config.rate)
        fields |= {"stop_logit": 100.0, "tokens": count}
        print(shown(stream(generator, tokenizer, condition, generator.Sampling.parse(fields), marks=10)))
        return
    for _ in range(given.repeats):
        print(shown(stream(generator, tokenizer, condition, generator.Sampling.parse(fields))))
