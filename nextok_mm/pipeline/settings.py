"""Sampling settings by name: those of a call in place of the checkpoint's own, and what else may be said to a model."""

from typing import Any, cast

from .. import borrowed
from ..contracts import Generator


def settings_of(model: Any, sampling: dict[str, Any]) -> Any:
    """A model's own sampling settings, those replaced that are given."""
    given = {name: value for name, value in sampling.items() if value is not None}
    borrowed.refuse(given, names(model))
    return model.Sampling.parse({**model.config.sampling.model_dump(), **given}, where="sampling")


def names(model: Any) -> set[str]:
    """What may be said to a model: its settings' names, and the arguments of a pipeline's methods for its role."""
    arguments = ("seed", "batch", "progress")
    if isinstance(model, Generator):
        arguments += ("labels", "text", "voice", "n", "stop", "known")
    settings: Any = getattr(cast(Any, model), "Sampling", None)
    return {*arguments, *getattr(settings, "model_fields", ())}
