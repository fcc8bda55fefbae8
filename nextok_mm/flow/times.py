"""Where on the path to train: samplers of t in (0, 1), one draw from each row's own stream."""

import torch
from torch import Tensor

from ..rng import Rng

TIME_SAMPLERS = ("logit_normal", "uniform")


def sample_times(kind: str, rng: Rng, count: int, mean: float = 0.0) -> Tensor:
    """[B, count] times in fp32: `uniform`, or `logit_normal` (SD3, arXiv 2403.03206, section 3.1; scale 1).

    mean: of the logit; above 0 there are more times near the noise, as larger pictures want it.
    """
    if kind == "logit_normal":
        return torch.sigmoid(rng.normal(count) + mean)
    if kind == "uniform":
        return rng.uniform(count)
    raise ValueError(f"time sampler: got {kind!r}, accepted: {', '.join(TIME_SAMPLERS)}")
