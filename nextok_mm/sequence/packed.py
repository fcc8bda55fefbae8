"""Weights laid out for the CPU's matrix kernels while sampling.

A sampler multiplies the same weights by a few dozen rows, hundreds of times. oneDNN is a quarter faster at that when
the weights lie in its own blocked order, which costs one copy of them (`nextok bench xar` prints both). The packed
copies live only inside the `with` block, are shared by all threads that are in one, and the last to leave removes them.

They never go stale: every `with` block lays the weights out anew, and a layer whose weight was written to, or replaced,
since then multiplies by the weight itself. A layer is packed when it first has something to multiply, so nobody waits
for that before the first token.

Few rows only wait for the weights, and how fast those are read depends on what runs innermost. One row is multiplied
without oneDNN: by the weight as it is where its rows are the longer side, by a copy whose columns lie together where
those are (a sum of short products is slow, adding long columns is not; `nextok bench language`). With two or three rows
oneDNN's kernels read at half the speed of those for four, so rows are repeated up to four (`nextok bench elm`).
"""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ROWS = 128  # the batch oneDNN plans for; other sizes work, this is one entity of xAR-B with guidance
FEWEST = 4  # rows below this are slower than this many
MIN_WEIGHTS = 1 << 12  # below this, packing costs more than it saves

_lock = RLock()  # of one thread for good: an abandoned `decode` may leave in the middle of another's entering


@contextmanager
def packed(model: nn.Module) -> Generator[None, None, None]:
    """Context manager: inside it, the linear layers of a model on a CPU in fp32 run on packed weights, without
    gradients. Other devices and dtypes, compiled modules, layers whose `forward` somebody else has replaced, and builds
    of torch without oneDNN are left as they are."""
    layers: list[Layer] = []
    try:
        with _lock:
            for layer in _layers(model):
                _enter(layer)
                layers.append(layer)
        yield
    finally:
        with _lock:
            for layer in layers:
                _leave(layer)


class SharedTable(nn.Embedding):
    """The vectors of tokens, which are the output layer's rows as well."""

    def logits(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return nn.functional.linear(x, self.weight)


Layer = nn.Linear | SharedTable
_CALLS: dict[Any, str] = {nn.Linear: "forward", SharedTable: "logits"}
"""The layers whose weights are packed, and the method that multiplies by them."""


def _layers(model: nn.Module) -> list[Layer]:
    """The layers that can be packed; what torch.compile traces can't hold oneDNN's weights."""
    found, waiting = list[Layer](), [model] if torch.backends.mkldnn.is_available() else []
    while waiting:
        module = waiting.pop()
        own = module.__dict__.get("forward")
        compiled = (getattr(module, "_compiled_call_impl", None), getattr(own, "_torchdynamo_orig_callable", None))
        if any(part is not None for part in compiled) or hasattr(module, "_orig_mod"):
            continue
        if isinstance(module, Layer) and type(module) in _CALLS and (own is None or isinstance(own, _Packed)):
            found += [module] if _able(module.weight) else []
        waiting += module.children()
    return found


def _able(weight: Tensor) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and type(weight.data) is Tensor
    return plain and weight.numel() >= MIN_WEIGHTS


def _enter(layer: Layer) -> None:
    call = layer.__dict__.get(_CALLS[type(layer)]) or _Packed(layer)
    call.enter()
    layer.__dict__[_CALLS[type(layer)]] = call


def _leave(layer: Layer) -> None:
    call = layer.__dict__.get(_CALLS[type(layer)])
    if isinstance(call, _Packed):
        call.users -= 1
        if call.users <= 0:
            layer.__dict__.pop(_CALLS[type(layer)], None)


class _Copy(NamedTuple):
    """A weight laid out in another way; `of` it as it was at `state`."""

    of: Tensor
    state: tuple[int, int]
    weight: Tensor


class _Packed:
    """Stands in for the method of a layer; users: how many `with` blocks it is in."""

    def __init__(self, layer: Layer):
        self.layer, self.users = layer, 0
        self.copies: dict[Callable[[Tensor], Tensor], _Copy] = {}  # by what makes them

    def enter(self) -> None:
        """One more `with` block is in it: the weight is laid out anew when somebody needs it."""
        self.users += 1
        self.copies = {}

    def _laid_out(self, weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The copy of a weight; of threads that need it at once one makes it. None where it is that of another one."""
        copies = self.copies
        copied = copies.get(make)
        if copied is None:
            with _lock:
                if make not in copies:
                    with torch.inference_mode(False), torch.no_grad():
                        copies[make] = _Copy(weight, _state(weight), make(weight.detach()))
                copied = copies[make]
        return copied.weight if copied.of is weight and copied.state == _state(weight) else None

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.layer.weight, getattr(self.layer, "bias", None)
        rows = x.numel() // x.shape[-1]
        if not rows or torch.is_grad_enabled() or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return nn.functional.linear(x, weight, bias)
        if rows == 1:
            wide = weight.shape[0] <= weight.shape[1]
            matrix, vector = weight if wide else self._laid_out(weight, _by_columns), x.reshape(-1)
            matrix = weight if matrix is None else matrix
            y = torch.mv(matrix, vector) if bias is None else torch.addmv(bias, matrix, vector)
            return y.view(*x.shape[:-1], -1)
        copied = self._laid_out(weight, _blocked)
        if copied is None:
            return nn.functional.linear(x, weight, bias)
        if rows < FEWEST:
            several = x.reshape(rows, -1).repeat(-(-FEWEST // rows), 1)
            product = torch.ops.mkldnn._linear_pointwise(several, copied, bias, "none", [], "")
            return product[:rows].view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, copied, bias, "none", [], "")

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Packed":
        """A copy of the model stands in no `with` block: its weights are its own, and aren't packed."""
        return _Packed(copy.deepcopy(self.layer, memo))

    def __reduce__(self) -> Any:
        return _Packed, (self.layer,)


def _blocked(weight: Tensor) -> Tensor:
    """In oneDNN's own order."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _by_columns(weight: Tensor) -> Tensor:
    """The same matrix, with the numbers of a column side by side in memory."""
    return weight.t().contiguous().t()


def _state(weight: Tensor) -> tuple[int, int]:
    """Another one after a weight was written to."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
