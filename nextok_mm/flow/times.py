"""Where on the path to train: samplers of t in (0, 1), and the noise to begin with, from each row's own stream."""

import math

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


def bounded_noise(rng: Rng, channels: int, temperature: float, clamp: float | None, like: Tensor) -> Tensor:
    """[B, channels] noise of variance `temperature`; with `clamp` a normal number that lies within, drawn as such."""
    deviation = temperature**0.5
    if clamp is None or not deviation:
        return rng.normal(channels, like=like) * deviation
    share = math.erf(clamp / deviation / math.sqrt(2))  # the chance of lying within
    within = ((2 * rng.uniform(channels) - 1) * share).clamp(-1 + 1e-7, 1 - 1e-7)
    return (torch.erfinv(within) * (math.sqrt(2) * deviation)).clamp(-clamp, clamp).to(like)
