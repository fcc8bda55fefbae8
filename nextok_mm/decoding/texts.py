"""A language model's tokens as texts that grow: whole letters only, and no further than a stop word.

Shapes: B rows, T new tokens.
"""

from collections.abc import Sequence
from typing import cast

import torch

from ..contracts import OpenState, State, Tokens
from ..media.words import TextTokenizer
from .previews import Preview

HALF = "\ufffd"  # what bytes that make no letter are decoded to


class Text:
    """One row: what has been read of its tokens. A text that may be the beginning of a stop word is held back."""

    def __init__(self, words: TextTokenizer, stop: Sequence[str]):
        self.pieces, self.stop = words.pieces(), stop
        self.read, self.text, self.ended, self.stopped = 0, "", False, False

    def push(self, tokens: Sequence[int], last: bool) -> bool:
        """Read the row's next tokens, the last ones at that; whether a stop word ends it here."""
        for token in tokens:
            self.text += self.pieces.push(token)
            self.read += 1
            if (at := _first(self.text, self.stop)) >= 0:
                self.text, self.ended, self.stopped = self.text[:at], True, True
                return True
        if last:
            self.text += self.pieces.rest().rstrip(HALF)  # a letter that the end cut in two is none
            at = _first(self.text, self.stop)
            self.text, self.ended = self.text if at < 0 else self.text[:at], True
        return False

    @property
    def shown(self) -> str:
        """What is certain to stay."""
        return self.text if self.ended else self.text[: len(self.text) - _held(self.text, self.stop)]


class Texts(Preview):
    """The texts of all rows."""

    def __init__(self, words: TextTokenizer):
        self.words, self.rows, self.stop, self.fresh = words, list[Text](), (), list[int]()

    stop: tuple[str, ...]

    def until(self, stop: Sequence[str]) -> None:
        """See `Preview.until`."""
        self.stop = tuple(stop)
        self.watches = bool(self.stop)

    def decode(self, state: State) -> list[str]:
        """See `Preview.decode`."""
        state = cast(OpenState, state)
        self.rows = self.rows or [Text(self.words, self.stop) for _ in range(len(state.data))]
        for row, text in enumerate(self.rows):
            length, last = int(state.lengths_B[row]), state.done or bool(state.ended_B[row])
            tokens = [int(token) for token in state.data[row, text.read : length]]
            if not text.ended and text.push(tokens, last):
                self.fresh.append(row)
        return [text.shown for text in self.rows]

    def stopped(self) -> list[int]:
        """See `Preview.stopped`."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def tokens(self, state: State) -> Tokens:
        """See `Preview.tokens`; -1 is no token, and stands behind a row's end."""
        state = cast(OpenState, state)
        data = state.data.cpu()
        places = torch.arange(data.shape[1])
        data = torch.where(places < state.lengths_B.cpu()[:, None], data, -1)
        return Tokens(data, (data.shape[1],), self.words.fingerprint)


def _first(text: str, stop: Sequence[str]) -> int:
    """Where the first stop word begins; -1 without any."""
    return min((at for word in stop if (at := text.find(word)) >= 0), default=-1)


def _held(text: str, stop: Sequence[str]) -> int:
    """How many letters at the end may be the beginning of a stop word."""
    return max(
        (size for word in stop for size in range(1, min(len(word), len(text) + 1)) if text.endswith(word[:size])),
        default=0,
    )
