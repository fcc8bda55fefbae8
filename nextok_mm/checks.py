"""What a batch and a condition are, and how a model reads and refuses them, in one line each.

Shapes: B batch, P condition tokens, N tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .rng import Rng

Batch = dict[str, Tensor]
"""`images` [B, 3 or 1, H, W] in [0, 1], of clips [B, 3 or 1, T, H, W] (T frames), of sounds [B, channels, T] in [-1, 1]
(T samples); or `tokens` [B, N, C] / [B, N];
`labels` [B] int64, and `weights` [B], how much each row counts, where the data has any. `images` is the name of the
samples of every medium: [B, *its axes]."""

Condition = Mapping[str, Any] | None
"""What n samples are conditioned on, by name, each one that the generator `takes`; None or an empty one is nothing.

| name     | value                                                              |
|----------|--------------------------------------------------------------------|
| `labels` | class labels [n] int64, ids [n, P] where a condition has P tokens    |
| `text`   | n captions                                                         |
| `tokens` | the tokens of n prompts, each as long as it is                       |
| `voice`  | latents [V, C] of a recording, one for all or n; or a state that heard one |
| `durations` | units of each of the n prompts' tokens                            |
| `after`  | how many latents follow the stop, of each of n rows                  |
"""


def taken(condition: Condition, *names: str) -> dict[str, Any]:
    """The parts of a condition that aren't None; ValueError for one that isn't among `names`, what a model takes."""
    if condition is not None and not isinstance(cast(Any, condition), Mapping):
        raise ValueError(f"condition: got {type(condition).__name__}, accepted: values by name, such as labels=[7]")
    given = {name: value for name, value in (condition or {}).items() if value is not None}
    for name in given:
        if name not in names:
            raise ValueError(f"{name}: got a condition, accepted: {', '.join(names) or 'none'}, which this model takes")
    return given


def checked_labels(condition: Condition, rows: int, classes: int) -> list[int]:
    """Labels of `rows` samples as numbers, `classes` ("no label") for each where there is no condition.

    ValueError in one line for captions, a wrong number of labels, or a label out of range.
    """
    given = taken(condition, "labels").get("labels")
    if given is None:
        return [classes] * rows
    if given.shape != (rows,):
        raise ValueError(f"labels: got shape {tuple(given.shape)}, accepted: ({rows},)")
    labels = given.tolist()
    for label in labels:
        if not 0 <= label < classes:
            accepted = f"0 to {classes - 1}" if classes else "none, this model has no classes"
            raise ValueError(f"labels: got {label}, accepted: {accepted}")
    return labels


def dropped(rng: Rng, share: float, device: torch.device) -> Tensor:
    """bool [B]: which rows of a training batch do without their condition, so that the model can be guided later."""
    return (rng.uniform() < share).to(device)  # drawn and compared in fp32: in bf16 some of the numbers are 1


def labels_without(batch: Batch, classes: int, dropped_B: Tensor) -> Tensor:
    """The labels [B] to train on: `classes` ("no label") for dropped rows, and for all where there are none."""
    labels_B = batch.get("labels") if classes else None
    return (
        torch.full_like(dropped_B, classes, dtype=torch.long)
        if labels_B is None
        else labels_B.where(~dropped_B, classes)
    )


def check_labels(batch: Batch, classes: int, *ids: int) -> None:
    """ValueError in one line where the labels of a training batch don't fit a model of so many classes.

    Labels are whole numbers [B] of 0 .. classes - 1 ([B, P] where `ids` says that a condition has P of them). The
    number behind the last class means "no label", and isn't the data's to give. Labels may be missing, and a model
    without classes passes them over.
    """
    labels = batch.get("labels")
    if labels is None or not classes:
        return
    wanted = (len(batch.get("tokens", batch.get("images", labels))), *ids)
    if labels.shape != wanted:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, accepted: {wanted}")
    check_numbers("labels", labels, classes, "classes")


def check_tokens(tokens: Tensor | None, shape: Sequence[int], num_codes: int | None) -> None:
    """ValueError in one line where the tokens of a training batch aren't [B, *shape]: whole numbers below
    `num_codes`, or latents, which are floating point, where it is None."""
    if tokens is None:
        raise ValueError("data: got no tokens, accepted: tokens, or images beside a `tokenizer` that encodes them")
    if tuple(tokens.shape[1:]) != tuple(shape) or tokens.is_floating_point() != (num_codes is None):
        what = "latents" if num_codes is None else "whole numbers"
        accepted = f"{what} [{', '.join(['batch', *map(str, shape)])}]"
        raise ValueError(f"tokens: got {tuple(tokens.shape)} of {tokens.dtype}, accepted: {accepted}")
    if num_codes is not None:
        check_numbers("tokens", tokens, num_codes, "codes")


def check_numbers(name: str, numbers: Tensor, count: int, what: str) -> None:
    """ValueError in one line where numbers aren't whole ones of 0 .. count - 1. what: they say which of the model's.

    Fake and meta tensors hold no numbers to be checked, nor do those that torch.compile looks at.
    """
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"{name}: got {numbers.dtype}, accepted: whole numbers from 0 to {count - 1}")
    if type(numbers) is not Tensor or numbers.is_meta or not numbers.numel() or torch.compiler.is_compiling():
        return
    for number in map(int, torch.stack(numbers.long().aminmax()).cpu()):
        if not 0 <= number < count:
            raise ValueError(f"{name}: got {number}, accepted: 0 to {count - 1}, the {what} of this model")
