"""Paths from data to noise, x_t = alpha(t) x0 + sigma(t) eps, and every way to read a prediction along them.

A velocity v = dx/dt, the data x0, the noise eps and the score carry the same knowledge: two linear equations,
x = alpha x0 + sigma eps and v = alpha' x0 + sigma' eps, turn any of them into the others.
Times are tensors that broadcast against x, or plain floats.
Source: Stochastic Interpolants / SiT (arXiv 2401.08740), section 2.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

Time = Tensor | float


class Path(ABC):
    """alpha, sigma and their derivatives; everything else follows."""

    @abstractmethod
    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        """alpha, sigma, d alpha / dt, d sigma / dt."""

    def mix(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """The noised x_t."""
        alpha, sigma, _, _ = self.coefficients(t)
        return alpha * x0 + sigma * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """dx_t / dt, the training target."""
        _, _, d_alpha, d_sigma = self.coefficients(t)
        return d_alpha * x0 + d_sigma * eps

    def to_x0(self, v: Tensor, x: Tensor, t: Time) -> Tensor:
        """The data that a velocity at x_t points to."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(t)
        return (d_sigma * x - sigma * v) / (alpha * d_sigma - sigma * d_alpha)

    def to_eps(self, v: Tensor, x: Tensor, t: Time) -> Tensor:
        """The noise that a velocity at x_t came from."""
        alpha, sigma, d_alpha, d_sigma = self.coefficients(t)
        return (alpha * v - d_alpha * x) / (alpha * d_sigma - sigma * d_alpha)

    def to_score(self, v: Tensor, x: Tensor, t: Time) -> Tensor:
        """grad log p_t(x) = -eps / sigma; undefined at t = 0."""
        return -self.to_eps(v, x, t) / self.coefficients(t)[1]

    def from_x0(self, x0: Tensor, x: Tensor, t: Time) -> Tensor:
        """The velocity of a data prediction; undefined at t = 0."""
        alpha, sigma, _, _ = self.coefficients(t)
        return self.velocity(x0, (x - alpha * x0) / sigma, t)

    def from_eps(self, eps: Tensor, x: Tensor, t: Time) -> Tensor:
        """The velocity of a noise prediction; undefined at t = 1."""
        alpha, sigma, _, _ = self.coefficients(t)
        return self.velocity((x - sigma * eps) / alpha, eps, t)

    def from_score(self, score: Tensor, x: Tensor, t: Time) -> Tensor:
        """The velocity of a score prediction; undefined at t = 1."""
        return self.from_eps(-self.coefficients(t)[1] * score, x, t)


class Linear(Path):
    """Straight lines (rectified flow): x_t = (1 - t) x0 + t eps, v = eps - x0."""

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        """1 - t, t, -1, 1."""
        return 1 - t, t, -1.0, 1.0


class Cosine(Path):
    """Quarter circles, which keep the variance: x_t = cos(pi t / 2) x0 + sin(pi t / 2) eps."""

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        """cos, sin and their derivatives."""
        half = math.pi / 2
        if isinstance(t, Tensor):
            cos, sin = torch.cos(half * t), torch.sin(half * t)
        else:
            cos, sin = math.cos(half * t), math.sin(half * t)
        return cos, sin, -half * sin, half * cos


PATHS: dict[str, Path] = {"linear": Linear(), "cosine": Cosine()}
