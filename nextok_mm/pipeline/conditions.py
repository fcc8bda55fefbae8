"""What a user asks a generator for, as what it reads: class labels by number or name, captions or prompts, taken in
turn."""

import difflib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..contracts import Generator
from ..media.texts import Words
from ..media.words import TextTokenizer
from .inputs import whole

NAMES = 10  # of classes, in a message
MAX_ROWS = 1_000_000
"""Samples of one call: more are made in several, with seeds of their own."""


def count(generator: Generator | None, n: Any, text: Any, others: int = 1) -> int:
    """How many samples are asked for: n, or where it is None one per prompt of a model that reads prompts, and
    `others` of any other model."""
    if n is None:
        n = max(1, 0 if text is None else len(each(text))) if generator and "tokens" in generator.takes else others
    return whole("n", n, 1, MAX_ROWS)


def read(
    generator: Generator | None,
    names: Sequence[str],
    model: str,
    n: int,
    given: Mapping[str, Any],
    text_tokenizer: TextTokenizer | None = None,
    sampling: Any = None,
) -> dict[str, Any]:
    """The condition of n samples, by name, as the generator reads it: `labels` [n], `text` of n captions, `tokens` of n
    prompts.

    names: of the classes; model: its name, in messages; given: what was asked for by name, None for nothing;
    text_tokenizer: what reads prompts; sampling: the settings (None: the model's own). ValueError in one line for what
    this generator doesn't take.
    """
    takes = () if generator is None else generator.takes
    if generator is not None and "tokens" in takes:
        if given.get("labels") is not None:
            raise ValueError(f"labels: got {given['labels']!r}, accepted: text, {model} reads prompts")
        if given.get("text") is not None and text_tokenizer is None:
            raise ValueError(f"text: got {given['text']!r:.80}, accepted: none, {model} has no text tokenizer")
        return prompts(generator, text_tokenizer, given.get("text"), n, sampling or generator.config.sampling)
    words = {"labels": "class labels", "text": "captions"}
    for name, value in given.items():
        if value is not None and name not in takes and not (name == "labels" and "text" not in takes):
            accepted = " or ".join(takes) or "neither text nor labels"
            reads = f"reads {words[takes[0]]}" if name == "labels" and takes else f"reads no {words.get(name, name)}"
            raise ValueError(f"{name}: got {value!r}, accepted: {accepted}, {model} {reads}")
    found = captions(given.get("text"), n) if "text" in takes else labels(generator, names, given.get("labels"), n)
    return {} if found is None else {"text" if "text" in takes else "labels": found}


def labels(generator: Generator | None, names: Sequence[str], given: Any, n: int) -> Tensor | None:
    """Class indices [n] from numbers or names, one or several, taken in turn: [7, 3] with n=4 is 7, 3, 7, 3.

    None: every class in turn, or no labels where the model has no classes; "none": no condition at all (None).
    ValueError in one line for what is neither a number nor a name of a class.
    """
    takes_labels = generator is not None and "labels" in generator.takes
    classes = int(getattr(generator.config, "classes", 0)) if generator is not None and takes_labels else 0
    if given is None:
        return torch.arange(n) % classes if classes else None
    wanted = each(given)
    if not wanted:
        raise ValueError("labels: got none in the list, accepted: at least one")
    if wanted == ["none"]:
        return None
    numbers = [_number(label, names, classes) for label in wanted]
    return torch.tensor([numbers[i % len(numbers)] for i in range(n)])


def captions(given: Any, n: int) -> list[str] | None:
    """n captions, one or several given taken in turn. ValueError where one isn't text, or is empty."""
    if given is None:
        return None
    wanted = each(given)
    for caption in wanted or [""]:
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"text: got {caption!r}, accepted: a caption of at least one word, or a list of them")
    return [wanted[i % len(wanted)] for i in range(n)]


def prompts(
    generator: Generator, words: TextTokenizer | None, given: Any, n: int, sampling: Any
) -> dict[str, list[Any]]:
    """The parts of a condition that n prompts make, one or several given taken in turn; none where none is given.

    ValueError in one line where one is no text, is empty, or doesn't fit."""
    if words is not None and given is None and generator.needs_text:
        raise ValueError("text: got none, accepted: a text, or a list of texts")
    if given is None or words is None:
        return {}
    read = generator.read_text(words, Words().take(given), sampling)
    return {name: [parts[row % len(parts)] for row in range(n)] for name, parts in read.items()}


def asked(condition: Mapping[str, Any], text: Any, rows: range) -> dict[str, list[Any]]:
    """What these rows were asked for, as a result tells it: prompts as texts."""
    if "tokens" in condition:  # what was said, not what became of it
        texts = Words().take(text)
        return {"text": [texts[row % len(texts)] for row in rows]}
    return {name: each(part) for name, part in condition.items()}


def listed(text: str | None) -> list[str] | None:
    """`7,bag` on a command line as labels; None where none are given."""
    return [part.strip() for part in text.split(",")] if text else None


def each(given: Any) -> list[Any]:
    """What is in a list, an array or a tensor; one value, or one string, by itself."""
    given = given.tolist() if hasattr(given, "tolist") else given
    return list(cast(Iterable[Any], given)) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def _number(label: Any, names: Sequence[str], classes: int) -> int:
    """The index of a class."""
    known, near = [name.lower() for name in names], list[str]()
    if isinstance(label, str):
        turned = " + ".join(reversed(label.lower().split(" + ")))  # pairs of clips are in no order
        for name in (label.lower(), turned):
            if name in known:
                return known.index(name)
            near += difflib.get_close_matches(name, known, n=1)
    try:
        number = -1 if isinstance(label, bool) else int(label) if isinstance(label, str) else operator.index(label)
    except (TypeError, ValueError):
        number = -1
    if 0 <= number < classes:
        return number
    if not classes:
        raise ValueError(f"labels: got {label!r}, accepted: none, since this model has no classes")
    shown = ", ".join(names[:NAMES]) + ", ..." * (len(names) > NAMES)
    hint = f"; did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""
    raise ValueError(
        f"labels: got {label!r}, accepted: {' or '.join(filter(None, (f'0 to {classes - 1}', shown)))}{hint}"
    )
