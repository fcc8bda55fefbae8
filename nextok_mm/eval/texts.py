"""Figures of language models: perplexity of a folder of text, and the same in bits per byte.

Perplexity is e to the mean nats per token, and comparable only between models of the same tokens; bits per byte of
UTF-8 are comparable between all. Every token of a document is predicted once, from at least half a window of what
stands before it in the document, or from all of it; documents don't see each other.

Blocks of windows are kept on the disk as they are measured (cache.py), so that a stopped evaluation goes on.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from tqdm import tqdm

from ..checkpoint import fingerprint
from ..data import text as texts
from ..pipeline import Pipeline, scores
from ..pipeline.inputs import whole
from .cache import remembered

WINDOW = 1024
BLOCK = 32
"""Windows that are kept together."""
Window = tuple[list[int], list[int]]
"""(what is seen, what is to be predicted after it)."""


def evaluate(
    pipeline: Pipeline,
    data: Mapping[str, Any] | None = None,
    window: int | None = None,
    n: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Perplexity and bits per byte of the documents of a folder.

    data: fields of `data.text.Config`: path, and field, split and held_out (all documents where split isn't named);
    window: number of tokens that the model sees at a time (None: its context, but at most WINDOW); n: only the first so
    many documents. ValueError in one line for a mistake, and for a folder without a letter.
    """
    started, (generator, words) = time.monotonic(), scores.writer(pipeline, "eval")
    context = generator.longest_prompt + 1
    window = min(WINDOW, context) if window is None else whole("window", window, 2, context)
    source, n = _source(data), None if n is None else whole("n", n, 1)
    sizes, key = [0, 0], ("nats", fingerprint(generator), words.fingerprint, window)
    nats = tokens = 0.0
    blocks = _blocks(_windows(texts.documents(source), words, generator.before, window, n, sizes))
    with tqdm(blocks, unit="block", leave=False, disable=None if progress else True) as shown:
        for block in shown:
            name = hashlib.sha256(repr(block).encode()).hexdigest()
            found = remembered((*key, name), lambda block=block: _measured(generator, block))
            nats, tokens = nats + float(found["nats"]), tokens + float(found["tokens"])
            shown.set_postfix_str(f"{nats / max(tokens, 1):.3f} nats per token")
    documents, count = sizes
    if not tokens:
        raise ValueError(f"data: {source.path} has no text that could be measured, accepted: two letters or more")
    figures = {
        "perplexity": math.exp(min(nats / tokens, 700)),
        "bits_per_byte": nats / math.log(2) / count,
        "nats_per_token": nats / tokens,
    }
    protocol = {
        "documents": documents,
        "bytes": count,
        "tokens": int(tokens),
        "window": window,
        "context": f"{window // 2} tokens or more, or all that the document has before a token",
        "begins_with": generator.before,
        "data": data and dict(data),
        "generator": fingerprint(generator),
        "tokenizer": words.fingerprint,
        "seconds": round(time.monotonic() - started, 1),
    }
    card = pipeline.card
    result = {"name": card.name, "role": card.role, "kind": card.kind}
    return {**result, "figures": {card.name: {"text": figures}}, "protocol": protocol}


def _source(data: Mapping[str, Any] | None) -> texts.Config:
    """The folder; ValueError in one line where it isn't named, or fields have no meaning here."""
    if not data or "path" not in data:
        raise ValueError("data: got no folder of text, accepted: --data FOLDER (data={'path': FOLDER})")
    known = ("kind", "path", "field", "split", "held_out")
    for name in data:
        if name not in known:
            raise ValueError(f"data.{name}: got {data[name]!r:.80}, accepted: {', '.join(known)}, of a language model")
    return texts.Config.parse({"held_out": 0, **data} if "split" not in data else data, "data")


def _windows(
    documents: Iterator[tuple[str, str]], words: Any, before: int | None, window: int, n: int | None, sizes: list[int]
) -> Iterator[Window]:
    """The windows of all documents; sizes: counts the documents and their bytes."""
    for _, document in documents:
        if sizes[0] == n:
            return
        sizes[0], sizes[1] = sizes[0] + 1, sizes[1] + len(document.encode())
        yield from cut(words.encode(document, begin=False), before, window)


def cut(tokens: Sequence[int], before: int | None, window: int) -> Iterator[Window]:
    """A document as windows in which every token is to be predicted once (but the first, where nothing is `before`)."""
    whole = [*([] if before is None else [before]), *tokens]
    done = 1
    while done < len(whole):
        first = 0 if done == 1 else done - window // 2
        end = min(len(whole), first + window)
        yield whole[first:done], whole[done:end]
        done = end


def _blocks(windows: Iterator[Window]) -> Iterator[list[Window]]:
    for first in windows:
        block = [first]
        for other in windows:
            block.append(other)
            if len(block) == BLOCK:
                break
        yield block


def _measured(generator: Any, block: list[Window]) -> dict[str, torch.Tensor]:
    found = scores.logprobs(generator, [seen for seen, _ in block], [asked for _, asked in block])
    every = list(chain.from_iterable(found))
    total = torch.tensor(-math.fsum(every), dtype=torch.float64)
    return {"nats": total, "tokens": torch.tensor(len(every), dtype=torch.float64)}
