"""Is what a model says what it was asked to say? Word errors of a recognizer, beside those of a teacher.

The sentences are of our own grammar (`data.sentences`), from a seed that nothing was trained on, so no text of others
is needed; the teacher reads the very same ones. Numbers in words and in digits are the same words (`transcripts`). A
recognizer makes mistakes of its own, above all with single words and with strings of rare ones: what counts is the
distance to the teacher.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import fingerprint
from ..data.sentences import sentences
from ..data.teacher_speech import RATE, Teacher, words
from ..features.recognizer import Recognizer
from ..media import Sounds
from ..pipeline import load, settings_of
from ..pipeline.inputs import whole
from ..rng import mix
from .cache import remembered
from .transcripts import error_rate, heard

SHORT = 4
"""Words of a sentence that counts as short."""
UNSEEN = 1000
"""Seed of the sentences; teacher speech for training is made with others."""


def evaluate(
    name: str,
    n: int = 100,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    baselines: bool = True,
    progress: bool = True,
    read: Callable[[Sequence[Tensor], int], list[str]] | None = None,
) -> dict[str, Any]:
    """Word error rates of a model that speaks, beside its teacher's.

    Args:
        name: Name of a checkpoint.
        n: Number of sentences.
        seed: Seed of the speech.
        sampling: Settings that replace the checkpoint's own.
        tokenizer: What replaces the tokenizer that the checkpoint names.
        baselines: Have the teacher read the sentences too.
        progress: Show a bar on the terminal.
        read: What writes down sounds [T] of a rate; None takes `Recognizer`.

    Returns:
        The figures and their protocol, as `quality.report` shows them.

    Raises:
        ValueError: The checkpoint doesn't speak, a setting is not accepted, or a package is missing.
    """
    started, n, seed = time.monotonic(), whole("n", n, 1), whole("seed", seed)
    pipeline = load(name, tokenizer)
    medium = pipeline.medium if pipeline.generator is not None else None
    if not isinstance(medium, Sounds) or pipeline.words is None:
        raise ValueError(f"{name}: a model that speaks is accepted here, got {pipeline.card.kind}")
    settings_of(pipeline.generator, dict(sampling or {}))  # a wrong one is refused before the work
    recognizer = None if read else Recognizer()
    read = read or recognizer.read  # type: ignore[union-attr]
    texts, took = list(sentences(n, UNSEEN, words())), [0.0, 0.0]

    def spoken() -> Iterator[Tensor]:
        for row, text in enumerate(texts):
            result = pipeline.generate(text=text, seed=mix(seed, row), **(sampling or {}))
            took[0] += sum(result.seconds.values())
            took[1] += result.data.shape[2] / medium.rate
            yield result.data[0].mean(0)

    def written(what: str, sounds: Iterator[Tensor], rate: int) -> list[str]:
        bar = tqdm(sounds, total=n, unit="sentence", desc=what, disable=not progress, leave=False)
        return [read([sound], rate)[0] for sound in bar]

    found = {pipeline.card.name: figures(texts, written(pipeline.card.name, spoken(), medium.rate))}
    found[pipeline.card.name]["real-time factor"] = took[0] / max(took[1], 1e-9)
    if baselines:
        key = ("teacher", UNSEEN, n, type(recognizer).__name__, getattr(recognizer, "name", ""))
        texts_of_teacher: Callable[[], Any] = lambda: written("teacher", _taught(texts), RATE)  # noqa: E731
        heard_of_teacher = texts_of_teacher() if recognizer is None else _kept(key, texts_of_teacher)
        found["teacher"] = figures(texts, heard_of_teacher)
    protocol = {
        "sentences": f"{n} of the grammar, seed {UNSEEN}",
        "short": f"at most {SHORT} words",
        "recognizer": getattr(recognizer, "name", "given"),
        "seed": seed,
        "sampling": settings_of(pipeline.generator, dict(sampling or {})).model_dump(mode="json"),
        "generator": fingerprint(pipeline.generator),
        "tokenizer": fingerprint(pipeline.tokenizer),
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started, 1),
    }
    card = pipeline.card
    spaces = {row: {"words": values} for row, values in found.items()}
    return {"name": card.name, "role": card.role, "kind": card.kind, "figures": spaces, "protocol": protocol}


def figures(texts: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """Word error rates in percent: of all sentences, of those that aren't short, and of the short ones."""
    pairs = list(zip(texts, found, strict=True))
    groups = {
        "all": pairs,
        "long": [pair for pair in pairs if len(heard(pair[0])) > SHORT],
        "short": [pair for pair in pairs if len(heard(pair[0])) <= SHORT],
    }
    rates = {f"WER {group} %": 100 * error_rate(*zip(*rows))[0] for group, rows in groups.items() if rows}
    return rates | {"silent": float(sum(not heard(text) for text in found))}


def _taught(texts: Sequence[str]) -> Iterator[Tensor]:
    """What the teacher makes of the sentences."""
    teacher = Teacher()
    for row, text in enumerate(texts):
        parts = [
            torch.from_numpy(teacher.speak(part, mix(row, place))[0])
            for place, part in enumerate(teacher.phonemes(text))
        ]
        yield torch.cat(parts).float()


def _kept(key: tuple[Any, ...], made: Callable[[], list[str]]) -> list[str]:
    """What was heard of the teacher, which depends on no model of ours: kept on disk, as bytes."""
    data = remembered(key, lambda: {"texts": torch.tensor(list("\n".join(made()).encode()), dtype=torch.uint8)})
    return bytes(data["texts"].tolist()).decode().split("\n")
