"""FlexTok: a picture as 1 to N ordered tokens, coarse to fine, of which any number of leading ones make a picture.

Encoder: patches and N learned registers through a transformer in which registers see all patches and the registers
before them; each register is quantised (FSQ) to a code. Decoder: a rectified flow over the latents, conditioned on the
first k codes (the others are masked; training draws k at random, "nested dropout").

The latents are pixels in [-1, 1], or those of a VAE that is part of the model.
Shapes: B batch, C latent channels, H W latent rows and columns, P patches, R registers, D width, F numbers of a code,
T times. Flow time: t = 0 data, t = 1 noise.
Source: Bachmann et al., FlexTok: Resampling Images into 1D Token Sequences of Flexible Length (arXiv 2502.13967).
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import Config, ModelConfig
from nextok_mm.contracts import Batch, Loss, OrderedTokenizer, Tokens
from nextok_mm.flow.guidance import Projected, guide, ordered
from nextok_mm.flow.paths import PATHS
from nextok_mm.flow.solvers import solve, time_grid
from nextok_mm.flow.times import sample_times
from nextok_mm.heads.flow import TimeEmbedding
from nextok_mm.quantizers import check_codes
from nextok_mm.quantizers.fsq import FSQ, usage
from nextok_mm.registry import register
from nextok_mm.rng import Rng
from nextok_mm.sequence.backbone import Backbone, BackboneConfig
from nextok_mm.sequence.blocks import Norm
from nextok_mm.sequence.masks import Mask, block_causal, causal, two_way
from nextok_mm.sequence.packed import packed

from ._alignment import Alignment, AlignmentConfig
from ._patches import patchify, sincos, unpatchify
from .kl_vae import KLVAE, KLVAEConfig


class Sampling(Config):
    """How to decode. guidance: classifier-free, or projected (APG); interval: only at times low <= t <= high.

    momentum, norm, eta: of projected guidance, see flow.guidance.Projected.
    """

    steps: int = Field(default=20, ge=1, le=1000)
    solver: Literal["euler", "heun", "ab2"] = "euler"
    guidance: Literal["none", "cfg", "apg"] = "apg"
    weight: float = Field(default=7.5, ge=0, le=100)
    interval: tuple[float, float] = (0.0, 1.0)
    momentum: float = Field(default=-0.5, gt=-1, lt=1)
    norm: float = Field(default=2.5, gt=0)
    eta: float = Field(default=0.0, ge=0, le=1)

    _ordered = field_validator("interval")(ordered)


class Trunk(Config):
    """A transformer over [patches, registers].

    mask: two_way; causal, token by token; or causal_last, two-way among patches, which don't see the registers, and
    causal among registers, which see all patches. ada: AdaLN weights for each group, for both together, or none.
    """

    width: int = Field(gt=0)
    heads: int = Field(gt=0)
    depth: int = Field(gt=0)
    mask: Literal["two_way", "causal", "causal_last"] = "two_way"
    ada: Literal["group", "both", "none"] = "none"

    @field_validator("heads")
    @classmethod
    def _divides(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", 2 * heads)
        if width % heads or width // heads % 2:
            raise ValueError(f"even width / heads is accepted, of width {width}")
        return heads


class FlexTokConfig(ModelConfig):
    """A FlexTok. `size` names a preset; d12-d12, d18-d18 and d18-d28 are the published ones (256 x 256, VAE latents).

    image_size: of a picture; vae: its config (None: pixels); latent_size: rows and columns of the latents; registers:
    the most codes of a picture; levels: of the FSQ; positions: of the patches, fixed or learned; condition: the order
    in which the decoder's registers get positions, lose their tail and are swapped for the null condition; null: what
    stands for "no condition": a learned vector in every place, a single such token, or zeros; head_ada: the last
    layer is modulated by the time; predict: what the network says, the velocity (the paper) or the data, from which
    the velocity follows (for pixels, whose patches have more numbers than a small network is wide: arXiv 2511.13720);
    time_scale: of the times before their sinusoids; time_mean: of the
    training times' logit, above 0 for more noise; keep: how training draws the number
    of kept codes (all: no nested dropout, its ablation); drop: share of samples trained without condition;
    unquantised, corrupted: share of samples trained on numbers that aren't rounded, of codes swapped for random ones;
    repa: align a decoder layer with a feature network in training (its weights are no part of a released checkpoint).
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            image_channels=1,
            image_size=(8, 8),
            latent_channels=1,
            latent_size=(8, 8),
            patch=2,
            registers=8,
            levels=(5, 5, 5),
            encoder=dict(width=32, heads=2, depth=2, mask="causal_last"),
            decoder=dict(width=32, heads=2, depth=2, ada="group"),
            sampling=dict(steps=4),
        ),
        "fashion": dict(
            image_channels=1,
            image_size=(32, 32),
            latent_channels=16,
            latent_size=(4, 4),
            patch=1,
            registers=16,
            levels=(8, 8, 5, 5),
            vae=KLVAEConfig.SIZES["fashion"],
            encoder=dict(width=96, heads=3, depth=3, mask="causal_last"),
            decoder=dict(width=128, heads=4, depth=5, ada="both"),
        ),
        "emoji": dict(
            image_size=(64, 64),
            latent_channels=8,
            latent_size=(8, 8),
            patch=2,
            registers=64,
            levels=(8, 8, 8),
            vae=KLVAEConfig.SIZES["emoji"],
            encoder=dict(width=96, heads=3, depth=3, mask="causal_last"),
            decoder=dict(width=128, heads=4, depth=4, ada="both"),
        ),
        **{
            f"d{first}-d{second}": dict(
                vae=dict(block_channels=(128, 256, 512, 512)),
                encoder=dict(width=64 * first, heads=first, depth=first, mask="causal_last"),
                decoder=dict(width=64 * second, heads=second, depth=second, ada="group"),
            )
            for first, second in ((12, 12), (18, 18), (18, 28))
        },
    }
    image_channels: int = Field(default=3, gt=0)
    image_size: tuple[int, int] = (256, 256)
    vae: KLVAEConfig | None = None
    latent_channels: int = Field(default=16, gt=0)
    latent_size: tuple[int, int] = (32, 32)
    patch: int = Field(default=2, gt=0)
    registers: int = Field(default=256, gt=0)
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    encoder: Trunk
    decoder: Trunk
    positions: Literal["sincos", "learned"] = "sincos"
    condition: tuple[Literal["positions", "dropout", "null"], ...] = ("positions", "dropout", "null")
    null: Literal["token", "single", "zero"] = "token"
    head_ada: bool = True
    predict: Literal["velocity", "data"] = "velocity"
    time_scale: float = Field(default=1000.0, gt=0)
    time_mean: float = 0.0
    keep: Literal["uniform", "pow2", "uniform_pow2", "all"] = "uniform_pow2"
    drop: float = Field(default=0.2, ge=0, lt=1)
    unquantised: float = Field(default=0.0, ge=0, lt=1)
    corrupted: float = Field(default=0.0, ge=0, lt=1)
    repa: AlignmentConfig | None = None
    sampling: Sampling = Sampling()

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.latent_size[0] // self.patch, self.latent_size[1] // self.patch

    @model_validator(mode="after")
    def _consistent(self) -> "FlexTokConfig":
        if any(side % self.patch for side in self.latent_size):
            raise ValueError(f"latent_size {self.latent_size}: multiples of patch {self.patch} are accepted")
        if not {"dropout", "null"} <= set(self.condition) or len(set(self.condition)) != len(self.condition):
            raise ValueError(f"condition {self.condition}: dropout and null, and positions where wanted, each once")
        if self.encoder.ada != "none":
            raise ValueError("encoder.ada: got a modulated encoder, accepted: none, since it has no time")
        if self.decoder.ada == "none" and not self.head_ada:
            raise ValueError("decoder.ada: one of decoder.ada and head_ada has to take in the time")
        stride = 1 if self.vae is None else self.vae.stride
        channels = self.image_channels if self.vae is None else self.vae.latent_channels
        if (channels, *(side // stride for side in self.image_size)) != (self.latent_channels, *self.latent_size):
            raise ValueError(
                f"latent_size, latent_channels: got {self.latent_size} and {self.latent_channels}, but a picture of "
                f"{self.image_size} has {channels} channels at a stride of {stride}"
            )
        return self


@register("tokenizer", "flextok")
class FlexTok(OrderedTokenizer):
    """The model; see the module's text."""

    Config = FlexTokConfig
    Sampling = Sampling
    training_only = ("repa",)
    NEAR = 0.05  # times below this count as this where a predicted picture is turned into a velocity
    config: FlexTokConfig

    def __init__(self, config: FlexTokConfig):
        super().__init__()
        self.config = config
        numbers, inner, outer = config.latent_channels * config.patch**2, config.encoder.width, config.decoder.width
        self.vae = None if config.vae is None else KLVAE(config.vae).requires_grad_(False)
        self.fsq = FSQ(config.levels)
        self.patch_in = nn.Linear(numbers, inner)
        self.registers = nn.Parameter(torch.empty(config.registers, inner))
        self.encoder = _backbone(config.encoder)
        self.encoder_norm = _norm(inner)
        self.to_code = nn.Linear(inner, len(config.levels))
        self.from_code = nn.Linear(len(config.levels), outer)
        self.register_positions = nn.Parameter(torch.empty(config.registers, outer)) if self._has("positions") else None
        self.mask_token = nn.Parameter(torch.empty(outer))
        self.null_token = nn.Parameter(torch.empty(outer)) if config.null != "zero" else None
        self.noisy_patch_in = nn.Linear(numbers, outer)
        self.time = TimeEmbedding(outer, period=256.0, scale=config.time_scale, whole=False)
        self.decoder = _backbone(config.decoder)
        self.decoder_norm = _norm(outer)
        self.head_ada = nn.Linear(outer, 2 * outer) if config.head_ada else None
        self.velocity_out = nn.Linear(outer, numbers)
        self.repa = None if config.repa is None else Alignment(config.repa, outer)
        self._patch_positions("encoder_positions", inner)
        self._patch_positions("decoder_positions", outer)
        # The encoder's registers begin far apart: where they begin alike, they all read the same, and codes collapse.
        nn.init.normal_(self.registers)
        for parameter in (self.register_positions, self.mask_token, self.null_token):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)

    def _has(self, part: str) -> bool:
        return part in self.config.condition

    def _patch_positions(self, name: str, width: int) -> None:
        """A fixed table is no weight: it is made here, not stored."""
        table = sincos(self.config.grid, width)
        if self.config.positions == "learned":
            self.register_parameter(name, nn.Parameter(table))
        else:
            self.register_buffer(name, table, persistent=False)

    # Pictures and latents

    def grid(self, size: tuple[int, int]) -> tuple[int]:
        """(registers,), whatever the picture; ValueError for another size than the model's."""
        if tuple(size) != self.config.image_size:
            wanted = self.config.image_size
            raise ValueError(f"picture size: got {size[0]} x {size[1]}, accepted: {wanted[0]} x {wanted[1]}")
        return (self.config.registers,)

    @property
    def codes(self) -> int:
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
        keep: int | Tensor | None = None,
        rng: Rng | None = None,
        sampling: Sampling | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The first k codes [B, k] of each picture (any k from 1 to R) -> images [B, channels, H, W] in [0, 1].

        keep: use fewer, one number or [B] of them; rng: of the noise, else the same noise for every picture.
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
        quants_BRF = self.fsq.dequantise(F.pad(codes.long(), (0, self.config.registers - codes.shape[1])))
        rng = rng or Rng([0] * len(codes))
        noise = rng.normal(self.config.latent_channels, *self.config.latent_size, like=quants_BRF)
        return self.to_images(self.sample(quants_BRF, self._kept(keep, codes), noise, sampling, progress))

    def _kept(self, keep: int | Tensor | None, codes: Tensor) -> Tensor:
        """How many codes count, [B]."""
        rows, most = codes.shape
        given = most if keep is None else keep
        wrong = None
        if isinstance(given, Tensor):
            if given.shape != (rows,) or given.is_floating_point() or given.dtype == torch.bool:
                wrong = f"{tuple(given.shape)} of {given.dtype}"
            elif not 1 <= int(given.long().min()) <= int(given.long().max()) <= most:
                wrong = f"{int(given.long().min())} to {int(given.long().max())}"
        elif isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
            wrong = repr(given)
        if wrong is not None:
            raise ValueError(f"keep: got {wrong}, accepted: whole numbers from 1 to {most}, one or a tensor [{rows}]")
        return torch.as_tensor(given, device=codes.device).long().expand(rows)

    # The networks

    def read(self, latents_BCHW: Tensor) -> Tensor:
        """Latents -> the numbers of every register before they are quantised, [B, R, F] in fp32."""
        patches = self.patch_in(patchify(latents_BCHW, self.config.patch)) + self.encoder_positions
        registers = self.registers.expand(len(patches), -1, -1)
        hidden = self.encoder(torch.cat((patches, registers.type_as(patches)), dim=1), self._mask("encoder"))
        with torch.autocast(hidden.device.type, enabled=False):
            return self.to_code(self.encoder_norm(hidden[:, patches.shape[1] :].float()).to(self.to_code.weight.dtype))

    def conditions(self, quants_BRF: Tensor, keep_B: Tensor) -> Tensor:
        """The decoder's registers [B, R, D]: codes projected, with positions, the tail masked."""
        return self._condition(self.from_code(quants_BRF.to(self.from_code.weight.dtype)), keep_B, None)

    def without(self, rows: int) -> Tensor:
        """The decoder's registers where there is no condition, [B, R or 1, D]."""
        blank = self.mask_token.expand(rows, self.config.registers, -1)
        none = torch.zeros(rows, device=blank.device, dtype=torch.long)
        blank = self._condition(blank, none, torch.ones(rows, device=blank.device, dtype=torch.bool))
        return blank[:, :1] if self.config.null == "single" else blank

    def _condition(self, registers_BRD: Tensor, keep_B: Tensor, null_B: Tensor | None) -> Tensor:
        """The parts of the condition, in the config's order."""
        for part in self.config.condition:
            if part == "positions":
                assert self.register_positions is not None
                registers_BRD = registers_BRD + self.register_positions
            elif part == "dropout":
                kept = torch.arange(registers_BRD.shape[1], device=keep_B.device) < keep_B[:, None]
                registers_BRD = torch.where(kept[..., None], registers_BRD, self.mask_token.type_as(registers_BRD))
            elif null_B is not None:
                null = registers_BRD.new_zeros(()) if self.null_token is None else self.null_token
                registers_BRD = torch.where(null_B[:, None, None], null.type_as(registers_BRD), registers_BRD)
        return registers_BRD

    def velocity(
        self,
        x_BCHW: Tensor,
        registers_BRD: Tensor,
        times_B: Tensor,
        tables: tuple[Tensor | None, ...] | None = None,
        taps: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """The velocity [B, C, H, W] at times [B] (or [1], shared).

        tables: what `_tables` made of the times; taps: as the backbone takes them.
        """
        config = self.config
        patches = self.noisy_patch_in(patchify(x_BCHW, config.patch).to(self.noisy_patch_in.weight.dtype))
        patches = patches + self.decoder_positions
        modulations, head = tables or self._tables(times_B)
        sequence = torch.cat((patches, registers_BRD.type_as(patches)), dim=1)
        groups = (patches.shape[1], registers_BRD.shape[1])
        sizes = groups if config.decoder.ada == "group" else (sum(groups),)
        hidden = self.decoder(sequence, self._mask("decoder", groups[1]), sizes, None, modulations, taps=taps)
        with torch.autocast(x_BCHW.device.type, enabled=False):
            hidden = self.decoder_norm(hidden[:, : groups[0]].float())
            if head is not None:
                shift, scale = head.float().chunk(2, dim=-1)
                hidden = hidden * (1 + scale) + shift
            out = self.velocity_out(hidden.to(self.velocity_out.weight.dtype))
        out = unpatchify(out, config.patch, config.grid)
        if config.predict == "velocity":
            return out
        return (x_BCHW.float() - out.float()) / times_B.float().clamp_min(self.NEAR)[:, None, None, None]

    def _tables(self, times_T: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Everything that depends on the time alone: the blocks' vectors [L, T, E, 6D], the last layer's [T, 1, 2D]."""
        time_T1D = self.time(times_T)[:, None]
        blocks = self.decoder.modulations(time_T1D) if self.config.decoder.ada != "none" else None
        return blocks, None if self.head_ada is None else self.head_ada(F.silu(time_T1D))

    def _mask(self, which: str, registers: int | None = None) -> Mask:
        patches, registers = math.prod(self.config.grid), registers or self.config.registers
        kind = getattr(self.config, which).mask
        if kind == "causal_last":
            return block_causal((patches, *[1] * registers))
        return (two_way if kind == "two_way" else causal)(patches + registers)

    # Decoding

    @torch.no_grad()
    def sample(
        self,
        quants_BRF: Tensor,
        keep_B: Tensor,
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
            registers = self.conditions(quants_BRF, keep_B)
            step = self._step(settings, registers, times)
            return solve(settings.solver, step, noise_BCHW, times, project=after_a_step)

    def _step(self, settings: Sampling, registers_BRD: Tensor, times: list[float]) -> Callable[[Tensor, float], Tensor]:
        """velocity(x, t), guided; what doesn't change from step to step is computed here, once."""
        rows = len(registers_BRD)
        guided = settings.guidance != "none" and settings.weight != 1
        null = self.without(rows) if guided else registers_BRD
        together = guided and null.shape == registers_BRD.shape
        both = torch.cat((registers_BRD, null)) if together else registers_BRD
        table = torch.tensor(times, device=registers_BRD.device)
        blocks, head = self._tables(table)
        project = Projected(settings.weight, settings.momentum, settings.norm, settings.eta)

        def velocity(x: Tensor, t: float) -> Tensor:
            i = slice(times.index(t), times.index(t) + 1)
            now = (None if blocks is None else blocks[:, i], None if head is None else head[i])
            if not guided or not settings.interval[0] <= t <= settings.interval[1]:
                return self.velocity(x, registers_BRD, table[i], now)
            if together:
                conditional, unconditional = self.velocity(torch.cat((x, x)), both, table[i], now).chunk(2)
            else:
                conditional = self.velocity(x, registers_BRD, table[i], now)
                unconditional = self.velocity(x, null, table[i], now)
            if settings.guidance == "apg":
                return project(conditional, unconditional)
            return guide(conditional, unconditional, settings.weight)

        return velocity

    # Training

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Rectified-flow error of the decoder, given a random number of codes.

        batch: images [B, channels, H, W], or tokens [B, H * W, C] that the VAE made of them beforehand.
        """
        latents = self.to_latents(batch["images"]) if "images" in batch else self._maps(batch["tokens"])
        numbers = self.read(latents)
        quants, codes = self.fsq(numbers)
        quants = self._disturbed(quants, numbers, rng)
        keep = self._draw_keep(rng).to(latents.device)
        dropped = rng.uniform(like=latents) < self.config.drop
        times = sample_times("logit_normal", rng, 1, self.config.time_mean)[:, 0].to(latents)
        noise = rng.normal(*latents.shape[1:], like=latents)
        path = PATHS["linear"]
        x = path.mix(latents, noise, times[:, None, None, None])
        taps = {} if self.repa is None else self.repa.taps(x)
        velocity = self._velocity_of_mixed(x, self.from_code(quants), keep, dropped, times, taps)
        loss = (velocity.float() - path.velocity(latents, noise, 0.0)).square().mean()
        parts = {"flow": loss.detach(), **usage(codes, self.fsq.size)}
        if self.repa is not None:
            if "images" not in batch:
                raise ValueError("repa: got latents alone, accepted: pictures, which its network has to see")
            away = self.repa(taps, batch["images"], self.config.grid)
            loss, parts = loss + self.repa.config.weight * away, {**parts, "repa": away.detach()}
        return Loss(loss, parts)

    def _disturbed(self, quants: Tensor, numbers: Tensor, rng: Rng) -> Tensor:
        """Quantised numbers [B, R, F], some samples left as they were before, some codes swapped for random ones."""
        if self.config.unquantised:
            plain = rng.uniform(like=quants) < self.config.unquantised
            quants = torch.where(plain[:, None, None], self.fsq.scaled(numbers), quants)
        if self.config.corrupted:
            swapped = rng.uniform(quants.shape[1], like=quants) < self.config.corrupted
            random = rng.integers(self.fsq.size, quants.shape[1], device=quants.device)
            quants = torch.where(swapped[..., None], self.fsq.dequantise(random), quants)
        return quants

    def _velocity_of_mixed(
        self,
        x: Tensor,
        registers: Tensor,
        keep: Tensor,
        dropped: Tensor,
        times: Tensor,
        taps: dict[int, Tensor],
    ) -> Tensor:
        """Samples with and without condition in one batch."""
        if self.config.null != "single":
            return self.velocity(x, self._condition(registers, keep, dropped), times, taps=taps)
        with_codes = self.velocity(x, self._condition(registers, keep, None), times, taps=taps)
        without = self.velocity(x, self.without(len(x)), times)  # a sequence of another length: a pass of its own
        return torch.where(dropped[:, None, None, None], without, with_codes)

    def _draw_keep(self, rng: Rng) -> Tensor:
        """k of each row: uniform in 1 .. R, a power of two, uniform rounded up to a power of two, or R."""
        most = self.config.registers
        if self.config.keep == "all":
            return torch.full((len(rng),), most)
        if self.config.keep == "pow2":
            return 2 ** rng.integers(most.bit_length())
        keep = 1 + rng.integers(most)
        if self.config.keep == "uniform_pow2":
            keep = (2 ** keep.float().log2().ceil().long()).clamp(max=most)
        return keep

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise pictures in this model's shapes."""
        return {"images": rng.uniform(self.config.image_channels, *self.config.image_size)}

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute blocks in the backward pass."""
        self.encoder.gradient_checkpointing(on)
        self.decoder.gradient_checkpointing(on)


def _backbone(trunk: Trunk) -> Backbone:
    """The shared backbone in FlexTok's form: LayerNorms and no biases, queries and keys normalised, no rotation."""
    config = BackboneConfig(
        width=trunk.width,
        heads=trunk.heads,
        depth=trunk.depth,
        mlp="swiglu",
        mlp_hidden=trunk.width * 8 // 3,
        norm="layer",
        norm_affine=False,
        norm_eps=1e-5,
        qk_norm=True,
        score_scale=8 / (trunk.width // trunk.heads),
        bias=False,
        modulated=trunk.ada != "none",
        ada_groups=2 if trunk.ada == "group" else 1,
        rope=False,
        norm_out=False,
    )
    return Backbone(config, torch.zeros(0, 1))


def _norm(width: int) -> Norm:
    return Norm(width, "layer", affine=False, eps=1e-5)
