"""How likely given texts are to a language model: log-probabilities, in nats, of each of their tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..media import Words
from ..sequence.packed import packed

if TYPE_CHECKING:
    from .core import Pipeline

AT_ONCE = 8192
"""Tokens that are read in one pass, filled up as its rows are."""


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of texts, in natural logarithms.

    Attributes:
        texts: The texts.
        name: Name of the checkpoint.
        given: What stood before each text, and was not scored; None where nothing was given.
        tokens: The tokens of each text that were scored: all, or but the first one of a model that begins with nothing.
        pieces: The same as text, token by token; a part of a letter is shown as U+FFFD.
        logprobs: The log-probability of each of them, given all before it.
    """

    texts: list[str]
    name: str
    given: list[str] | None
    tokens: list[list[int]]
    pieces: list[list[str]]
    logprobs: list[list[float]]

    @property
    def totals(self) -> list[float]:
        """The log-probability of each text: the sum over its tokens."""
        return [math.fsum(row) for row in self.logprobs]

    @property
    def bits_per_byte(self) -> list[float]:
        """What each text costs, in bits per byte of its UTF-8: comparable between models of other tokens."""
        sizes = (len(text.encode()) for text in self.texts)
        return [-total / math.log(2) / size for total, size in zip(self.totals, sizes)]

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)

    def __iter__(self) -> Iterator[float]:
        """The log-probability of each text."""
        return iter(self.totals)

    def __repr__(self) -> str:
        """One line: how many texts, and what they cost."""
        totals = ", ".join(f"{total:.2f}" for total in self.totals[:3]) + ", ..." * (len(self) > 3)
        return f"<Scores: {Words().words(len(self))} by {self.name}, log-probabilities [{totals}]>"

    def plain(self) -> list[dict[str, Any]]:
        """Describe the scores as plain data, such as JSON holds.

        Returns:
            For every text its log-probability, and those of its tokens.
        """
        return [
            {
                "text": text,
                "given": self.given and self.given[row],
                "logprob": self.totals[row],
                "bits_per_byte": self.bits_per_byte[row],
                "tokens": [
                    {"id": token, "text": piece, "logprob": logprob}
                    for token, piece, logprob in zip(self.tokens[row], self.pieces[row], self.logprobs[row])
                ],
            }
            for row, text in enumerate(self.texts)
        ]


def score(pipeline: "Pipeline", text: Any, given: Any = None) -> Scores:
    """The scores of texts, each after what is `given` (one for all, or one for each); see `Pipeline.score`."""
    generator, words = writer(pipeline, "score")
    texts = Words().take(text)
    before = None if given is None else Words().take(given)
    if before is not None and len(before) not in (1, len(texts)):
        raise ValueError(f"given: got {len(before)} texts, accepted: one, or {len(texts)}, one for each that is scored")
    contexts, tokens = list[list[int]](), list[list[int]]()
    for row, each in enumerate(texts):
        context = [generator.before] if generator.before is not None else []
        if before is not None:
            context = words.prompt(before[row % len(before)], generator.longest_prompt)
        tokens.append(words.prompt(each, generator.longest_prompt + 1 - len(context), begin=False))
        contexts.append(context or tokens[row][:1])
        tokens[row] = tokens[row][not context :]
    found = logprobs(generator, contexts, tokens)
    pieces = [[words.decode([token]) for token in row] for row in tokens]
    given = None if before is None else [before[row % len(before)] for row in range(len(texts))]
    return Scores(texts, pipeline.card.name, given, tokens, pieces, found)


def logprobs(generator: Any, contexts: Sequence[list[int]], tokens: Sequence[list[int]]) -> list[list[float]]:
    """The log-probability of each token of each row, after the row's context of one token or more."""
    order = sorted(range(len(tokens)), key=lambda row: len(contexts[row]) + len(tokens[row]))
    found: list[list[float]] = [[] for _ in tokens]
    with packed(generator):
        while order:
            longest = len(contexts[order[-1]]) + len(tokens[order[-1]])
            rows = [order.pop() for _ in range(min(len(order), max(1, AT_ONCE // longest)))]
            whole = [torch.tensor(contexts[row] + tokens[row], device=generator.device) for row in rows]
            # What fills up a row stands behind it, where nothing of the row can see it.
            each = generator.logprobs(torch.stack([F.pad(row, (0, longest - len(row))) for row in whole]))
            for row, values in zip(rows, each.double().tolist()):
                first = len(contexts[row]) - 1
                found[row] = values[first : first + len(tokens[row])]
    return found


def writer(pipeline: "Pipeline", verb: str) -> Any:
    """The generator and the text tokenizer of a pipeline that writes texts; ValueError in one line for any other."""
    if not hasattr(pipeline, "tasks"):
        raise ValueError(f"{verb}: got {pipeline!r:.80}, accepted: a pipeline, which nextok_mm.load(name) gives")
    if "score" not in pipeline.tasks:
        raise ValueError(f"{verb}: {pipeline.card.name} is no language model, accepted: {', '.join(pipeline.tasks)}")
    return pipeline.generator, pipeline.words
