"""What the tabs share: the models on offer, the limits of what a visitor can ask for, and work that can be stopped.

A browser's limits bind nobody who talks to the server directly, so every tab's `checked` states every limit, held
against the model that was chosen, with these functions. gr.Error is what a visitor sees: one line that says what was
given and what is accepted. Gradio's own checks are turned off (`unchecked`): they know only the first model's limits,
and leave a traceback in the server's log. A setting that nobody gives (None, or an empty field) is the model's own.
"""

import atexit
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import gradio as gr

import nextok_mm as nx

MAX_SEED, MAX_GUIDANCE, MAX_TEMPERATURE, MAX_TEXT = 2**31 - 1, 20.0, 4.0, 200
EVERY, OWN = "every class in turn", "the model's own"
T = TypeVar("T")


class Turns:
    """Work that is done under a lock, which is taken for good when Python ends.

    A server's threads are cut off at that moment, and one that is inside torch would take the process down with it
    ("terminate called without an active exception"). So Ctrl-C waits for the entity that is being drawn.
    """

    def __init__(self) -> None:
        """Open until Python ends."""
        self.lock = threading.Lock()
        atexit.register(self.lock.acquire)

    def each(self, work: Iterator[T]) -> Iterator[T]:
        """What `work` gives, item by item, until it gives None; what it refuses, the visitor reads."""
        try:
            while True:
                with self.lock:
                    item = next(work, None)
                if item is None:
                    return
                yield item
        except ValueError as error:
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from None
        finally:
            with self.lock:
                del work  # its tensors are torch's to free


def generators(models: Sequence[str]) -> dict[str, nx.Pipeline]:
    """The models by name, loaded. ValueError where there is none, or one that generates nothing."""
    if not models:
        raise ValueError("models: got none, accepted: at least one generator")
    loaded = {name: nx.load(name) for name in models}
    for name, pipeline in loaded.items():
        if pipeline.generator is None:
            raise ValueError(f"models: {name} is a tokenizer, accepted: generators")
    return loaded


def choices(loaded: dict[str, nx.Pipeline]) -> list[tuple[str, str]]:
    """What the menu of models shows, and what it sends."""
    return [(pipeline.card.name or name, name) for name, pipeline in loaded.items()]


def offered(loaded: dict[str, nx.Pipeline], model: str) -> nx.Pipeline:
    """The model of this name; gr.Error where none is offered under it."""
    if not isinstance(model, str) or model not in loaded:
        raise refused("model", model, ", ".join(loaded))
    return loaded[model]


def classes_of(pipeline: nx.Pipeline) -> list[str]:
    """What a visitor can ask a model for."""
    config: Any = pipeline.generator and pipeline.generator.config
    names = pipeline.card.labels or tuple(str(index) for index in range(getattr(config, "classes", 0)))
    return [EVERY, *names]


def label_of(pipeline: nx.Pipeline, label: str) -> list[int] | None:
    """The class that was chosen, or None for every one in turn."""
    classes = classes_of(pipeline)
    if label not in classes:
        raise refused("class", label, ", ".join(classes))
    return None if label == EVERY else [classes.index(label) - 1]


def unchecked(component: Any) -> Any:
    """The same component, which passes on whatever it is sent."""
    component.preprocess = lambda payload: payload
    return component


def field(label: str, own: Any, low: float, high: float, visible: bool = True) -> gr.Textbox:
    """A number that is the model's own where the field is empty. (gr.Number can't be: a browser opens it with a 0.)"""
    shown = f"{own:g}" if isinstance(own, int | float) else own
    return gr.Textbox("", label=f"{label} ({low:g} to {high:g})", placeholder=f"{shown}, {OWN}", visible=visible)


def typed(value: Any) -> Any:
    """What a field says: a number where it is one, None where it is empty."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError:
        return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number from low to high; gr.Error for anything else."""
    if number(name, value, low, high) != int(value):
        raise refused(name, value, "a whole number")
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number from low to high; gr.Error for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise refused(name, value, f"{low:g} to {high:g}")
    return float(value)


def refused(name: str, value: Any, accepted: str) -> gr.Error:
    """One line for the visitor, and no trace in the server's log."""
    return gr.Error(f"{name}: got {value!r:.40}, accepted: {accepted}", print_exception=False)
