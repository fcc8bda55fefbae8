"""Masked decoding: all masked codes are guessed in every pass, and the surest guesses stay.

Shapes: B batch, N positions, G groups.
Source: Chang et al., MaskGIT (arXiv 2202.04200), section 3.2.
"""

import math

import torch
from torch import Tensor

from ..rng import Rng


def masked_after(done: int, passes: int, masked: int) -> int:
    """How many of `masked` codes stay so after `done` of the passes: a cosine, 0 at the end."""
    return math.floor(masked * math.cos(math.pi / 2 * done / passes)) if done < passes else 0


def train_mask(rng: Rng, positions: int) -> Tensor:
    """bool [B, N]: a share cos(pi/2 * u) of each row is masked, u uniform, at least one position."""
    rate_B = torch.cos(math.pi / 2 * rng.uniform())
    count_B = (positions * rate_B).floor().clamp(min=1)
    return rng.uniform(positions).argsort(dim=1).argsort(dim=1) < count_B[:, None]


def confidence(logits_BNGV: Tensor, codes_BNG: Tensor, noise: float, rng: Rng) -> Tensor:
    """How sure each guess is, [B, N]: its log share and Gumbel noise of this size, the mean over the groups."""
    shares = logits_BNGV.float().log_softmax(-1).gather(-1, codes_BNG[..., None]).squeeze(-1)
    uniform = rng.uniform(*codes_BNG.shape[1:], like=shares).clamp(1e-20, 1 - 1e-7)
    return (shares - noise * (-uniform.log()).log()).mean(-1)


def least_sure(confidence_BN: Tensor, masked_BN: Tensor, count_B: Tensor) -> Tensor:
    """bool [B, N]: the `count` least sure of the masked positions of each row."""
    rank = confidence_BN.masked_fill(~masked_BN, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count_B[:, None]) & masked_BN
