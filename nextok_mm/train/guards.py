"""What stops a training in time: numbers that aren't finite, signals, and the clock."""

import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn


class NotFinite(ValueError):
    """The training met a number that isn't finite; the text names the first tensor that has one."""


def explain(model: nn.Module, passes: Iterable[Callable[[], Any]], batches: Iterable[dict[str, Tensor]]) -> str:
    """Name the first tensor that isn't finite: in the data, the weights, then the modules of a repeated forward pass.

    passes: functions that repeat the step's forward passes and return a Loss, one for each batch.
    """
    for batch in batches:
        for name, tensor in batch.items():
            if not _finite(tensor):
                return f"batch[{name!r}]"
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"weight {name!r}"
    for repeat in passes:
        found: list[str] = []
        hooks = [module.register_forward_hook(_watch(name, found)) for name, module in model.named_modules() if name]
        try:
            with torch.enable_grad():
                total, parts = repeat()
        finally:
            for hook in hooks:
                hook.remove()
        if found:
            return f"output of module {found[0]!r}"
        for name, part in parts.items():
            if not _finite(part):
                return f"loss part {name!r}"
        if not _finite(total):
            return "loss"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not _finite(parameter.grad):
            return f"gradient of weight {name!r}"
    return "a tensor that a second pass didn't meet again"


def _watch(name: str, found: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        if not found and not all(_finite(tensor) for tensor in tensors if isinstance(tensor, Tensor)):
            found.append(name)

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
