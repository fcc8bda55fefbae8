"""The shared sequence model: a stack of blocks over the tokens of a layout.

    tokens -> (+ learned positions, norm) -> blocks -> [norm, linear, + learned positions] -> blocks -> norm

The part in brackets is the optional `midway` of encoder-decoder shaped models such as xAR: it only re-embeds, the
sequence and its masks stay the same. Conditions enter as one vector an ENTITY; their AdaLN vectors are computed once
an entity, never once a token, and a sampler can compute those of all its times in one product (`modulations`).

Shapes: B batch, N tokens of this pass, S tokens of the whole sequence, E entities of this pass, D width, L blocks.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from .blocks import Block, BlockConfig, Modulation, Norm
from .cache import KVCache
from .masks import Mask
from .rope import LongRope, rope_table, turns


class BackboneConfig(BlockConfig):
    """A stack of blocks, and what is around it.

    With `ada_groups` above 1, the entities of a group share AdaLN weights and all share one condition; with 1, all
    share the weights, and each entity has its condition.
    """

    depth: int = Field(gt=0, le=1 << 10, description="Number of transformer blocks.")
    positions: int = Field(default=0, ge=0, description="Length of a learned table of positions; 0 has none.")
    rope: bool = Field(default=True, description="Rotate queries and keys by the layout's positions.")
    rope_theta: float = Field(default=10000.0, gt=0, description="Base of the wavelengths of rotary positions.")
    rope_scaling: LongRope | None = Field(
        default=None, description="The stretching of rotary positions to longer sequences; null stretches nothing."
    )
    midway: int = Field(
        default=0, ge=0, description="Index of the block before which the sequence is embedded anew; 0 never does."
    )
    norm_in: bool = Field(default=False, description="Normalize the input of the first block.")
    norm_out: bool = Field(default=True, description="Normalize the output of the last block.")
    ada_groups: int = Field(
        default=1, gt=0, description="Number of groups of entities that have AdaLN weights of their own."
    )


class Backbone(nn.Module):
    """The stack; `positions_SX` are the layout's coordinates, [S, axes], or None for sequences without a fixed end,
    whose positions every pass is told."""

    rope: Tensor | None

    def __init__(self, config: BackboneConfig, positions_SX: Tensor | None = None):
        super().__init__()
        self.config, width = config, config.width
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        fixed = config.rope and positions_SX is not None
        self.register_buffer("rope", self._rotation(positions_SX) if fixed else None, persistent=False)
        self.positions = nn.Parameter(torch.empty(config.positions, width)) if config.positions else None
        norm = config.norm, True, config.norm_eps, config.norm_bias
        self.norm_in = Norm(width, *norm) if config.norm_in else nn.Identity()
        self.norm_out = Norm(width, *norm) if config.norm_out else nn.Identity()
        if config.midway:
            self.norm_midway = Norm(width, *norm)
            self.midway = nn.Linear(width, width)
            self.positions_midway = nn.Parameter(torch.empty(config.positions, width)) if config.positions else None
        if config.modulated:  # all blocks' AdaLN in one tensor, so that one product serves them all
            self.ada_weight = nn.Parameter(torch.empty(config.depth, config.ada_groups * 6 * width, width))
            self.ada_bias = nn.Parameter(torch.zeros(config.depth, config.ada_groups * 6 * width))
        self.backend = "auto"
        self.checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices, zero biases, position tables N(0, 0.02), as ViT in JAX (and xAR) start."""
        for name, parameter in self.named_parameters():
            if name.startswith("positions"):
                nn.init.normal_(parameter, std=0.02)
            elif name == "ada_weight":
                for layer in parameter:
                    nn.init.xavier_uniform_(layer)
            elif parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.checkpointing = on

    def cache(self, rows: int, room: int, like: Tensor, window: int | None = None) -> KVCache:
        """Room for the keys and values of so many tokens of each row, on the device and in the dtype of `like`."""
        config = self.config
        return KVCache(config.depth, rows, config.kv_heads, room, config.head_dim, like, window)

    def modulations(self, cond_BED: Tensor) -> Tensor:
        """The AdaLN vectors of every block for these conditions: [L, B, E, 6 * D], in one product.

        With `ada_groups` there is one condition, [B, 1, D], and E is the number of groups.
        """
        flat = F.linear(F.silu(cond_BED), self.ada_weight.flatten(0, 1), self.ada_bias.flatten())
        return self._by_entity(torch.unflatten(flat, -1, (len(self.blocks), -1)).movedim(-2, 0))

    def _by_entity(self, vectors: Tensor) -> Tensor:
        """[..., E or 1, G * 6 * D] -> [..., E, 6 * D]: the groups' vectors become those of as many entities."""
        return torch.unflatten(vectors, -1, (self.config.ada_groups, -1)).flatten(-3, -2)

    def forward(
        self,
        x_BND: Tensor,
        mask: Mask,
        sizes: Sequence[int] = (),
        cond_BED: Tensor | None = None,
        modulations: Tensor | None = None,
        tokens: tuple[Tensor, ...] | slice = slice(None),
        cache: KVCache | None = None,
        taps: dict[int, Tensor] | None = None,
        padding_BK: Tensor | None = None,
        places_NX: Tensor | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Run a pass over N tokens of the sequence. Returns [B, N, D].

        sizes: tokens of each entity in this pass; cond_BED: their conditions, or `modulations` as made by that method;
        tokens: which of the S places these are (a slice, or indices); cache: keys and values of the tokens before;
        taps: what comes out of the blocks that it has as keys is put there; padding_BK: keys of the sequence so far
        that nobody of a row sees; places: where these tokens are, [N, axes] or [B, N, axes], for a backbone without
        a table; last: return so many last tokens alone, which spares the last block of one without conditions most of
        its work.
        """
        assert last is None or not self.config.modulated, "the last tokens alone: not of a modulated backbone"
        rope = self._rotation(places_NX) if places_NX is not None and self.config.rope else self.rope
        rope = rope[tokens] if places_NX is None and rope is not None else rope
        rope = None if rope is None else turns(rope, self.config.rope_pairs)
        x_BND = self.norm_in(x_BND if self.positions is None else x_BND + self.positions[tokens])
        vectors = self._vectors(cond_BED, modulations)
        for index, (block, vectors_BEX) in enumerate(zip(self.blocks, vectors)):
            if self.config.midway and index == self.config.midway:
                x_BND = self.midway(self.norm_midway(x_BND))
                x_BND = x_BND if self.positions_midway is None else x_BND + self.positions_midway[tokens]
            six = None if vectors_BEX is None else torch.unflatten(vectors_BEX, -1, (6, -1))
            modulation = None if six is None else Modulation(six, tuple(sizes))
            place = None if cache is None else (cache, index)
            if self.checkpointing and torch.is_grad_enabled():
                assert last is None, "training looks at all tokens"
                x_BND = checkpoint(
                    block, x_BND, mask, self.backend, rope, modulation, place, padding_BK, use_reentrant=False
                )
            else:
                only = last if index == len(self.blocks) - 1 else None
                x_BND = block(x_BND, mask, self.backend, rope, modulation, place, padding_BK, only)
            if taps and index in taps:
                taps[index] = x_BND
        return self.norm_out(x_BND)

    def _rotation(self, positions_SX: Tensor | None) -> Tensor:
        """The cosines and sines of these positions, [..., S, A / 2, 2]."""
        assert positions_SX is not None, "a backbone without a table of positions needs to be told them"
        config = self.config
        return rope_table(positions_SX, config.head_dim, config.rope_theta, config.rope_scaling)

    def _vectors(self, cond_BED: Tensor | None, modulations: Tensor | None) -> Iterator[Tensor | None]:
        """The AdaLN vectors of each block in turn, [B, E, 6 * D]."""
        if not self.config.modulated:
            yield from [None] * len(self.blocks)
        elif modulations is not None:
            yield from modulations
        else:
            assert cond_BED is not None, "a modulated backbone needs a condition"
            # Block by block: in training the vectors of all blocks at once would be held twice. And unbound, not
            # indexed: the gradient of an index is a whole tensor of zeros, one for every block.
            for weight, bias in zip(self.ada_weight.unbind(), self.ada_bias.unbind()):
                yield self._by_entity(F.linear(F.silu(cond_BED), weight, bias))
