"""Using a model rather than training it: the same numbers whatever mode its owner left it in.

A generator in the middle of its training is in train mode, where dropout draws from the global generator; a caller may
have gradients on, or be inside `torch.inference_mode`, whose tensors can't be written to once it is left. None of that
may reach a sample, and none of what is done here may reach the caller: the modes are his again when the call is over.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import RLock
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_lock = RLock()
_held: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()  # modules that were training, and how many hold them


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Context manager: inside it a model is in eval mode, there are no gradients, and tensors are ordinary ones.

    Each module is in its own mode again when the last thread that is inside leaves. Don't yield to a caller from
    inside: gradients would stay off for him.
    """
    with _lock:
        mine = [module for module in _modules(model) if module.training or (_held and module in _held)]
        for module in mine:
            _held[module] = _held.get(module, 0) + 1
            module.training = False
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        with _lock:
            for module in mine:
                _held[module] -= 1
                if not _held[module]:
                    del _held[module]
                    module.training = True


def _modules(model: nn.Module) -> list[nn.Module]:
    """A model and all inside it; `nn.Module.modules` takes so much longer that a sampler's small steps feel it."""
    found = [model]
    for module in found:
        found += [child for child in module._modules.values() if child is not None]
    return found


def inferring(method: Callable[Concatenate[M, P], T]) -> Callable[Concatenate[M, P], T]:
    """Decorator of a model's method, or of a function of a model: it runs inside `inference`."""

    @wraps(method)
    def inside(self: M, *args: P.args, **kwargs: P.kwargs) -> T:
        with inference(self):
            return method(self, *args, **kwargs)

    return inside
