"""Text that is to be spoken: written as a voice expects it, and cut where a voice may take a breath.

A model of speech learns from sentences, and loses its way in a text that is much longer. So a long text is cut at the
ends of its sentences, and only where a sentence alone is too long at its commas, or else between words.
"""

import re
from collections.abc import Callable, Iterator

from .texts import checked

_END = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+")
_PAUSE = re.compile(r"(?<=[,;:\u2013\u2014])\s+")


def prepared(text: str) -> str:
    """A text as it is read aloud: one line that begins with a capital and ends with a mark.

    Args:
        text: The text.

    Returns:
        The text without space around it or line breaks in it.

    Raises:
        ValueError: There is no letter and no digit in it.

    Example:
        >>> from nextok_mm.media.spoken import prepared
        >>> prepared("hello\\nthere ")
        'Hello there.'
    """
    text = " ".join(checked(text).split())
    if not any(letter.isalnum() for letter in text):
        raise ValueError(f"text: got {text[:40]!r}, accepted: a text with a word or a number in it, to be spoken")
    return text[0].upper() + text[1:] + "." * text[-1].isalnum()


def sentences(text: str) -> list[str]:
    """The sentences of a text.

    Args:
        text: A text in one line.

    Returns:
        Its parts, each with its marks; a point inside a number or a word ends nothing.
    """
    return [part.strip() for part in _split(_END, text) if part.strip()]


def pieces(text: str, count: Callable[[str], int], most: int) -> list[str]:
    """Cut a text into pieces of at most `most` tokens.

    Args:
        text: A text in one line.
        count: How many tokens a text has.
        most: The largest number of tokens of a piece. A single word with more of them is a piece all the same.

    Returns:
        The pieces; together they are the text. Neighbors stay together where they fit.
    """
    if count(text) <= most:
        return [text]
    found = list[str]()
    for sentence in sentences(text):
        found += _fitting(sentence, count, most)
    return _together(found, count, most)


def _fitting(sentence: str, count: Callable[[str], int], most: int) -> list[str]:
    """A sentence, or what has to be made of it."""
    if count(sentence) <= most:
        return [sentence]
    clauses = list(_split(_PAUSE, sentence))
    parts = _together(clauses, count, most) if len(clauses) > 1 else sentence.split()
    if len(parts) == 1:
        return parts
    return [piece for part in _together(parts, count, most) for piece in _fitting(part, count, most)]


def _together(parts: list[str], count: Callable[[str], int], most: int) -> list[str]:
    """Neighbors joined as long as they fit."""
    joined = list[str]()
    for part in parts:
        if joined and count(f"{joined[-1]} {part}") <= most:
            joined[-1] = f"{joined[-1]} {part}"
        else:
            joined.append(part)
    return joined


def _split(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """The text between the spaces that a pattern ends with; marks before them stay where they are."""
    begin = 0
    for match in pattern.finditer(text):
        yield text[begin : match.end()].rstrip()
        begin = match.end()
    if begin < len(text):
        yield text[begin:]
