"""Texts as they are heard, and how many words of one another misses: one rule for what was asked and what was heard.

A recognizer writes "9:30" or "$4.50" where a sentence says "nine thirty" and "four dollars and fifty cents". Here
numbers of either form become their digits, one word each, so that neither form is a mistake: "five zero three", "503"
and "five hundred three" are the same three words.
"""

import re
from collections.abc import Iterator, Sequence

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
IRREGULAR = {"first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12}

_CARDINAL = {**{word: value for value, word in enumerate(ONES)}, **{word: 20 + 10 * i for i, word in enumerate(TENS)}}
_ORDINAL = {
    **{word + "th": value for word, value in _CARDINAL.items() if value},
    **{word[:-1] + "ieth": value for word, value in _CARDINAL.items() if word.endswith("ty")},
    **{word + "th": value for word, value in SCALES.items()},
    **IRREGULAR,
}


def heard(text: str) -> list[str]:
    """The words of a text in lower case without punctuation, numbers as digits.

    Args:
        text: English text.

    Returns:
        The words; an ordinal ends with the word "th".

    Example:
        >>> from nextok_mm.eval.transcripts import heard
        >>> heard("It's 9:30; room twenty-first!") == heard("Its nine thirty, Room 21st")
        True
    """
    text = text.lower().replace("\u2019", "'").replace("&", " and ")
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"\$\s*(\d+)\.0?(\d\d?)\b", r"\1 dollars and \2 cents", text)
    text = re.sub(r"\$\s*([\d.]*\d)", r"\1 dollars", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", " point ", text.replace("%", " percent "))
    text = re.sub(r"(?<=\d):00\b", " o'clock", text)
    text = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1 th", text)
    words = re.findall(r"[^\W\d_]+|\d", text.replace("'", ""))
    return list(_numbers(words))


def _numbers(words: Sequence[str]) -> Iterator[str]:
    """The same words, those of numbers as digits."""
    value: int | None = None
    last = ""  # the kind of the number's last word: one, teen, ten or scale
    for place, word in enumerate(words):
        ordinal = word not in _CARDINAL and word not in SCALES and _ORDINAL.get(word) is not None
        amount = _CARDINAL.get(word, SCALES.get(word, _ORDINAL.get(word)))
        follows = place + 1 < len(words) and (words[place + 1] in _CARDINAL or words[place + 1] in _ORDINAL)
        if word == "and" and last == "scale" and follows:
            continue
        if amount is None:
            yield from _digits(value)
            value, last = None, ""
            yield word
            continue
        if amount in SCALES.values():
            under = amount if value is None else value
            value = amount if value is None else value // 1000 * 1000 + under % 1000 * amount
            last = "scale"
        else:
            kind = "ten" if amount >= 20 else "teen" if amount >= 10 else "one"
            if value is not None and (last == "scale" or (last == "ten" and kind == "one" and amount)):
                value += amount
            else:
                yield from _digits(value)
                value = amount
            last = kind
        if ordinal:
            yield from _digits(value)
            yield "th"
            value, last = None, ""
    yield from _digits(value)


def _digits(value: int | None) -> list[str]:
    return [] if value is None else list(str(value))


def mistakes(asked: Sequence[str], found: Sequence[str]) -> int:
    """How many words have to be put in, left out or replaced to make one list of the other (Levenshtein).

    Args:
        asked: The words that should be there.
        found: The words that are.

    Returns:
        The least number of such changes.
    """
    row = list(range(len(found) + 1))
    for place, word in enumerate(asked, 1):
        before, row[0] = row[0], place
        for other, heard_word in enumerate(found, 1):
            before, row[other] = row[other], min(before + (word != heard_word), row[other] + 1, row[other - 1] + 1)
    return row[-1]


def error_rate(asked: Sequence[str], found: Sequence[str]) -> tuple[float, int, int]:
    """Word error rate of texts against what was heard of them.

    Args:
        asked: The texts.
        found: What was heard of each.

    Returns:
        Mistakes per word of `asked`, the number of mistakes, and the number of words.
    """
    pairs = [(heard(text), heard(other)) for text, other in zip(asked, found, strict=True)]
    wrong, words = sum(mistakes(*pair) for pair in pairs), sum(len(text) for text, _ in pairs)
    return wrong / max(words, 1), wrong, words
