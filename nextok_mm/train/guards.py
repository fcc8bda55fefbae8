"""What stops a training in time: numbers that aren't finite, signals, and the clock."""

import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import Batch


class NotFinite(ValueError):
    """The training met a number that isn't finite; the text names the first tensor that has one."""


def explain(model: nn.Module, batches: Iterable[tuple[Batch, Any]], forward: Callable[..., Any]) -> str:
    """Name the first tensor that isn't finite, in the order of the data, the weights, the forward and backward pass.

    The step is repeated: `forward(model, batch, seeds)` gives a Loss for each of `batches`. model: a copy that may be
    spoilt, without the hooks that talk to other processes.
    """
    batches = list(batches)
    for batch, _ in batches:
        for name, tensor in batch.items():
            if not _finite(tensor):
                return f"batch[{name!r}]"
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if not _finite(parameter):
            return f"weight {name!r}"
    found: list[str] = []
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(_watch(f"output of module {name!r}", found))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_watch_gradient(f"gradient of weight {name!r}", found))
    for batch, seeds in batches:
        loss = forward(model, batch, seeds)
        found += [f"loss part {name!r}" for name, part in loss.parts.items() if not _finite(part)]
        if not found and not _finite(loss.total):
            found.append("loss")
        if not found:
            loss.total.backward()
        if found:
            return found[0]
    return "one that a second pass didn't meet (or another process's)"


def _watch(what: str, found: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        if not found and not all(_finite(tensor) for tensor in tensors if isinstance(tensor, Tensor)):
            found.append(what)

    return hook


def _watch_gradient(what: str, found: list[str]) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        if not found and parameter.grad is not None and not _finite(parameter.grad):
            found.append(what)

    return hook


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())


class Stop:
    """Whether to save and leave: after SIGINT or SIGTERM, or when the time is up. A second signal kills as ever."""

    def __init__(self, max_minutes: float | None):
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.signal: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody set a handler
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        signal.signal(number, self._before[number])

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self.signal:
            return self.signal
        return "max_minutes" if self.deadline is not None and time.monotonic() > self.deadline else None
