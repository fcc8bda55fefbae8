"""Weights laid out for the CPU's matrix kernels while sampling.

A sampler multiplies the same weights by a few dozen rows, hundreds of times. oneDNN is a quarter faster at that when
the weights lie in its own blocked order, which costs one copy of them (`nextok bench xar` prints both). The packed
copies live only inside the `with` block, so trained or loaded weights can never go stale behind them.

With one or two rows, as when one sample is decoded token by token, a product only waits for the weights, and oneDNN's
kernels for so few rows read them at half the speed of those for four: rows are repeated up to four (see
`nextok bench elm`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

ROWS = 128  # the batch oneDNN plans for; other sizes work, this is one entity of xAR-B with guidance
FEWEST = 4  # rows below this are slower than this many
MIN_WEIGHTS = 1 << 12  # below this, packing costs more than it saves


def packed(model: nn.Module) -> AbstractContextManager[None]:
    """Context manager: inside it, the linear layers of a model on a CPU in fp32 run on packed weights, without
    gradients. On other devices and dtypes, and where this build of torch has no oneDNN, it does nothing."""
    parameter = next(model.parameters())
    able = parameter.device.type == "cpu" and parameter.dtype == torch.float32 and type(parameter.data) is Tensor
    return _packed(model) if able and torch.backends.mkldnn.is_available() else nullcontext()


@contextmanager
def _packed(model: nn.Module) -> Iterator[None]:
    layers = [m for m in model.modules() if type(m) is nn.Linear and m.weight.numel() >= MIN_WEIGHTS]
    try:
        with torch.no_grad():
            for layer in layers:
                weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
                layer.forward = partial(_linear, layer, weight)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _linear(layer: nn.Linear, weight: Tensor, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or x.dtype != torch.float32:
        return nn.functional.linear(x, layer.weight, layer.bias)
    rows = x.numel() // x.shape[-1]
    if 0 < rows < FEWEST:
        several = x.reshape(rows, -1).repeat(-(-FEWEST // rows), 1)
        product = torch.ops.mkldnn._linear_pointwise(several, weight, layer.bias, "none", [], "")
        return product[:rows].view(*x.shape[:-1], -1)
    return torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")
