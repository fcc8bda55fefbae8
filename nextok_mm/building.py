"""Building a model whose weights come from a file: nothing is drawn, nothing larger than the file is made."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .card import CONFIG
from .weights import WEIGHTS


class _Building(threading.local):
    """What this thread builds without weights: how many more parameters and numbers it may have. None: nothing."""

    left: list[int] | None = None


_BUILDING, _BUILD_LOCK = _Building(), threading.Lock()


@cache
def _hook() -> None:
    """Put parameters of models that `without_weights` builds onto the meta device.

    Registered once and for all: torch walks its dict of hooks in every thread that builds a module, so that putting
    one there and taking it away again ends other threads' loops.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def onto_meta(module: nn.Module, name: str, parameter: Any) -> Any:
        left = _BUILDING.left
        if left is None or parameter is None:
            return None
        left[0], left[1] = left[0] - 1, left[1] - parameter.numel()
        if min(left) < 0:
            raise ValueError(f"{CONFIG} describes a model larger than what {WEIGHTS} holds, at weight {name!r}")
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    register_module_parameter_registration_hook(onto_meta)


@contextmanager
def without_weights(held: tuple[int, int]) -> Iterator[None]:
    """Parameters of models built inside live on the meta device: their initial values would be thrown away unseen.

    held: tensors and numbers of the weights file. ValueError as soon as far more are built (a parameter may be
    registered twice; which shape doesn't fit is better said by `weights.fill`). One thread at a time, since building
    draws from the global generator.
    """
    with _BUILD_LOCK:
        _hook()
        _BUILDING.left = [2 * held[0] + 64, 64 * held[1] + (1 << 24)]
        try:
            with torch.random.fork_rng(devices=[]), _NoDraws():
                yield
        finally:
            _BUILDING.left = None


class _NoDraws(TorchFunctionMode):
    """Leaves out random initial values on the meta device, where they are nothing but torch importing its compiler.

    That import takes as long as torch's own.
    """

    DRAWS = ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, or the tensor as it is."""
        if getattr(func, "__name__", "") in self.DRAWS:
            tensor = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))
