"""Rotary position embedding over one, two or three axes.

The head dim is shared out evenly among the axes (2-D: half for rows, half for columns) and each part turns pairs of
neighbouring channels (interleaved) by position * theta**(-2i/part). Positions come from the layout, so a token keeps
its angle whatever order it is generated in.
Sources: RoFormer (arXiv 2104.09864), section 3.4; axial form as in EVA-02 and xAR.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..config import Config

Pairs = Literal["neighbors", "halves"]


class LongRope(Config):
    """Llama 3's stretching of a rotary embedding to longer texts than it was first trained on.

    Slow turns are slowed by `factor`, fast ones are left, and those between are mixed. Source: Llama 3 (arXiv
    2407.21783), section 3.4.2 and its code.
    """

    factor: float = Field(gt=0, le=1e6, allow_inf_nan=False, description="How many times longer the texts become.")
    low: float = Field(
        gt=0, le=1e6, allow_inf_nan=False, description="Wavelengths above original / low are slowed in full."
    )
    high: float = Field(
        gt=0, le=1e6, allow_inf_nan=False, description="Wavelengths below original / high are left as they are."
    )
    original: int = Field(gt=0, le=1 << 30, description="Length of the first training, in tokens.")


def rope_rates(count: int, theta: float = 10000.0, scaling: LongRope | None = None) -> Tensor:
    """[count] radians by which each pair of channels turns from one position to the next, fp32."""
    rates = theta ** (-torch.arange(count, dtype=torch.float32) / count)
    if scaling is None:
        return rates
    turns = scaling.original * rates / (2 * torch.pi)  # within the first training's length
    share = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return rates * (share + (1 - share) / scaling.factor)


def rope_table(positions_SX: Tensor, head_dim: int, theta: float = 10000.0, scaling: LongRope | None = None) -> Tensor:
    """[..., S, axes] positions -> [..., S, head_dim / 2, 2] cosines and sines, fp32; the first axes take what doesn't
    divide.

    A position that is not a number means "nowhere": its entry is zero, so its query and key vanish and it scores 0.
    """
    axes = positions_SX.shape[-1]
    if head_dim % 2 or head_dim < 2 * axes:
        raise ValueError(f"head dim: got {head_dim}, accepted: even and at least {2 * axes} for {axes} axes")
    pairs = [head_dim // 2 // axes + (axis < head_dim // 2 % axes) for axis in range(axes)]
    angles: list[Tensor] = []
    for axis, count in enumerate(pairs):
        rates = rope_rates(count, theta, scaling).to(positions_SX.device)
        angles.append(positions_SX[..., axis, None].float() * rates)
    angle = torch.cat(angles, dim=-1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).nan_to_num(0.0)


def turns(table_SP2: Tensor, pairs: Pairs = "neighbors") -> Tensor:
    """What `turn` multiplies by, made once for all layers of a pass: for neighbors [..., S, 1, P] complex numbers, for
    halves [2, ..., S, 1, 2 P], the cosines of all channels and their signed sines."""
    if pairs == "neighbors":
        return torch.view_as_complex(table_SP2.float())[..., None, :]
    cosines, sines = table_SP2.float().unbind(-1)
    return torch.stack((torch.cat((cosines, cosines), dim=-1), torch.cat((-sines, sines), dim=-1)))[..., None, :]


def turn(x_BSHA: Tensor, by: Tensor) -> Tensor:
    """Turn the channel pairs of queries or keys [B, S, heads, A] by `turns`; in fp32, returned in the input's dtype.

    A pair of neighbors is a complex number and turning it a product: one pass over memory, 15x the real formula's speed
    on a CPU. Halves lie apart, and are turned by two real products over all channels.
    """
    if by.is_complex():
        turned = torch.view_as_complex(torch.unflatten(x_BSHA.float(), -1, (-1, 2))) * by
        return torch.view_as_real(turned).flatten(-2).type_as(x_BSHA)
    x = x_BSHA.float()
    return torch.addcmul(x * by[0], x.roll(x.shape[-1] // 2, -1), by[1]).type_as(x_BSHA)


def rotate(x_BSHA: Tensor, table_SP2: Tensor, pairs: Pairs = "neighbors") -> Tensor:
    """Turn queries or keys by a table of [S, P, 2], or [B, S, P, 2] where rows stand at places of their own."""
    return turn(x_BSHA, turns(table_SP2, pairs))
