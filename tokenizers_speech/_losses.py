"""What tokenizers of sound are trained with: samples, spectra of several windows, and discriminators of spectra.

Shapes: B batch, T samples, F frames, K frequencies, M mel bands.
Sources: multi-resolution spectra from Parallel WaveGAN (arXiv 1910.11480), section 2.2; log-mel distances and the
discriminators of complex spectra from EnCodec (2210.13438), sections 3.3 and 3.4; hinge loss from 1705.02894.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nextok_mm.adversarial import hinge, judged
from nextok_mm.config import Config
from nextok_mm.contracts import Loss

from ._mel import mel_filters, spectra


class Adversarial(Config):
    """A convolutional discriminator of complex spectra for each window, trained with the hinge loss."""

    weight: float = Field(default=0.1, gt=0, description="Weight of the adversarial loss in the tokenizer's loss.")
    features: float = Field(
        default=1.0, ge=0, description="Weight of the distance between the discriminator's feature maps."
    )
    width: int = Field(default=16, gt=0, le=1 << 10, description="Width of the discriminator's layers.")
    depth: int = Field(default=3, ge=1, le=8, description="Number of layers, each of which halves the frequencies.")


class Discriminator(nn.Module):
    """A complex spectrum [B, 2, F, K] to one logit per patch, and the maps on the way."""

    def __init__(self, config: Adversarial):
        super().__init__()
        widths = [2, *[config.width] * config.depth]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, (3, 8), (1, 2), (1, 3)) for before, after in pairwise(widths)
        )
        self.logit = nn.Conv2d(config.width, 1, 3, padding=1)

    def forward(self, x_B2FK: Tensor) -> tuple[Tensor, list[Tensor]]:
        """-> logits [B, 1, F, K'], and the map behind each layer."""
        maps, x = [], x_B2FK
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            maps.append(x)
        return self.logit(x), maps


class SoundLoss:
    """How far sounds that came back are from what they were.

    Per window: absolute error of log-mel bands and of magnitudes, as shares of what there is to hear. It is no module;
    its tables are made where they are needed.
    """

    FLOOR = 1e-4

    def __init__(
        self, rate: int, windows: tuple[int, ...], bands: int, wave_weight: float, adversarial: Adversarial | None
    ):
        self.rate, self.windows, self.bands = rate, windows, bands
        self.wave_weight, self.adversarial = wave_weight, adversarial
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def discriminators(self) -> nn.ModuleList | None:
        """One for each window; None without a config."""
        config = self.adversarial
        return None if config is None else nn.ModuleList(Discriminator(config) for _ in self.windows)

    def __call__(self, sounds: Tensor, target: Tensor, discriminators: nn.ModuleList | None) -> Loss:
        """Sounds [B, channels, T] (fp32, not cut) and what they were -> the loss; a tokenizer may add terms."""
        terms: dict[str, list[Tensor]] = {"wave": [(sounds - target).abs()], "mel": [], "spectrum": []}
        weights = {"wave": self.wave_weight}
        if self.adversarial is not None:
            terms |= {"adversarial": [], "discriminator": [], "features": []}
            weights["adversarial"] = self.adversarial.weight
            weights["features"] = self.adversarial.weight * self.adversarial.features
        for index, window in enumerate(self.windows):
            hann, filters = self._table(window, sounds.device)
            made, real = (_padded_spectra(x.flatten(0, 1), hann) for x in (sounds, target))
            sizes = made.abs(), real.abs()
            logs = [(size @ filters.T).clamp(min=self.FLOOR).log() for size in sizes]
            terms["mel"].append((logs[0] - logs[1]).abs())
            # Of each row by itself, since no row of a batch may touch another.
            norms = [part.flatten(1).norm(dim=1) for part in (sizes[0] - sizes[1], sizes[1])]
            terms["spectrum"].append(norms[0] / (norms[1] + 0.1))
            if discriminators is not None:
                found = _judged(discriminators[index], made, real)
                for name, parts in zip(("adversarial", "discriminator", "features"), found):
                    terms[name] += parts
        rows = len(sounds)  # of which a channel is a part
        return Loss(
            {name: tuple(torch.unflatten(part, 0, (rows, -1)) for part in parts) for name, parts in terms.items()},
            weights,
        )

    def _table(self, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The window's shape and its mel bands [M, K]."""
        key = window, device
        if key not in self._tables:
            filters = mel_filters(self.rate, window, max(1, min(self.bands, window // 8)), 0, self.rate / 2)
            tables = torch.hann_window(window), torch.from_numpy(filters.astype(np.float32))
            self._tables[key] = tables[0].to(device), tables[1].to(device)
        return self._tables[key]


def _padded_spectra(x_BT: Tensor, hann: Tensor) -> Tensor:
    """Complex spectra [B, F, K], a quarter of the window apart, from half a window before the sound to half behind."""
    half = len(hann) // 2
    return spectra(F.pad(x_BT, (half, half)), hann, max(1, len(hann) // 4))


def _judged(judge: Any, made: Tensor, real: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What the autoencoder wants of a discriminator, what the discriminator wants, and how far their maps are apart;
    each in parts [B, ...] that count alike."""
    (logits, maps), (true, true_maps), (false, _) = judged(judge, _shown(made), _shown(real))
    alike = [
        (a - b.detach()).abs().flatten(1).mean(1) / (b.detach().abs().flatten(1).mean(1) + 1e-3)
        for a, b in zip(maps, true_maps)
    ]
    return [-logits], list(hinge(true, false)), alike


def _shown(spectra_BFK: Tensor) -> Tensor:
    """Complex spectra as [B, 2, F, K], their sizes compressed as loudness is heard: the power of 0.3."""
    size = spectra_BFK.abs().clamp(min=1e-5)
    return torch.view_as_real(spectra_BFK * size ** (0.3 - 1)).movedim(-1, 1)
