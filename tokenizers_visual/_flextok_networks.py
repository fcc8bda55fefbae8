"""FlexTok's networks: the encoder, from latents to the numbers of its registers; the decoder, a velocity of latents.

What is drawn, quantized, sampled and learned with them is in flextok.py.
Shapes: B batch, C latent channels, H W latent rows and columns, R registers, D width, F numbers of a code, T times, L
blocks, E groups of tokens that are modulated alike.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextok_mm.heads.flow import TimeEmbedding
from nextok_mm.quantizers.fsq import FSQ
from nextok_mm.sequence.backbone import Backbone, BackboneConfig
from nextok_mm.sequence.blocks import Norm
from nextok_mm.sequence.masks import Mask, block_causal, causal, two_way

from ._alignment import Alignment
from ._flextok_config import FlexTokConfig, Trunk
from ._patches import patchify, sincos, unpatchify
from .kl_vae import KLVAE


class Networks(nn.Module):
    """Every weight of a FlexTok, and the two passes."""

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

    def read(self, latents_BCHW: Tensor) -> Tensor:
        """Latents -> the numbers of every register before they are quantized, [B, R, F] in fp32."""
        patches = self.patch_in(patchify(latents_BCHW, self.config.patch)) + self.encoder_positions
        registers = self.registers.expand(len(patches), -1, -1)
        hidden = self.encoder(torch.cat((patches, registers.type_as(patches)), dim=1), self._mask("encoder"))
        with torch.autocast(hidden.device.type, enabled=False):
            return self.to_code(self.encoder_norm(hidden[:, patches.shape[1] :].float()).to(self.to_code.weight.dtype))

    def conditions(self, quants_BRF: Tensor, num_tokens_B: Tensor) -> Tensor:
        """The decoder's registers [B, R, D]: codes projected, with positions, the tail masked."""
        return self._condition(self.from_code(quants_BRF.to(self.from_code.weight.dtype)), num_tokens_B, None)

    def without(self, rows: int) -> Tensor:
        """The decoder's registers where there is no condition, [B, R or 1, D]."""
        blank = self.mask_token.expand(rows, self.config.registers, -1)
        none = torch.zeros(rows, device=blank.device, dtype=torch.long)
        blank = self._condition(blank, none, torch.ones(rows, device=blank.device, dtype=torch.bool))
        return blank[:, :1] if self.config.null == "single" else blank

    def _condition(self, registers_BRD: Tensor, num_tokens_B: Tensor, null_B: Tensor | None) -> Tensor:
        """The parts of the condition, in the config's order."""
        for part in self.config.condition:
            if part == "positions":
                assert self.register_positions is not None
                registers_BRD = registers_BRD + self.register_positions
            elif part == "dropout":
                kept = torch.arange(registers_BRD.shape[1], device=num_tokens_B.device) < num_tokens_B[:, None]
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
