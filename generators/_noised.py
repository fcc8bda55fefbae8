"""What a training step of `flow_omni` draws: every number from its row's own stream, as many as the row has latents.

So a row's noise doesn't depend on how far its batch is filled up behind it.
Shapes: B rows, N latents, M draws, C channels. Times: t = 0 data, t = 1 noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nextok_mm.contracts import Batch, check_numbers, dropped
from nextok_mm.flow import PATHS, sample_times
from nextok_mm.rng import Rng
from nextok_mm.sequence.reading import padded

from ._flow_omni_config import FlowOmniConfig

PATH = PATHS["linear"]


@dataclass(frozen=True)
class Noised:
    """A batch with its noise. x0_BNC: normalized latents; there_BN: which belong to their row; t_BNM, eps_BNMC: times
    and noise of the draws; history_BNC: noise on the latents that are read back; spans_BN2: end and beginning of a
    jump; dropped_B: rows without text."""

    x0_BNC: Tensor
    there_BN: Tensor
    t_BNM: Tensor
    eps_BNMC: Tensor
    history_BNC: Tensor | None
    spans_BN2: Tensor | None
    dropped_B: Tensor

    @classmethod
    def draw(cls, config: FlowOmniConfig, x0_BNC: Tensor, lengths_B: Tensor | None, rng: Rng) -> "Noised":
        """Noise for normalized latents, of which a row has as many as `lengths_B` says, or all."""
        count, channels = x0_BNC.shape[1:]
        sizes = [count] * len(x0_BNC)
        if lengths_B is not None and type(lengths_B) is Tensor:  # a fake tensor has no numbers
            sizes = lengths_B.tolist()
        rows: list[list[Tensor]] = []
        for row, size in enumerate(sizes):
            own = rng.of([row])
            times = sample_times("logit_normal", own, size * config.draws, config.time_mean)
            parts = [times.view(size, config.draws), own.normal(size, config.draws, channels)[0]]
            if config.history_noise:
                parts.append(own.uniform(size, 1)[0] * config.history_noise * own.normal(size, channels)[0])
            if config.distill:
                parts.append(own.uniform(size, 2)[0])
            rows.append(parts)
        drawn = [padded(list(part), least=count).to(x0_BNC.device) for part in zip(*rows)]
        there_BN = torch.arange(count, device=x0_BNC.device) < torch.tensor(sizes, device=x0_BNC.device)[:, None]
        return cls(
            x0_BNC=x0_BNC,
            there_BN=there_BN,
            t_BNM=drawn[0],
            eps_BNMC=drawn[1].to(x0_BNC),
            history_BNC=drawn[2].to(x0_BNC) if config.history_noise else None,
            spans_BN2=drawn[-1].sort(-1).values if config.distill else None,
            dropped_B=dropped(rng, config.condition_dropout, x0_BNC.device),
        )

    def mixed(self) -> Tensor:
        """The noised latents of all draws, [B, N, M, C]."""
        return PATH.mix(self.x0_BNC[:, :, None], self.eps_BNMC, self.t_BNM[..., None].to(self.x0_BNC.dtype))

    def target(self) -> Tensor:
        """The velocities that they have, [B, N, M, C]."""
        return PATH.velocity(self.x0_BNC[:, :, None], self.eps_BNMC, self.t_BNM[..., None])

    def jumps(self) -> tuple[Tensor, Tensor, Tensor]:
        """A jump for each latent, with its last draw's noise: where it begins [B, N, C], when, and when it ends."""
        assert self.spans_BN2 is not None
        r_BN, t_BN = self.spans_BN2.unbind(-1)
        return PATH.mix(self.x0_BNC, self.eps_BNMC[:, :, -1], t_BN[..., None].to(self.x0_BNC.dtype)), t_BN, r_BN

    def mean(self, each_BN: Tensor) -> Tensor:
        """The mean over what belongs to each row, [B]."""
        return (each_BN * self.there_BN).sum(1) / self.there_BN.sum(1).clamp_min(1)


def check(config: FlowOmniConfig, batch: Batch) -> None:
    """ValueError in one line for a training batch that doesn't fit.

    Latents `tokens` [B, N, C]; `lengths` [B] where rows end earlier; `text` [B, P], -1 behind a row's end; `durations`
    [B, P] in a model that is told these; `voice` [B, V, C] where it reads one.
    """
    latents, text, durations = (batch.get(name) for name in ("tokens", "text", "durations"))
    channels, told = config.channels, config.alignment is not None
    if latents is None or latents.dim() != 3 or latents.shape[2] != channels or not latents.is_floating_point():
        got = "none" if latents is None else f"{tuple(latents.shape)} of {latents.dtype}"
        raise ValueError(f"tokens: got {got}, accepted: latents [batch, 1 or more, {channels}]")
    rows = len(latents)
    if text is not None and (text.dim() != 2 or len(text) != rows or text.is_floating_point()):
        raise ValueError(f"text: got {tuple(text.shape)} of {text.dtype}, accepted: whole numbers [{rows}, tokens]")
    if text is not None:
        check_numbers("text", text.clamp_min(0), config.vocabulary, "vocabulary")
    if told and (text is None or durations is None or durations.shape != text.shape):
        got = "none" if durations is None or text is None else f"{tuple(durations.shape)}"
        raise ValueError(f"durations: got {got}, accepted: whole numbers in the shape of text, which is needed too")
    for name, shape in (("lengths", (rows,)), ("voice", (rows, -1, channels))):
        given = batch.get(name)
        if given is not None and (
            len(shape) != given.dim() or any(a not in (-1, b) for a, b in zip(shape, given.shape))
        ):
            raise ValueError(f"{name}: got shape {tuple(given.shape)}, accepted: {shape}")
