"""Log-mel frames of sounds, several of them as one token, and what turns frames back into sound without a network.

Frame f is made of the samples that end with those of its hop, so no frame sees a later sample and a token is known as
soon as its sound is there. r neighboring frames, r * M numbers, become one token of C by a linear map, and come back by
another one: principal components where `fitted` has made them.

Shapes: B batch, T samples, F frames, M mel bands, r frames of a token, N = F / r tokens, C channels of a token,
K frequencies of a spectrum.
Sources: the mel scale of HTK; Griffin and Lim, Signal Estimation from Modified Short-Time Fourier Transform (1984), in
the fast form of Perraudin et al. (2013).
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm.config import ModelConfig


class MelSettings(ModelConfig):
    """How a sound becomes frames, and frames become tokens. All of it goes into the fingerprint."""

    rate: int = Field(
        default=24_000, ge=1000, le=192_000, description="Sample rate of the sounds (samples per second)."
    )
    sound_channels: Literal[1] = Field(default=1, description="Number of channels of a sound.")
    sound_size: int = Field(
        default=24_000,
        ge=1,
        le=1 << 24,
        description="Length of the training sounds, in samples; other lengths can be encoded.",
    )
    hop: int = Field(default=300, ge=1, le=1 << 14, description="Number of samples from one frame to the next.")
    window: int = Field(default=1200, ge=2, le=1 << 15, description="Number of samples that one frame is made of.")
    bands: int = Field(default=80, ge=1, le=512, description="Number of mel bands.")
    low: float = Field(default=40.0, ge=0, description="Lower end of the lowest band (Hz).")
    high: float = Field(default=11_000.0, gt=0, description="Upper end of the highest band (Hz).")
    floor: float = Field(default=1e-4, gt=0, le=1, description="Least magnitude of a band, below which all is silence.")
    frames: int = Field(default=4, ge=1, le=64, description="Number of frames per token.")
    latent_channels: int = Field(default=32, ge=1, le=1 << 14, description="Number of channels of a token.")

    @model_validator(mode="after")
    def _fits(self) -> "MelSettings":
        if self.window < self.hop:
            raise ValueError(f"window: got {self.window}, accepted: {self.hop} (hop) or more")
        if not self.low < self.high <= self.rate / 2:
            raise ValueError(f"high: got {self.high:g}, accepted: above low ({self.low:g}) up to rate / 2")
        if self.latent_channels > self.frames * self.bands:
            most = self.frames * self.bands
            raise ValueError(f"latent_channels: got {self.latent_channels}, accepted: up to frames * bands, {most}")
        return self

    @property
    def samples_per_token(self) -> int:
        """How many samples one token stands for."""
        return self.hop * self.frames


class MelFront(nn.Module):
    """Sounds to log-mel frames, frames to tokens and back."""

    hann: Tensor
    filters_MK: Tensor
    inverse_KM: Tensor

    def __init__(self, config: MelSettings):
        super().__init__()
        self.config, numbers = config, config.frames * config.bands
        self.register_buffer("hann", torch.hann_window(config.window), persistent=False)
        filters = mel_filters(config.rate, config.window, config.bands, config.low, config.high)
        self.register_buffer("filters_MK", torch.from_numpy(filters.astype(np.float32)), persistent=False)
        self.register_buffer(
            "inverse_KM", torch.from_numpy(np.linalg.pinv(filters).astype(np.float32)), persistent=False
        )
        self.mean = nn.Parameter(torch.full((config.bands,), 0.5 * math.log(config.floor)))
        self.down = nn.Linear(numbers, config.latent_channels)
        self.up = nn.Linear(config.latent_channels, numbers)
        with torch.no_grad():  # an orthogonal map, until something is fitted
            nn.init.orthogonal_(self.down.weight)
            self.up.weight.copy_(self.down.weight.T)
            for bias in (self.down.bias, self.up.bias):
                nn.init.zeros_(bias)

    def mel(self, sounds_BT: Tensor, before: Tensor | None = None) -> Tensor:
        """Sounds of whole hops -> log-mel frames [B, F, M] in fp32; before: the samples in front (None: silence)."""
        reach = self.config.window - self.config.hop
        x = sounds_BT.float()
        x = F.pad(x, (reach, 0)) if before is None else torch.cat((before, x), dim=1)
        return self.log_mel(spectra(x, self.hann, self.config.hop).abs())

    def log_mel(self, magnitudes_BFK: Tensor) -> Tensor:
        """Magnitudes of spectra -> log-mel frames [B, F, M]."""
        with torch.autocast(magnitudes_BFK.device.type, enabled=False):
            return (magnitudes_BFK @ self.filters_MK.T).clamp(min=self.config.floor).log()

    def tokens(self, mel_BFM: Tensor) -> Tensor:
        """Frames -> tokens [B, N, C] in fp32."""
        with torch.autocast(mel_BFM.device.type, enabled=False):
            return self.down((mel_BFM - self.mean).unflatten(1, (-1, self.config.frames)).flatten(2))

    def frames(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens -> frames [B, F, M] in fp32."""
        with torch.autocast(tokens_BNC.device.type, enabled=False):
            return self.up(tokens_BNC.float()).unflatten(2, (-1, self.config.bands)).flatten(1, 2) + self.mean

    def magnitudes(self, mel_BFM: Tensor) -> Tensor:
        """Log-mel frames -> magnitudes [B, F, K] by the pseudo-inverse of the bands; at the floor they are 0."""
        with torch.autocast(mel_BFM.device.type, enabled=False):
            bands = (mel_BFM.float().exp() - self.config.floor).clamp(min=0)
            return (bands @ self.inverse_KM.T).clamp(min=0)

    @torch.no_grad()
    def fit(self, parts: Iterable[Tensor]) -> float:
        """Set the maps so that tokens are principal components of unit deviation.

        Args:
            parts: Sounds [B, T] of whole tokens, all of one data set.

        Returns:
            The share of the frames' variance that tokens keep.

        Raises:
            ValueError: There are fewer tokens than channels.
        """
        config, count = self.config, 0
        total, bands = torch.zeros(config.frames * config.bands, dtype=torch.float64), config.bands
        products = torch.zeros(len(total), len(total), dtype=torch.float64)
        for sounds in parts:
            rows = self.mel(sounds).unflatten(1, (-1, config.frames)).flatten(2).flatten(0, 1).double()
            total, products, count = total + rows.sum(0), products + rows.T @ rows, count + len(rows)
        if count <= config.latent_channels:
            raise ValueError(f"data: got {count} tokens to fit, accepted: more than {config.latent_channels}")
        mean = (total / count).unflatten(0, (-1, bands)).mean(0)  # one mean of each band, wherever its frame stands
        shift = total / count - mean.repeat(config.frames)
        variance, vectors = torch.linalg.eigh(products / count - torch.outer(total, total) / count**2)
        kept = variance.flip(0)[: config.latent_channels].clamp(min=1e-8)
        basis = vectors.flip(1)[:, : config.latent_channels]
        self.mean.copy_(mean)
        self.down.weight.copy_(basis.T / kept.sqrt()[:, None])
        self.down.bias.copy_(-(self.down.weight.double() @ shift))
        self.up.weight.copy_(basis * kept.sqrt())
        self.up.bias.copy_(shift)
        return float(kept.sum() / variance.clamp(min=0).sum())


def mel_filters(rate: int, window: int, bands: int, low: float, high: float) -> np.ndarray:
    """[M, K] triangles of height 1 that are equally wide on the mel scale, in double precision."""
    first, last = (2595 * math.log10(1 + hertz / 700) for hertz in (low, high))
    points = 700 * (10 ** (np.linspace(first, last, bands + 2) / 2595) - 1)
    hertz = np.arange(window // 2 + 1) * rate / window
    left, middle, right = points[:-2, None], points[1:-1, None], points[2:, None]
    triangles = np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)).clip(0)
    # A band narrower than a frequency's distance to the next would be empty: it takes the nearest frequency.
    nearest = np.eye(len(hertz))[np.abs(middle - hertz).argmin(1)]
    return np.where(triangles.sum(1, keepdims=True) > 0, triangles, nearest)


def spectra(x_BT: Tensor, window: Tensor, hop: int) -> Tensor:
    """Complex spectra [B, F, K] of all whole windows of a signal, scaled so that a full tone has about 1."""
    with torch.autocast(x_BT.device.type, enabled=False):
        frames = x_BT.float().unfold(1, len(window), hop)
        return torch.fft.rfft(frames * window) * (2 / window.sum())


def overlap_add(frames_BFW: Tensor, hop: int) -> Tensor:
    """Frames, each `hop` samples behind the one before -> their sum [B, (F - 1) * hop + W]."""
    width = frames_BFW.shape[2]
    length = (frames_BFW.shape[1] - 1) * hop + width
    return F.fold(frames_BFW.transpose(1, 2), (1, length), (1, width), stride=(1, hop)).flatten(1)


def from_spectra(spectra_BFK: Tensor, window: Tensor, hop: int) -> Tensor:
    """The signal [B, T] whose spectra are nearest to these (least squares)."""
    frames = torch.fft.irfft(spectra_BFK * (window.sum() / 2), len(window)) * window
    weight = overlap_add(window.square().expand(1, frames.shape[1], -1), hop)
    return overlap_add(frames, hop) / weight.clamp(min=1e-3)


@torch.no_grad()
def griffin_lim(magnitudes_BFK: Tensor, window: Tensor, hop: int, steps: int = 32, momentum: float = 0.99) -> Tensor:
    """A signal [B, T] with about these magnitudes; begins with phases that turn with the frequencies, draws nothing."""
    count = torch.arange(magnitudes_BFK.shape[1], device=magnitudes_BFK.device)
    bins = torch.arange(magnitudes_BFK.shape[2], device=magnitudes_BFK.device)
    # What a tone of each frequency has, with a start of its own, or all of them would be one click.
    starts = torch.remainder(bins * bins * 0.6180339887, 1.0)
    angle = 2 * math.pi * torch.remainder(count[:, None] * (bins * hop / len(window)) + starts, 1.0)
    phases = torch.polar(torch.ones_like(magnitudes_BFK), angle.expand_as(magnitudes_BFK).contiguous())
    before: Any = 0.0
    for _ in range(steps):
        rebuilt = spectra(from_spectra(magnitudes_BFK * phases, window, hop), window, hop)
        ahead = rebuilt + momentum * (rebuilt - before) if torch.is_tensor(before) else rebuilt
        before, phases = rebuilt, ahead / ahead.abs().clamp(min=1e-8)
    return from_spectra(magnitudes_BFK * phases, window, hop)
