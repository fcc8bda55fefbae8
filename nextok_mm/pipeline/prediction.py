"""Prediction: going on from given frames, to any length. Clips, and whatever else goes on in time (`Medium.temporal`).

A window of the trained length slides along: its first frames are the last ones so far, encoded anew (the first frame of
a window has codes of its own, so codes can't slide, frames can), the others are generated. Memory is that of a window.

Shapes: n clips, C channels, T frames, H W rows and columns, which other media may lack.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts import Known, Tokenizer
from ..media import Fit
from ..rng import mix
from . import inputs
from .core import Pipeline
from .result import Result

MAX_FRAMES = 100_000
"""Of a clip that goes on: all of them are kept in memory."""


def read_given(pipeline: Pipeline, path: str | Path, given: int | None = None, fit: Fit = "exact") -> Tensor:
    """The first `given` frames of a video file [1, C, T, H, W] (None: two fifths of what the model makes)."""
    tokenizer, medium = _parts(pipeline)
    frames = medium.size[0]
    count = _context(tokenizer, 2 * frames // 5) or 1 if given is None else inputs.whole("given", given)
    _check_given(tokenizer, count)
    return medium.read(path, fit, count)


def predict(
    pipeline: Pipeline, clips: Any, frames: int | None = None, seed: int = 0, labels: Any = None, **sampling: Any
) -> Result:
    """Continue clips from their first frames, to any length.

    Args:
        pipeline: A pipeline of a generator of clips.
        clips: The first frames, such as [n, C, T, H, W] in [0, 1].
        frames: Number of frames of the whole clip; None generates as many as the model was trained on.
        seed: Seed of the run.
        labels: Classes, as in `Pipeline.generate`; None gives no condition, since the frames show what they hold.
        sampling: Settings that replace the checkpoint's own.

    Returns:
        The clips, which begin with the given frames.

    Raises:
        ValueError: The clips have another shape, their frames make no whole codes, or the model is one of pictures.
    """
    *_, last = stream(pipeline, clips, frames, seed, labels, **sampling)
    return last


def stream(
    pipeline: Pipeline, clips: Any, frames: int | None = None, seed: int = 0, labels: Any = None, **sampling: Any
) -> Iterator[Result]:
    """The same, handed out after every window: `data` holds the frames so far."""
    tokenizer, medium = _parts(pipeline)
    trained, *sides = medium.size
    clips = clips if isinstance(clips, Tensor) else medium.take(clips)
    if list(clips.shape[3:]) != sides or not clips.numel():
        accepted = ", ".join(["n", medium.axes[0], f"1 or more {medium.axes[1]}", *map(str, sides)])
        raise ValueError(f"clips: got shape {tuple(clips.shape)}, accepted: [{accepted}]")
    clips = medium.take(clips)
    given = clips.shape[2]
    _check_given(tokenizer, given)
    above = f"a whole number above the {given} that are given, up to {MAX_FRAMES}"
    wanted = inputs.whole("frames", trained if frames is None else frames, given + 1, MAX_FRAMES, above)
    seed = inputs.whole("seed", seed)
    if labels is None and pipeline.generator and "labels" in pipeline.generator.takes:
        labels = "none"
    images, window, half = clips.cpu(), 0, _context(tokenizer, trained // 2 + 1)
    context = given if given < trained else half  # all that is given, where it leaves room for new frames
    while images.shape[2] < wanted:
        tokens = pipeline.tokenize(images[:, :, -context:])
        codes = torch.zeros(len(images), *tokenizer.grid((trained, *sides)), dtype=torch.long)
        mask = torch.zeros_like(codes[0], dtype=torch.bool)
        codes[:, : tokens.grid[0]] = torch.unflatten(tokens.data, 1, tokens.grid).cpu()
        mask[: tokens.grid[0]] = True
        known = Known(codes.flatten(1), mask.flatten())
        start = seed if window == 0 else mix(seed, "window", window)
        result = pipeline.generate(labels, len(images), start, known=known, **sampling)
        images = torch.cat((images, result.data[:, :, context:]), dim=2)[:, :, :wanted]
        window, context = window + 1, half
        yield replace(result, data=images, seed=seed, given=clips.cpu(), tokens=None)


def context(pipeline: Pipeline, frames: int) -> int:
    """The most of so many frames that can be given: those that make whole codes, and leave something to predict."""
    return _context(_parts(pipeline)[0], frames)


def _check_given(tokenizer: Tokenizer, frames: int) -> None:
    """ValueError where so many given frames don't make whole codes: some would have to be passed over."""
    trained, *sides = _size(tokenizer)
    try:
        tokenizer.grid((frames, *sides))
    except ValueError:
        whole = sorted({_context(tokenizer, count) for count in range(1, trained)} - {0})
        accepted = f"{', '.join(map(str, whole))} (what makes whole codes)"
        raise ValueError(f"given: got {frames} frames, accepted: {accepted}") from None


def _context(tokenizer: Tokenizer, frames: int) -> int:
    trained, *sides = _size(tokenizer)
    for count in range(min(frames, trained - 1), 0, -1):
        try:
            tokenizer.grid((count, *sides))
        except ValueError:
            continue
        return count
    return 0


def _size(tokenizer: Tokenizer) -> tuple[int, ...]:
    """(frames, height, width) of the clips that it was trained on."""
    assert tokenizer.size is not None
    return tokenizer.size


def _parts(pipeline: Pipeline) -> tuple[Tokenizer, Any]:
    """The tokenizer and its medium; ValueError for a model that doesn't go on in time."""
    if "predict" not in pipeline.tasks or pipeline.tokenizer is None:
        accepted = "a generator of clips, or of another medium that goes on in time"
        raise ValueError(f"predict: got {pipeline.card.name}, accepted: {accepted}")
    return pipeline.tokenizer, pipeline.medium
