"""The text of each row as the pieces that are spoken one after another."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextok_mm.contracts import check_numbers


def pieces_of(given: Any, after: Any, rows: int, default: int, vocabulary: int) -> list[list[list[int]]]:
    """The pieces of every row.

    Args:
        given: For each row the ids of its text, or of each of its pieces; None is no text.
        after: For each row how many latents follow a stop, or that of each piece; None takes `default`.
        rows: Number of rows.
        default: What follows a stop where `after` doesn't say.
        vocabulary: Number of different ids.

    Returns:
        For each row its pieces, [after, *ids] each; one without ids where no text is given.

    Raises:
        ValueError: A text is empty, no text, or has ids that there are not; or `after` doesn't fit.
    """
    if given is None:
        return [[[default]] for _ in range(rows)]
    if isinstance(given, str) or not isinstance(given, Sequence | Tensor) or len(given) != rows:
        raise ValueError(f"text: got {type(given).__name__}, accepted: the tokens of {rows} texts")
    texts = [[torch.as_tensor(piece) for piece in (list(text) if _nested(text) else [text])] for text in given]
    for piece in (piece for text in texts for piece in text):
        if piece.dim() != 1 or not len(piece):
            raise ValueError(f"text: got a text of shape {tuple(piece.shape)}, accepted: one or more tokens")
        check_numbers("text", piece, vocabulary, "vocabulary")
    each: list[Any] = [default] * rows if after is None else list(after)
    if len(each) != rows:
        raise ValueError(f"after: got {len(each)} numbers, accepted: one for each of {rows} texts")
    numbers = [list(own) if isinstance(own, list) else [own] * len(text) for own, text in zip(each, texts)]
    for own, text in zip(numbers, texts):
        if len(own) != len(text) or any(type(number) is not int or number < 1 for number in own):
            raise ValueError(f"after: got {after!r:.80}, accepted: a whole number of at least 1 for each text or piece")
    return [[[number, *piece.tolist()] for number, piece in zip(*row)] for row in zip(numbers, texts)]


def _nested(text: Any) -> bool:
    return not isinstance(text, Tensor) and len(text) > 0 and not isinstance(text[0], int | float)
