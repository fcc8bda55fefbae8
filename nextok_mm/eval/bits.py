"""Bits a byte: how short a language model, or a model of n-grams, would make a text.

Every token is predicted once, the one that ends a document among them; what begins it is given. A document that is
longer than the model's context is read in windows that overlap, and each token is scored in the first that holds it, so
that all but a document's first tokens have `context - stride` tokens or more before them.

Shapes: B windows, N tokens of a window, V vocabulary.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F

from ..contracts import Generator
from ..data.text import ends
from ..media.words import TextTokenizer

BATCH = 8


def bits_per_byte(
    model: Generator, words: TextTokenizer, texts: Iterable[str], stride: int | None = None, batch: int = BATCH
) -> dict[str, float]:
    """Measure a language model on texts.

    Args:
        model: The language model.
        words: Its text tokenizer.
        texts: The documents.
        stride: Tokens between the beginnings of two windows; None takes half of the model's context.
        batch: How many windows are computed at a time.

    Returns:
        `bits a byte`, and the `bytes`, `tokens` and `documents` that it is of, `nats a token` and `bytes a token`.

    Raises:
        ValueError: There is no text, or the stride isn't accepted.

    Example:
        >>> import nextok_mm as nx
        >>> from nextok_mm import registry
        >>> from nextok_mm.eval.bits import bits_per_byte
        >>> from nextok_mm.media.words import Bytes
        >>> untrained = registry.build("generator", "language", {"size": "tiny", "vocabulary": 258})
        >>> 7 < bits_per_byte(untrained, Bytes(), ["one text", "another"])["bits a byte"] < 10
        True
    """
    context = int(model.config.context)
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride < context:
        raise ValueError(f"stride: got {stride}, accepted: 1 to {context - 1} (the model's context is {context})")
    if words.size > (most := int(model.config.vocabulary)):
        raise ValueError(f"words: got {words.size} different tokens, accepted: {most} as the model has, or fewer")
    size = documents = tokens = 0
    nats = 0.0
    waiting: list[tuple[Sequence[int], int]] = []
    for text in texts:
        size, documents = size + len(text.encode("utf8")), documents + 1
        for window, given in windows(ends(words, text), context, stride):
            tokens += len(window) - given
            waiting.append((window, given))
        if len(waiting) >= 16 * batch:
            nats, waiting = nats + _nats(model, waiting, batch), []
    nats += _nats(model, waiting, batch)
    if not size or not tokens:
        raise ValueError(f"texts: got {size} bytes in {documents} documents, accepted: one byte or more")
    bits = nats / math.log(2)
    return {
        "bits a byte": bits / size,
        "bytes": size,
        "tokens": tokens,
        "documents": documents,
        "nats a token": nats / tokens,
        "bytes a token": size / tokens,
    }


def windows(tokens: Sequence[int], context: int, stride: int) -> Iterator[tuple[Sequence[int], int]]:
    """The windows of a document, and how many of each one's first tokens are given, not scored.

    Example:
        >>> from nextok_mm.eval.bits import windows
        >>> list(windows([5, 6, 7, 8, 9], 3, 1))
        [([5, 6, 7], 1), ([6, 7, 8], 2), ([7, 8, 9], 2)]
    """
    done = 1
    while done < len(tokens):
        start = 0 if done == 1 else done - (context - stride)
        window = tokens[start : start + context]
        yield window, done - start
        done = start + len(window)


@torch.no_grad()
def _nats(model: Generator, waiting: list[tuple[Sequence[int], int]], batch: int) -> float:
    """Nats of the scored tokens of these windows; those of about one length are computed together."""
    total, waiting = 0.0, sorted(waiting, key=lambda window: len(window[0]))
    for first in range(0, len(waiting), batch):
        some = waiting[first : first + batch]
        longest = max(len(window) for window, _ in some)
        tokens_BN = torch.zeros(len(some), longest, dtype=torch.long)
        scored_BN = torch.zeros(len(some), longest, dtype=torch.bool)
        for row, (window, given) in enumerate(some):
            tokens_BN[row, : len(window)] = torch.tensor(window)
            scored_BN[row, given : len(window)] = True
        tokens_BN, scored_BN = tokens_BN.to(model.device), scored_BN[:, 1:].to(model.device)
        logits_BNV = model.logits(tokens_BN)[:, :-1]  # pyright: ignore[reportCallIssue]
        total += float(F.cross_entropy(logits_BNV[scored_BN].float(), tokens_BN[:, 1:][scored_BN], reduction="sum"))
    return total
