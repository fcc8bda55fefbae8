"""Rows of tokens whose answer is known: how many of them a generator gets right.

The question is known to the generation, the rest is drawn greedily by the one loop over entities, in whatever order the
sampling settings say. `mazes`: a path is right where every cell of it is. `recall`: every value counts by itself.

Shapes: B batch, N tokens of a row.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contracts import Generator, Known
from ..data import mazes, recall
from ..decoding import decode
from ..rng import Rng

BATCH = 125


def mazes_solved(generator: Generator[Any, Any], config: mazes.Config, n: int, **sampling: Any) -> dict[str, float]:
    """Count the mazes whose path is found.

    Args:
        generator: A generator of rows of this kind.
        config: The mazes; those of the split `test` are asked.
        n: Number of mazes.
        sampling: Settings of sampling beside greedy ones.

    Returns:
        The share of paths that are right cell by cell, `exact path`, and that share among those of 5 to 9 steps, 10 to
        14 and so on.

    Raises:
        ValueError: The generator's rows have another length or other codes.
    """
    right_B, steps_B = [], []
    for rows_BN, answers_BN in _answered(generator, config, n, lambda rows: _behind(rows, config.prompt), sampling):
        end = config.num_codes - 1
        path_BN = (rows_BN != end)[:, config.prompt :]
        right_B.append(((rows_BN == answers_BN)[:, config.prompt :] | ~path_BN).all(1))
        steps_B.append(path_BN.sum(1))
    right, steps = torch.cat(right_B).float(), torch.cat(steps_B)
    found = {"exact path": float(right.mean())}
    for first in range(0, config.longest + 1, 5):
        some = (steps >= first) & (steps < first + 5)
        if some.any():
            found[f"{first} to {first + 4} steps"] = float(right[some].mean())
    return found


def values_recalled(generator: Generator[Any, Any], config: recall.Config, n: int, **sampling: Any) -> dict[str, float]:
    """Count the values that are remembered; arguments and errors as of `mazes_solved`.

    Returns:
        The share of values that are right, `recalled`; a guess among the values of the row would be right once in
        `pairs`.
    """

    def question(rows_BN: Tensor) -> Tensor:
        places = torch.arange(rows_BN.shape[1])
        return ((places < 2 * config.pairs) | (places % 2 == 0)).expand_as(rows_BN)

    right = total = 0
    for rows_BN, answers_BN in _answered(generator, config, n, question, sampling):
        asked_BN = ~question(rows_BN)
        right += int((rows_BN == answers_BN)[asked_BN].sum())
        total += int(asked_BN.sum())
    return {"recalled": right / total}


def _behind(rows_BN: Tensor, prompt: int) -> Tensor:
    return (torch.arange(rows_BN.shape[1]) < prompt).expand_as(rows_BN)


def _answered(
    generator: Generator[Any, Any], config: Any, n: int, known: Callable[[Tensor], Tensor], sampling: dict[str, Any]
) -> Any:
    """Rows of the split test, and what the generator makes of what is known of them, batch by batch."""
    if (generator.layout.tokens, generator.num_codes) != (config.length, config.num_codes):
        got = f"{generator.layout.tokens} tokens of {generator.num_codes} codes"
        raise ValueError(f"generator: got rows of {got}, accepted: {config.length} of {config.num_codes}")
    source = config.model_copy(update={"split": "test", "rows": n}).open()
    settings = generator.Sampling.parse({**generator.config.sampling.model_dump(), "temperature": 0, **sampling})
    for first in range(0, n, BATCH):
        rows_BN = source.batch(range(first, min(first + BATCH, n)))["tokens"]
        begun = generator.start(None, Rng(range(len(rows_BN))), settings, Known(rows_BN, known(rows_BN)))
        *_, state = decode(generator, begun)
        yield rows_BN, state.data.cpu()
