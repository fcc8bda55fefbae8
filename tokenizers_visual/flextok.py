"""FlexTok: a picture as 1 to N ordered tokens, coarse to fine, of which any number of leading ones make a picture.

Encoder: patches and N learned registers through a transformer in which registers see all patches and the registers
before them; each register is quantized (FSQ) to a code. Decoder: a rectified flow over the latents, conditioned on the
first k codes (the others are masked; training draws k at random, "nested dropout").

The latents are pixels in [-1, 1], or those of a VAE that is part of the model.
Shapes: B batch, C latent channels, H W latent rows and columns, P patches, R registers, D width, F numbers of a code,
T times. Flow time: t = 0 data, t = 1 noise.
Source: Bachmann et al., FlexTok: Resampling Images into 1D Token Sequences of Flexible Length (arXiv 2502.13967).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nextok_mm.checkpoint import fingerprint
from nextok_mm.contracts import Batch, Loss, OrderedTokenizer, Tokens, check_tokens
from nextok_mm.contracts import dropped as dropped_rows
from nextok_mm.flow.guidance import Projected, guide
from nextok_mm.flow.paths import PATHS
from nextok_mm.flow.solvers import solve, time_grid
from nextok_mm.flow.times import sample_times
from nextok_mm.quantizers import check_codes
from nextok_mm.quantizers.fsq import usage
from nextok_mm.registry import register
from nextok_mm.rng import Rng
from nextok_mm.sequence.packed import packed

from ._flextok_config import FlexTokConfig, Sampling, Trunk
from ._flextok_networks import Networks

__all__ = ["FlexTok", "FlexTokConfig", "Sampling", "Trunk"]


@register("tokenizer", "flextok")
class FlexTok(Networks, OrderedTokenizer[FlexTokConfig]):
    """The model; see the module's text."""

    Config = FlexTokConfig
    Sampling = Sampling
    training_only = ("repa",)
    config: FlexTokConfig

    # Pictures and latents

    def grid(self, size: tuple[int, int]) -> tuple[int]:
        """(registers,), whatever the picture; ValueError for another size than the model's."""
        if tuple(size) != self.config.image_size:
            wanted = self.config.image_size
            raise ValueError(f"picture size: got {size[0]} x {size[1]}, accepted: {wanted[0]} x {wanted[1]}")
        return (self.config.registers,)

    @property
    def num_codes(self) -> int:
        """Different codes of a register."""
        return self.fsq.size

    def to_latents(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] in [0, 1] -> latents [B, C, H, W]: the VAE's means, or pixels in [-1, 1]."""
        if images.dim() != 4 or images.shape[1] != self.config.image_channels:
            shape, channels = tuple(images.shape), self.config.image_channels
            raise ValueError(f"images: got shape {shape}, accepted: [batch, {channels}, height, width]")
        self.grid((images.shape[-2], images.shape[-1]))
        if self.vae is None:
            return images * 2 - 1
        with torch.no_grad():
            return self._maps(self.vae.encode(images).data)

    def _maps(self, tokens_BNC: Tensor) -> Tensor:
        """The VAE's tokens as latents [B, C, H, W]."""
        return tokens_BNC.transpose(1, 2).unflatten(2, self.config.latent_size)

    def to_images(self, latents: Tensor) -> Tensor:
        """The way back, [B, channels, H, W] in [0, 1]."""
        if self.vae is None:
            return (latents.float() * 0.5 + 0.5).clamp(0, 1)
        return self.vae.decode(Tokens(latents.flatten(2).transpose(1, 2), self.config.latent_size))

    # Tokens

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Images [B, channels, H, W] in [0, 1] -> codes [B, R]; no chance is involved."""
        _, codes = self.fsq(self.read(self.to_latents(images)))
        return Tokens(codes, (self.config.registers,), source=fingerprint(self))

    def decode(
        self,
        tokens: Tokens,
        num_tokens: int | Tensor | None = None,
        rng: Rng | None = None,
        sampling: Sampling | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The first k codes [B, k] of each picture (any k from 1 to R) -> images [B, channels, H, W] in [0, 1].

        num_tokens: use fewer, one number or [B] of them; rng: of the noise, else the same noise for every picture.
        ValueError in one line for codes of another tokenizer, out of range, or too many.
        """
        codes, own = tokens.data, fingerprint(self)
        if tokens.source and tokens.source != own:
            raise ValueError(f"tokens: made by tokenizer {tokens.source}, accepted: those of {own}")
        fits = codes.dim() == 2 and len(codes) and 1 <= codes.shape[1] <= self.config.registers
        if not fits or codes.is_floating_point():
            got = f"{tuple(codes.shape)} of {codes.dtype}"
            raise ValueError(f"codes: got {got}, accepted: whole numbers [1 or more, 1 to {self.config.registers}]")
        check_codes(codes, self.fsq.size)  # before the padding joins them
        quants_BRF = self.fsq.dequantize(F.pad(codes.long(), (0, self.config.registers - codes.shape[1])))
        rng = rng or Rng([0] * len(codes))
        noise = rng.normal(self.config.latent_channels, *self.config.latent_size, like=quants_BRF)
        return self.to_images(self.sample(quants_BRF, self._counted(num_tokens, codes), noise, sampling, progress))

    def _counted(self, num_tokens: int | Tensor | None, codes: Tensor) -> Tensor:
        """How many codes count, [B]."""
        rows, most = codes.shape
        given = most if num_tokens is None else num_tokens
        wrong = None
        if isinstance(given, Tensor):
            if given.shape != (rows,) or given.is_floating_point() or given.dtype == torch.bool:
                wrong = f"{tuple(given.shape)} of {given.dtype}"
            elif not 1 <= int(given.long().min()) <= int(given.long().max()) <= most:
                wrong = f"{int(given.long().min())} to {int(given.long().max())}"
        elif isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
            wrong = repr(given)
        if wrong is not None:
            raise ValueError(
                f"num_tokens: got {wrong}, accepted: whole numbers from 1 to {most}, one or a tensor [{rows}]"
            )
        return torch.as_tensor(given, device=codes.device).long().expand(rows)

    # Decoding

    @torch.no_grad()
    def sample(
        self,
        quants_BRF: Tensor,
        num_tokens_B: Tensor,
        noise_BCHW: Tensor,
        sampling: Sampling | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Latents [B, C, H, W] from noise, conditioned on the first codes of each picture."""
        settings = sampling or self.config.sampling
        times = time_grid(settings.solver, settings.steps)

        def after_a_step(x: Tensor, t: float) -> Tensor:
            if progress is not None:
                progress(times.index(t), settings.steps)
            return x

        with packed(self.decoder):
            registers = self.conditions(quants_BRF, num_tokens_B)
            step = self._step(settings, registers, times)
            return solve(settings.solver, step, noise_BCHW, times, project=after_a_step)

    def _step(self, settings: Sampling, registers_BRD: Tensor, times: list[float]) -> Callable[[Tensor, float], Tensor]:
        """velocity(x, t), guided; what doesn't change from step to step is computed here, once."""
        rows = len(registers_BRD)
        guided = settings.guidance != "none" and settings.cfg != 1
        null = self.without(rows) if guided else registers_BRD
        together = guided and null.shape == registers_BRD.shape
        both = torch.cat((registers_BRD, null)) if together else registers_BRD
        table = torch.tensor(times, device=registers_BRD.device)
        blocks, head = self._tables(table)
        project = Projected(settings.cfg, settings.momentum, settings.norm, settings.eta)

        def velocity(x: Tensor, t: float) -> Tensor:
            i = slice(times.index(t), times.index(t) + 1)
            now = (None if blocks is None else blocks[:, i], None if head is None else head[i])
            if not guided or not settings.cfg_interval[0] <= t <= settings.cfg_interval[1]:
                return self.velocity(x, registers_BRD, table[i], now)
            if together:
                conditional, unconditional = self.velocity(torch.cat((x, x)), both, table[i], now).chunk(2)
            else:
                conditional = self.velocity(x, registers_BRD, table[i], now)
                unconditional = self.velocity(x, null, table[i], now)
            if settings.guidance == "apg":
                return project(conditional, unconditional)
            return guide(conditional, unconditional, settings.cfg)

        return velocity

    # Training

    def check(self, batch: Batch) -> None:
        """Pictures of this model's size, or the latents that its VAE made of them (not with `repa`)."""
        if "images" in batch:
            return super().check(batch)
        if self.repa is not None:
            raise ValueError("repa: got latents alone, but its feature network has to see the pictures")
        check_tokens(batch.get("tokens"), (math.prod(self.config.latent_size), self.config.latent_channels), None)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Rectified-flow error of the decoder, given a random number of codes.

        batch: images [B, channels, H, W], or tokens [B, H * W, C] that the VAE made of them beforehand.
        """
        self.check(batch)
        latents = self.to_latents(batch["images"]) if "images" in batch else self._maps(batch["tokens"])
        numbers = self.read(latents)
        quants, codes = self.fsq(numbers)
        quants = self._disturbed(quants, numbers, rng)
        num_tokens = self._draw_num_tokens(rng).to(latents.device)
        dropped = dropped_rows(rng, self.config.condition_dropout, latents.device)
        times = sample_times("logit_normal", rng, 1, self.config.time_mean)[:, 0].to(latents)
        noise = rng.normal(*latents.shape[1:], like=latents)
        path = PATHS["linear"]
        x = path.mix(latents, noise, times[:, None, None, None])
        taps = {} if self.repa is None else self.repa.taps(x)
        velocity = self._velocity_of_mixed(x, self.from_code(quants), num_tokens, dropped, times, taps)
        terms = {"flow": (velocity.float() - path.velocity(latents, noise, 0.0)).square()}
        if self.repa is not None:
            terms["repa"] = self.repa(taps, batch["images"], self.config.grid)
        weights = {} if self.repa is None else {"repa": self.repa.config.weight}
        return Loss(terms, weights, usage(codes, self.fsq.size))

    def _disturbed(self, quants: Tensor, numbers: Tensor, rng: Rng) -> Tensor:
        """Quantized numbers [B, R, F], some samples left as they were before, some codes swapped for random ones."""
        if self.config.unquantized:
            plain = (rng.uniform() < self.config.unquantized).to(quants.device)
            quants = torch.where(plain[:, None, None], self.fsq.scaled(numbers), quants)
        if self.config.corrupted:
            swapped = (rng.uniform(quants.shape[1]) < self.config.corrupted).to(quants.device)
            random = rng.integers(self.fsq.size, quants.shape[1], device=quants.device)
            quants = torch.where(swapped[..., None], self.fsq.dequantize(random), quants)
        return quants

    def _velocity_of_mixed(
        self,
        x: Tensor,
        registers: Tensor,
        num_tokens: Tensor,
        dropped: Tensor,
        times: Tensor,
        taps: dict[int, Tensor],
    ) -> Tensor:
        """Samples with and without condition in one batch."""
        if self.config.null != "single":
            return self.velocity(x, self._condition(registers, num_tokens, dropped), times, taps=taps)
        with_codes = self.velocity(x, self._condition(registers, num_tokens, None), times, taps=taps)
        without = self.velocity(x, self.without(len(x)), times)  # a sequence of another length: a pass of its own
        return torch.where(dropped[:, None, None, None], without, with_codes)

    def _draw_num_tokens(self, rng: Rng) -> Tensor:
        """k of each row: uniform in 1 .. R, a power of two or R, uniform rounded up to one of those, or R."""
        most = self.config.registers
        if self.config.nested_dropout == "all":
            return torch.full((len(rng),), most)
        if self.config.nested_dropout == "pow2":
            return (2 ** rng.integers((most - 1).bit_length() + 1)).clamp(max=most)
        num_tokens = 1 + rng.integers(most)
        if self.config.nested_dropout == "uniform_pow2":
            num_tokens = (2 ** num_tokens.float().log2().ceil().long()).clamp(max=most)
        return num_tokens

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise pictures in this model's shapes."""
        return {"images": rng.uniform(self.config.image_channels, *self.config.image_size)}
