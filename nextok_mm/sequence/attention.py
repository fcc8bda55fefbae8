"""One attention, four backends that compute the same thing.

| backend  | how                                                     | where it is the right one          | has run on |
|----------|---------------------------------------------------------|------------------------------------|------------|
| slices   | each run of queries against just the keys it sees       | CPU, and few big entities          | CPU        |
| sdpa     | PyTorch's scaled dot product, boolean mask or is_causal | many small entities; the reference | CPU        |
| flex     | FlexAttention, compiled on a GPU                        | GPU training (no CPU backward)     | CPU alone  |
| xformers | xformers' kernels, run by run                           | GPUs with that extra installed     | nothing    |

None of them has run on a GPU yet: xformers never ran, and flex never ran compiled.

`auto` resolves to one of them up front, by rule; nothing falls back silently.
Shapes: q_BHQA, k_BHKA, v_BHKA -> BHQA (B batch, H heads, Q queries, K keys, A head dim). Keys and values may have fewer
heads, each shared by a group of neighbouring query heads (arXiv 2305.13245).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import Mask, Run

MAX_SLICES = 32  # beyond this many runs one masked call is quicker than the loop (measured on CPU, `nextok bench`)


def choose_backend(backend: str, mask: Mask, device: torch.device) -> str:
    """The name of the backend that will run; ValueError for a name that isn't one or can't run on this device."""
    if backend == "auto":
        return "sdpa" if mask.causal or len(mask.runs) > MAX_SLICES else "slices"
    if backend not in BACKENDS:
        raise ValueError(f"attention: got {backend!r}, accepted: auto, {', '.join(BACKENDS)}")
    if backend == "xformers" and device.type != "cuda":
        raise ValueError(
            f"attention: 'xformers' has no {device.type} operator; accepted here: auto, slices, sdpa, flex"
        )
    return backend


def attention(
    q_BHQA: Tensor,
    k_BHKA: Tensor,
    v_BHKA: Tensor,
    mask: Mask,
    backend: str = "auto",
    scale: float | None = None,
    dropout: float = 0.0,
    padding_BK: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention under a mask; `scale` defaults to A**-0.5. Returns [B, H, Q, A].

    padding_BK: keys that nobody of a row sees beside what the mask says (the padding of its caption); sdpa alone can.
    """
    assert q_BHQA.shape[2] == mask.queries and k_BHKA.shape[2] >= mask.keys, (q_BHQA.shape, k_BHKA.shape, mask)
    group = q_BHQA.shape[1] // k_BHKA.shape[1]
    if group > 1 and mask.queries == 1 and mask.full:  # the group's queries see the same keys: they are so many queries
        folded = q_BHQA.reshape(len(q_BHQA), -1, group, q_BHQA.shape[-1])
        mask = _shared(group, mask.runs[0].keys)
        y = attention(folded, k_BHKA, v_BHKA, mask, backend, scale, dropout, padding_BK)
        return y.reshape(q_BHQA.shape[:-1] + y.shape[-1:])
    if k_BHKA.shape[2] > mask.keys:
        k_BHKA, v_BHKA = k_BHKA[:, :, : mask.keys], v_BHKA[:, :, : mask.keys]
    if group > 1:
        k_BHKA, v_BHKA = (x.repeat_interleave(group, dim=1) for x in (k_BHKA, v_BHKA))
    if padding_BK is not None:
        if backend not in ("auto", "sdpa"):
            raise ValueError(f"attention: got {backend!r} with padding, accepted: auto, sdpa")
        seen = _dense(mask, str(q_BHQA.device)) & ~padding_BK[:, None, None, : mask.keys]
        return F.scaled_dot_product_attention(q_BHQA, k_BHKA, v_BHKA, attn_mask=seen, dropout_p=dropout, scale=scale)
    name = choose_backend(backend, mask, q_BHQA.device)
    return BACKENDS[name](q_BHQA, k_BHKA, v_BHKA, mask, scale, dropout)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None, dropout: float) -> Tensor:
    dense = None if mask.full or mask.causal else _dense(mask, str(q.device))
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=dense, dropout_p=dropout, is_causal=mask.causal and q.shape[2] > 1, scale=scale
    )


def _slices(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None, dropout: float) -> Tensor:
    return _by_run(
        q, k, v, mask, lambda a, b, c: F.scaled_dot_product_attention(a, b, c, dropout_p=dropout, scale=scale)
    )


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None, dropout: float) -> Tensor:
    try:
        from xformers.ops import memory_efficient_attention  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError("attention: 'xformers' is not installed; pip install 'nextok_mm[xformers]'") from None

    def kernel(a: Tensor, b: Tensor, c: Tensor) -> Tensor:  # xformers keeps heads behind tokens
        a, b, c = (x.transpose(1, 2) for x in (a, b, c))
        y: Tensor = cast(Any, memory_efficient_attention)(a, b, c, p=dropout, scale=scale)
        return y.transpose(1, 2)

    return _by_run(q, k, v, mask, kernel)


def _by_run(q: Tensor, k: Tensor, v: Tensor, mask: Mask, kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    if mask.full:
        return kernel(q, k, v)
    out = [kernel(q[:, :, run.start : run.stop], _gather(k, run.keys), _gather(v, run.keys)) for run in mask.runs]
    return torch.cat(out, dim=2)


def _gather(x: Tensor, keys: tuple[tuple[int, int], ...]) -> Tensor:
    parts = [x[:, :, start:stop] for start, stop in keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None, dropout: float) -> Tensor:
    if dropout:
        raise ValueError("attention: 'flex' has no dropout; set dropout=0 or take 'sdpa'")
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        raise ValueError("attention: 'flex' has no backward on a CPU; accepted for training here: auto, slices, sdpa")
    kernel, block_mask = _flex_parts(mask, str(q.device))
    return kernel(q.contiguous(), k.contiguous(), v.contiguous(), block_mask=block_mask, scale=scale)


@lru_cache(maxsize=64)
def _shared(group: int, keys: tuple[tuple[int, int], ...]) -> Mask:
    """The mask of so many queries that see the same keys."""
    return Mask((Run(0, group, keys),))


@lru_cache(maxsize=64)
def _dense(mask: Mask, device: str) -> Tensor:
    return mask.dense(device)


@lru_cache(maxsize=64)
def _flex_parts(mask: Mask, device: str):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    rows = mask.intervals(device)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key >= rows[query, 0, 0]) & (key < rows[query, 0, 1])
        for i in range(1, rows.shape[1]):
            seen = seen | ((key >= rows[query, i, 0]) & (key < rows[query, i, 1]))
        return seen

    block_mask = create_block_mask(visible, None, None, mask.queries, mask.keys, device=device)
    return (torch.compile(flex_attention) if device.startswith("cuda") else flex_attention), block_mask


BACKENDS: dict[str, Callable[..., Tensor]] = {"slices": _slices, "sdpa": _sdpa, "flex": _flex, "xformers": _xformers}
