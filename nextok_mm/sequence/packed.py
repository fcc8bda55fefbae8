"""Weights laid out for the CPU's matrix kernels while sampling.

A sampler multiplies the same weights by a few dozen rows, hundreds of times. oneDNN is a quarter faster at that when
the weights lie in its own blocked order, which costs one copy of them (`nextok bench xar` prints both). The packed
copies live only inside the `with` block, are shared by all threads that are in one, and the last to leave removes them.

They never go stale: every `with` block lays the weights out anew, and a layer whose weight was written to, or replaced,
since then multiplies by the weight itself. A layer is packed when it first has something to multiply, so nobody waits
for that before the first token.

Few rows only wait for the weights. One row is multiplied by the weight as it is, which reads memory at its full rate:
oneDNN does no better with a packed copy, and its own overhead is that of ten plain products. With two or three rows its
kernels read at half the speed of those for four, so rows are repeated up to four (see `nextok bench elm`).
"""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock
from typing import Any

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
    layers: list[nn.Linear] = []
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


def _layers(model: nn.Module) -> list[nn.Linear]:
    """The layers that can be packed; what torch.compile traces can't hold oneDNN's weights."""
    found, waiting = list[nn.Linear](), [model] if torch.backends.mkldnn.is_available() else []
    while waiting:
        module = waiting.pop()
        own = module.__dict__.get("forward")
        compiled = (getattr(module, "_compiled_call_impl", None), getattr(own, "_torchdynamo_orig_callable", None))
        if any(part is not None for part in compiled) or hasattr(module, "_orig_mod"):
            continue
        if type(module) is nn.Linear and (own is None or isinstance(own, _Packed)) and _able(module.weight):
            found.append(module)
        waiting += module.children()
    return found


def _able(weight: Tensor) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and type(weight.data) is Tensor
    return plain and weight.numel() >= MIN_WEIGHTS


def _enter(layer: nn.Linear) -> None:
    forward = layer.__dict__.get("forward") or _Packed(layer)
    forward.enter()
    layer.__dict__["forward"] = forward


def _leave(layer: nn.Linear) -> None:
    forward = layer.__dict__.get("forward")
    if isinstance(forward, _Packed):
        forward.users -= 1
        if forward.users <= 0:
            layer.__dict__.pop("forward", None)


class _Packed:
    """Stands in for a layer's `forward`; users: how many `with` blocks it is in."""

    def __init__(self, layer: nn.Linear):
        self.layer, self.users = layer, 0
        self.packed: tuple[Tensor, tuple[int, int], Tensor] | None = None  # which weight, as of when, and its copy

    def enter(self) -> None:
        """One more `with` block is in it: the weight is laid out anew when somebody needs it."""
        self.users += 1
        self.packed = None

    def _fresh(self, packed: tuple[Tensor, tuple[int, int], Tensor]) -> bool:
        """Whether the copy is still that of the layer's weight."""
        return packed[0] is self.layer.weight and packed[1] == _state(packed[0])

    def _pack(self) -> tuple[Tensor, tuple[int, int], Tensor]:
        """The copy; of threads that need it at once one makes it."""
        with _lock:
            if self.packed is None:
                weight = self.layer.weight
                with torch.inference_mode(False), torch.no_grad():
                    copied = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
                    self.packed = weight, _state(weight), copied
            return self.packed

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        rows = x.numel() // x.shape[-1]
        if rows < 2 or torch.is_grad_enabled() or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return nn.functional.linear(x, weight, bias)
        packed = self.packed or self._pack()
        if not self._fresh(packed):
            return nn.functional.linear(x, weight, bias)
        if rows < FEWEST:
            several = x.reshape(rows, -1).repeat(-(-FEWEST // rows), 1)
            product = torch.ops.mkldnn._linear_pointwise(several, packed[2], bias, "none", [], "")
            return product[:rows].view(*x.shape[:-1], -1)
        return torch.ops.mkldnn._linear_pointwise(x, packed[2], bias, "none", [], "")

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Packed":
        """A copy of the model stands in no `with` block: its weights are its own, and aren't packed."""
        return _Packed(copy.deepcopy(self.layer, memo))

    def __reduce__(self) -> Any:
        return _Packed, (self.layer,)


def _state(weight: Tensor) -> tuple[int, int]:
    """Another one after a weight was written to."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
