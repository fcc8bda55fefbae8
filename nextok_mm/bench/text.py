"""Bits per byte of held-out pages: a language model, beside `xz -9` and n-gram models of the same training text.

    python -m nextok_mm.data.python_docs runs/python-docs
    nextok bench text --data path=runs/python-docs              text-tiny, as docs/benchmarks/language.md has it
    nextok bench text --model FOLDER --data path=NOTES --data held_out=10

The pages are those that the text source holds out by itself, and so did the training; all are measured by the same
bytes. The language model is measured as by `nextok eval`. xz is asked twice: for the held-out pages alone, and for what
they add to the training text before them (xz's window of 64 MiB holds both). The 5-gram models are ours, interpolated
Kneser-Ney (nextok_mm/bench/ngrams.py): one over the language model's own tokens, one over bytes. Figures go to
OUT/text.json; a killed run goes on.
"""

import argparse
import lzma
from collections.abc import Callable, Sequence

from ..checkpoint import read_words, resolve
from ..config import override
from ..data.text import Config, documents
from ..media.words import Bytes, TextTokenizer
from ..pipeline import load
from .harness import Results, options, shown
from .ngrams import NGrams

ORDER = 5


def main(arguments: list[str]) -> None:
    """Measure what is missing, print all."""
    parser = options("bench text", __doc__, out="runs/text-bits")
    parser.add_argument("--model", default="text-tiny", help="the language model (default text-tiny)")
    parser.add_argument("--data", action="append", default=[], help="a field of the text source, as name=value")
    given = parser.parse_args(arguments)
    config = Config.parse({"kind": "text", "path": "runs/python-docs", **override({}, given.data)}, "data")
    if not config.held_out:
        raise ValueError("data.held_out: got 0, accepted: 1 or more, so that there are pages that no training saw")
    train, test = ([text for _, text in documents(config, split)] for split in ("train", "test"))
    if not train or not test:
        raise ValueError(f"data.path {config.path}: {len(train)} documents and {len(test)} held out, accepted: both")
    results = Results(given.out / "text.json", plotted=False)
    for name, measure in _measures(given, config, train, test).items():
        print(name, shown(results.fill(name, measure)), sep="  ", flush=True)


def _measures(
    given: argparse.Namespace, config: Config, train: list[str], test: list[str]
) -> dict[str, Callable[[], dict[str, float]]]:
    """What is measured, by the name of its row; nothing is loaded before it is asked for."""
    return {
        "xz -9 of these pages alone": lambda: xz([], test),
        "xz -9 of these pages behind the training text": lambda: xz(train, test),
        f"{ORDER}-grams of bytes": lambda: ngrams(Bytes(), train, test),
        f"{ORDER}-grams of the model's tokens": lambda: ngrams(read_words(resolve(given.model)), train, test),
        given.model: lambda: language(given.model, config),
    }


def language(name: str, config: Config) -> dict[str, float]:
    """Bits per byte of a language model, and its perplexity."""
    from ..eval import texts

    data = {field: getattr(config, field) for field in ("path", "field", "held_out")}
    found = texts.evaluate(load(name), {**data, "split": "test"})
    figures, protocol = found["figures"][found["name"]]["text"], found["protocol"]
    return {
        "bits per byte": figures["bits_per_byte"],
        "bytes": protocol["bytes"],
        "tokens": protocol["tokens"],
        "perplexity": figures["perplexity"],
    }


def ngrams(words: TextTokenizer, train: Sequence[str], test: Sequence[str], order: int = ORDER) -> dict[str, float]:
    """Bits per byte of an interpolated Kneser-Ney model of the training text, and its perplexity."""
    model = NGrams((words.encode(text, begin=False) for text in train), words.size, order)
    pages = [words.encode(text, begin=False) for text in test]
    size, tokens, bits = sum(len(text.encode("utf8")) for text in test), sum(map(len, pages)), model.bits(pages)
    return {"bits per byte": bits / size, "bytes": size, "tokens": tokens, "perplexity": 2 ** (bits / tokens)}


def xz(before: Sequence[str], test: Sequence[str]) -> dict[str, float]:
    """Bits per byte of `xz -9` of pages, of what they add where there is text before them."""
    size = sum(len(text.encode("utf8")) for text in test)
    packed = _packed([*before, *test]) - (_packed(before) if before else 0)
    return {"bits per byte": 8 * packed / size, "bytes": size, "packed": packed}


def _packed(texts: Sequence[str]) -> int:
    """How many bytes `xz -9` makes of texts."""
    return len(lzma.compress("".join(texts).encode("utf8"), preset=9))
