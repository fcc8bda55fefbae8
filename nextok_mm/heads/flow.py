"""The flow head: the next X is continuous, and the hidden state of its noised version predicts a velocity.

Shapes: B batch, N tokens, E entities, D width, C channels. Times: t = 0 data, t = 1 noise.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """A time in [0, 1] -> a vector [D]: sinusoids of t * scale through a two-layer MLP.

    whole: cut t * scale to a whole number first, as xAR's published models do; that is far below a solver's step.
    """

    def __init__(
        self,
        width: int,
        frequencies: int = 128,
        period: float = 10000.0,
        scale: float = 1000.0,
        whole: bool = True,
    ):
        super().__init__()
        self.frequencies, self.period, self.scale, self.whole = frequencies, period, scale, whole
        self.up = nn.Linear(2 * frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """[...] times -> [..., D]."""
        rates = torch.arange(self.frequencies, device=t.device, dtype=torch.float32) / self.frequencies
        rates = torch.exp(-math.log(self.period) * rates)
        t = t.float()[..., None]
        angle = (t * self.scale).long().float() * rates if self.whole else t * (self.scale * rates)
        waves = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return self.out(F.silu(self.up(waves.to(self.up.weight.dtype))))


class FlowHead(nn.Module):
    """One linear layer from hidden state to velocity."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.velocity = nn.Linear(width, channels)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        """[B, N, D] -> velocity [B, N, C]."""
        return self.velocity(hidden_BND)

    @staticmethod
    def loss(velocity_BNC: Tensor, target_BNC: Tensor) -> Tensor:
        """Mean squared error a row, [B], in fp32."""
        return (velocity_BNC.float() - target_BNC.float()).square().flatten(1).mean(1)
