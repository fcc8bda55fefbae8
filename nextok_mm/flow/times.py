"""Where on the path to train: samplers of t in (0, 1), one draw from each row's own stream."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..rng import Rng


def _logit_normal(rng: Rng, count: int) -> Tensor:
    return torch.sigmoid(rng.normal(count))


def _uniform(rng: Rng, count: int) -> Tensor:
    return rng.uniform(count)


TIME_SAMPLERS: dict[str, Callable[[Rng, int], Tensor]] = {"logit_normal": _logit_normal, "uniform": _uniform}


def sample_times(kind: str, rng: Rng, count: int) -> Tensor:
    """[B, count] times in fp32: `uniform`, or `logit_normal` (SD3, arXiv 2403.03206, section 3.1; mean 0, scale 1)."""
    if kind not in TIME_SAMPLERS:
        raise ValueError(f"time sampler: got {kind!r}, accepted: {', '.join(TIME_SAMPLERS)}")
    return TIME_SAMPLERS[kind](rng, count)
