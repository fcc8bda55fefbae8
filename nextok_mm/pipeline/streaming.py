"""A generation as results that come one after another: the loop below `stream`, `generate` and a chat's answers."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..contracts import Generator, State
from ..decoding import decode
from ..decoding.previews import Preview
from ..media import Medium
from ..media.words import TextTokenizer
from .result import Result

MAX_STOPS, MAX_STOP = 64, 1000


@dataclass
class Run:
    """What is asked of one generation.

    preview: reads its states; name: of the checkpoint; condition: what each sample is asked for, for the results;
    begun: when the work began, as of time.perf_counter; decode_all: decode every state, not the last one alone; words:
    the text tokenizer, where the generator reads prompts.
    """

    generator: Generator[Any, Any]
    medium: Medium
    preview: Preview
    name: str
    seed: int
    condition: Mapping[str, Sequence[Any]]
    sampling: Mapping[str, Any]
    begun: float
    decode_all: bool = True
    words: TextTokenizer | None = None


def results(run: Run, first: State) -> Iterator[Result]:
    """The samples so far, after every entity; time that the caller spends in between is not counted."""
    generator, preview, started = run.generator, run.preview, run.begun
    seconds = {"generate": 0.0, "decode": 0.0}
    data = shown = run.medium.empty(len(first.data))
    for state in decode(generator, first):
        begun = time.perf_counter()
        seconds["generate"] += begun - started
        if state.done or preview.watches or (run.decode_all and preview.due(state.finished)):
            data = preview.decode(state)
            if rows := preview.stopped():
                state = generator.end(state, torch.tensor(rows, device=state.data.device))
        seconds["decode"] += time.perf_counter() - begun
        yield Result(
            data=data,
            added=run.medium.added(shown, data),
            medium=run.medium,
            name=run.name,
            seed=run.seed,
            condition={name: list(values) for name, values in run.condition.items()},
            tokens=preview.tokens(state) if state.done else None,
            remarks=generator.remarks(state, run.words) if state.done else None,
            sampling=dict(run.sampling),
            calls=getattr(state, "calls", 0),
            seconds=dict(seconds),
            backend=generator.backend,
            finished=state.finished,
            total=state.finished if state.done else state.total,  # texts end before they need to
        )
        shown, started = data, time.perf_counter()


def stops(given: Any) -> list[str]:
    """Stop words, one or several; ValueError in one line for what is none."""
    if given is None:
        return []
    words = list(cast(Iterable[Any], given)) if isinstance(given, list | tuple) else [given]
    if len(words) > MAX_STOPS:
        raise ValueError(f"stop: got {given!r:.80}, accepted: a text, or a list of at most {MAX_STOPS}")
    for word in words:
        if not isinstance(word, str) or not 0 < len(word) <= MAX_STOP:
            raise ValueError(f"stop: got {word!r:.80}, accepted: texts of 1 to {MAX_STOP} letters")
    return words
