"""Whether the data fits the model: asked before the first step, and before anything of an older run is touched.

What doesn't fit is refused in one line that names it; what is allowed, but hardly meant, is a warning.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..contracts import Batch, Generator, Model, OrderedTokenizer, Tokenizer, check_numbers
from ..data import Source
from ..data.latents import Latents
from .config import TrainConfig

NAMES = 10  # of classes, in a message


def check_data(config: TrainConfig, model: Model, source: Source, tokenizer: Tokenizer | None) -> None:
    """ValueError in one line for columns that the model can't read, numbers that it has no place for (in whatever row,
    as far as they are known beforehand), tokens on another grid, or names of other classes than it has."""
    classes, names = count_classes(model), config.final.labels
    if names is not None and len(names) != classes:
        accepted = f"{classes}, one for each class" if classes else f"none, this {config.model.kind} has no classes"
        raise ValueError(f"final.labels: got {len(names)} names, accepted: {accepted}")
    row = source.batch([0])
    if isinstance(model, Generator):
        _check_tokens(model, source, tokenizer, row)
    vae: Any = getattr(model, "vae", None)  # whose latents a tokenizer may be trained on
    if isinstance(source, Latents) and isinstance(model, Tokenizer) and model.size is not None:
        _check_grid(source.manifest.grid, vae.grid(model.size))
    model.check(row)
    codes = model.num_codes if isinstance(model, Generator) else None
    for name, count, what in (("labels", classes, "classes"), ("tokens", codes, "codes")):
        for part in source.column(name) if count else ():
            check_numbers(name, part, count or 0, what)


def _check_tokens(model: Generator, source: Source, tokenizer: Tokenizer | None, row: Batch) -> None:
    """How the tokens come about; those of the row are added to it where a tokenizer makes them on the way."""
    grid = None
    if source.token_rows is not None and not model.open_ended:
        ours = model.layout.tokens, model.num_codes
        if source.token_rows != ours:
            got, accepted = (f"{tokens} tokens of {codes} codes" for tokens, codes in (source.token_rows, ours))
            raise ValueError(f"data: got rows of {got}, accepted: the {accepted} of this model")
    if isinstance(source, Latents):
        source.check_text(getattr(model.config, "text", None))
        grid = source.manifest.grid
    elif tokenizer is not None and "tokens" not in row:
        tokenizer.check(row)
        with torch.no_grad():
            tokens = tokenizer.encode(row["images"].to(tokenizer.device))
        row["tokens"], grid = tokens.data.cpu(), tokens.grid
    if grid is not None and not isinstance(tokenizer, OrderedTokenizer):
        _check_grid(grid, model.layout.grid)


def _check_grid(grid: Sequence[int], ours: Sequence[int]) -> None:
    if tuple(grid) != tuple(ours):
        got, accepted = tuple(grid), tuple(ours)
        raise ValueError(f"data: its pictures make a grid of {got} tokens, accepted: the {accepted} of this model")


def data_warnings(config: TrainConfig, model: Model, source: Source) -> Iterator[str]:
    """What is allowed, but hardly meant, a line each."""
    classes, found = count_classes(model), source.found_labels()
    if classes and not found:
        yield f"model.classes is {classes}, but the data has no labels: every row trains without one"
    elif len(found) < classes:
        known = source.class_names or ()
        shown = ", ".join(known[label] if label < len(known) else str(label) for label in found[:NAMES])
        more = ", ..." * (len(found) > NAMES)
        left = classes - len(found)
        yield (
            f"model.classes is {classes}, but the data has labels of {len(found)} ({shown}{more}): "
            f"the other {left} {'is' if left == 1 else 'are'} never trained"
        )
    if config.train.sample_every and (config.model.role == "judge" or (_generates(model) and not config.tokenizer)):
        reason = "without a tokenizer it makes no pictures" if _generates(model) else "a judge makes no pictures"
        yield f"train.sample_every is {config.train.sample_every}, but draws nothing: {reason}"
    trained: Any = model.size if isinstance(model, Tokenizer) else None
    images = source.batch([0]).get("images") if trained else None
    if images is not None and tuple(images.shape[2:]) != tuple(trained):
        found_size, said = (" x ".join(map(str, sides)) for sides in (images.shape[2:], trained))
        yield f"the data is of size {found_size}, but the model will say that it was trained on {said}"


def count_classes(model: Model) -> int:
    """How many classes the model tells apart by labels; 0 where it reads none."""
    if isinstance(model, Tokenizer) or (isinstance(model, Generator) and "labels" not in model.takes):
        return 0
    return int(getattr(model.config, "classes", 0))


def class_names(model: Model, source: Source) -> tuple[str, ...] | None:
    """The names that the data has for the model's classes."""
    return (source.class_names or ())[: count_classes(model)] or None


def _generates(model: Model) -> bool:
    return isinstance(model, Generator)
