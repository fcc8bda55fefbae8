"""Speech that is told its phonemes: how long each of them lasts, and what every latent is to say.

A phoneme lasts a whole number of units, and a latent covers some units (`per_latent`). Each step of the model reads,
beside the latent before it, the phonemes of its own units, where in them it is, and the phoneme that comes next: so
little data is enough, nothing is said twice or left out, and the end of the last phoneme is the end of the speech.

Shapes: B rows, P phonemes, U units, N latents, W width of the phonemes, D width of the backbone.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nextok_mm.config import Config
from nextok_mm.media.words import TextTokenizer

WAVES = 4
"""Frequencies with which the place inside a phoneme is told."""


class AlignmentConfig(Config):
    """The phonemes' network, the predictor of their durations, and the units in which these are told."""

    width: int = Field(default=256, gt=0, le=1 << 13, description="Width of the phonemes' vectors.")
    depth: int = Field(default=3, ge=0, le=64, description="Number of residual convolutions over the phonemes.")
    kernel: int = Field(
        default=5, ge=1, le=63, description="Number of phonemes that a convolution sees at once, an odd number."
    )
    per_latent: int = Field(default=2, ge=1, le=64, description="Number of units of duration that a latent covers.")
    longest: int = Field(
        default=40, ge=1, le=1 << 12, description="Largest number of units that a predicted duration may have."
    )
    weight: float = Field(
        default=1.0, gt=0, le=100, description="Weight of the durations' squared error, in log units, in training."
    )


class Alignment(nn.Module):
    """Phonemes to durations, and with these to one input per latent."""

    def __init__(self, config: AlignmentConfig, phonemes: int, width: int):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(phonemes, config.width)
        kernel = config.kernel
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.width, config.width, kernel, padding=kernel // 2) for _ in range(config.depth)
        )
        self.duration = nn.Linear(config.width, 1)
        self.inputs = nn.Linear((config.per_latent + 1) * config.width + 2 * WAVES * config.per_latent, width)
        self.none = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.table.weight, std=0.3)
        nn.init.normal_(self.none, std=0.02)

    def encode(self, ids_BP: Tensor) -> Tensor:
        """Phonemes, -1 behind a row's end -> vectors [B, P, W] that know their neighbors, zeros behind the end."""
        there_B1P = (ids_BP >= 0)[:, None].to(self.table.weight.dtype)
        x_BWP = self.table(ids_BP.clamp_min(0)).transpose(1, 2) * there_B1P
        for convolution in self.convolutions:
            x_BWP = (x_BWP + F.gelu(convolution(x_BWP))) * there_B1P  # what lies behind the end is no neighbor
        return x_BWP.transpose(1, 2)

    def log_durations(self, vectors_BPW: Tensor) -> Tensor:
        """The logarithm of each phoneme's duration in units, [B, P]."""
        return self.duration(vectors_BPW).squeeze(-1)

    def durations(self, vectors_BPW: Tensor, ids_BP: Tensor, speed: float) -> Tensor:
        """Predicted durations [B, P], whole units of at least one; 0 behind a row's end."""
        units = (self.log_durations(vectors_BPW).float().exp() / speed).round().long()
        return units.clamp(1, self.config.longest) * (ids_BP >= 0)

    def loss(self, vectors_BPW: Tensor, durations_BP: Tensor, there_BP: Tensor) -> Tensor:
        """Squared error of the logarithms, a number per row, [B]."""
        error_BP = self.log_durations(vectors_BPW).float() - durations_BP.clamp_min(1).float().log()
        return (error_BP.square() * there_BP).sum(1) / there_BP.sum(1).clamp_min(1)

    def latents(self, durations_BP: Tensor) -> Tensor:
        """How many latents cover a row's units, [B]."""
        return -(-durations_BP.sum(1) // self.config.per_latent)

    def steps(self, vectors_BPW: Tensor, durations_BP: Tensor, latents: int) -> Tensor:
        """What each of the first `latents` steps is told, [B, N, D]; past a row's end there is nothing to tell."""
        count, width = self.config.per_latent, vectors_BPW.shape[-1]
        ends_BP = durations_BP.cumsum(1)
        units_U = torch.arange(latents * count, device=ends_BP.device)
        place_BU = torch.searchsorted(ends_BP, units_U.expand(len(ends_BP), -1).contiguous(), right=True)
        inside_BU = place_BU < ends_BP.shape[1]
        place_BU = place_BU.clamp_max(ends_BP.shape[1] - 1)
        told_BUW = self._at(vectors_BPW, place_BU) * inside_BU[..., None]
        after_BN = place_BU[:, count - 1 :: count] + 1
        there_BN = inside_BU[:, count - 1 :: count] & (after_BN < ends_BP.shape[1])
        next_BNW = self._at(vectors_BPW, after_BN.clamp_max(ends_BP.shape[1] - 1)) * there_BN[..., None]
        long_BU = durations_BP.gather(1, place_BU).clamp_min(1).to(vectors_BPW.dtype)
        share_BU = (units_U - ends_BP.gather(1, place_BU)).to(vectors_BPW.dtype) + long_BU + 0.5
        angle = share_BU[..., None] / long_BU[..., None] * torch.pi
        angle = angle * torch.arange(1, WAVES + 1, device=angle.device, dtype=angle.dtype)
        waves = torch.cat((angle.sin(), angle.cos()), dim=-1) * inside_BU[..., None]
        by_latent = [part.reshape(len(part), latents, -1) for part in (told_BUW, waves)]
        assert by_latent[0].shape[-1] == count * width
        return self.inputs(torch.cat((*by_latent, next_BNW), dim=-1))

    @staticmethod
    def _at(vectors_BPW: Tensor, place_BU: Tensor) -> Tensor:
        return vectors_BPW.gather(1, place_BU[..., None].expand(-1, -1, vectors_BPW.shape[-1]))


Time = tuple[str, float, float]


def spoken(ids_P: Tensor, durations_P: Tensor, words: TextTokenizer, unit: float) -> dict[str, list[Time]]:
    """When phonemes and words are spoken.

    Args:
        ids_P: The phonemes, -1 behind the end.
        durations_P: Their units.
        words: What the ids stand for; a word is a run of letters, as stress marks are too.
        unit: Seconds of a unit.

    Returns:
        `phonemes` and `words` as (what, begins, ends), in seconds.
    """
    ends = (durations_P.cumsum(0) * unit).tolist()
    letters = [words.decode([place]) for place in ids_P.tolist() if place >= 0]
    begins = [0.0, *ends]
    times = [(letter, round(begins[at], 4), round(ends[at], 4)) for at, letter in enumerate(letters)]
    found, inside = list[Time](), False
    for letter, begin, end in times:
        if letter.isalpha() and inside:
            found[-1] = (found[-1][0] + letter, found[-1][1], end)
        elif letter.isalpha():
            found.append((letter, begin, end))
        inside = letter.isalpha()
    return {"phonemes": times, "words": found}
