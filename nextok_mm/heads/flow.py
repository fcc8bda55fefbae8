"""Flow heads: the next X is continuous, and what draws it predicts a velocity from noise to data.

`FlowHead` reads the velocity off the hidden state of a noised entity, so that the whole backbone runs once per solver
step (xAR). `FlowMLP` draws one token from the hidden state of the tokens before it: the backbone runs once per token,
and only this small network once per solver step.

Shapes: B batch, N tokens, E entities, D width, C channels, W width of the MLP, S solver steps, R rows.
Times: t = 0 data, t = 1 noise.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..flow import solve, time_grid
from ..flow.guidance import guide_halves
from ..sequence.blocks import Norm


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


class _Scaled(nn.Module):
    """A vector over its standard deviation, times learned weights.

    The variance is the unbiased one about the mean, though the vector itself is not centered, as in published heads.
    """

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W], in fp32 inside."""
        wide = x.float()
        return (wide * self.weight.float() * torch.rsqrt(self.eps + wide.var(-1, keepdim=True))).type_as(x)


class _Residual(nn.Module):
    """x + gate * mlp(norm(x) * (1 + scale) + shift)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = Norm(width, "layer", True, 1e-6, True)
        self.up = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, steer: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """[..., W] -> [..., W]; steer: shift, scale and gate."""
        shift, scale, gate = steer
        y = torch.addcmul(shift, self.norm(x), 1 + scale)
        return torch.addcmul(x, gate, self.out(F.silu(self.up(y))))


class FlowMLP(nn.Module):
    """A small residual MLP that draws one token from a hidden state: v = velocity(x_t, t, hidden), steered by AdaLN.

    With one time, t, it predicts the velocity at x_t. With two, (t, r), it predicts the mean velocity of the jump from
    t to r, which at r = t is the velocity itself; such a head can be taught to jump from noise to data at once
    (`nextok_mm.flow.jumps`).

    The AdaLN vectors of all layers come from one product, and a sampler makes those of all its times together.
    Sources: MAR (arXiv 2406.11838), section 3.1; two times as in CALM (2509.06926).
    """

    def __init__(self, channels: int, cond: int, width: int, depth: int, times: int = 1):
        super().__init__()
        self.enter = nn.Linear(channels, width)
        self.cond = nn.Linear(cond, width)
        self.times = nn.ModuleList(TimeEmbedding(width, scale=1.0, whole=False) for _ in range(times))
        self.time_norms = nn.ModuleList(_Scaled(width) for _ in range(times))
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(depth))
        self.ada = nn.Linear(width, (3 * depth + 2) * width)
        self.norm_out = Norm(width, "layer", False, 1e-6)
        self.velocity = nn.Linear(width, channels)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Xavier-uniform matrices; what steers and the last layer begin at zero, so that the first prediction is 0."""
        for name, parameter in self.named_parameters():
            if name.startswith(("ada.", "velocity.")) or name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, hidden: Tensor, *times: Tensor) -> Tensor:
        """Predict a velocity.

        Args:
            x: Noised tokens [..., C].
            hidden: Hidden states [..., D].
            times: One or two times [...], as the head was built; all broadcast against each other.

        Returns:
            The velocities [..., C].
        """
        return self._velocity(x, self._steer(self.cond(hidden), self._times(*times)))

    def sample(self, hidden_RD: Tensor, noise_RC: Tensor, steps: int, jumps: bool = False, cfg: float = 1.0) -> Tensor:
        """Draw tokens by Euler steps, from noise to data.

        Args:
            hidden_RD: Hidden states; with guidance those of the conditional rows, then those of the same rows without.
            noise_RC: What the flow begins with, for the conditional rows alone.
            steps: Number of equal steps.
            jumps: With two times: whether the head was taught jumps (r is a step's end), or velocities alone (r = t).
            cfg: Weight of classifier-free guidance; 1 is none, and then there are no unconditional rows.

        Returns:
            The tokens [R, C], as many as rows of noise.
        """
        grid = time_grid("euler", steps)
        pairs = [(t, after if jumps else t) for t, after in pairwise(grid)]
        columns = hidden_RD.new_tensor(pairs).T[: len(self.times)]
        time_SW = self._times(*columns)
        steers: Iterator[Tensor] = iter(self._steer(self.cond(hidden_RD), time_SW[:, None]))

        def velocity(x_RC: Tensor, _: float) -> Tensor:
            steer_RX = next(steers)
            if cfg == 1.0:
                return self._velocity(x_RC, steer_RX)
            return guide_halves(self._velocity(torch.cat((x_RC, x_RC)), steer_RX), cfg)

        return solve("euler", velocity, noise_RC, grid)

    def _times(self, *times: Tensor) -> Tensor:
        """[...] times -> [..., W], the mean of their embeddings."""
        assert len(times) == len(self.times), (len(times), len(self.times))
        parts = [norm(embed(time)) for embed, norm, time in zip(self.times, self.time_norms, times)]
        return parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2

    def _steer(self, cond: Tensor, time: Tensor) -> Tensor:
        """Shifts, scales and gates of all layers, [..., (3 * depth + 2) * W]."""
        return self.ada(F.silu(time + cond))

    def _velocity(self, x: Tensor, steer: Tensor) -> Tensor:
        parts = steer.chunk(3 * len(self.blocks) + 2, dim=-1)
        x = self.enter(x)
        for index, block in enumerate(self.blocks):
            x = block(x, parts[3 * index : 3 * index + 3])
        return self.velocity(torch.addcmul(parts[-2], self.norm_out(x), 1 + parts[-1]))
