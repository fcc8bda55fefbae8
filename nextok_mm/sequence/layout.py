"""What one X is: how a grid of tokens is cut into ordered entities.

A layout is the only source of order, positions and entity spans; masks and cache slots follow from its `sizes`.

| kind      | one entity                                                    | entity_size            |
|-----------|---------------------------------------------------------------|------------------------|
| token     | one token, raster order (1-D sequences)                       | -                      |
| patch     | one token of a picture, raster order                          | -                      |
| cell      | a block of neighbours; (1, W) is a row, (1, H, W) a frame     | the block, or its side |
| subsample | every s-th token on each axis: a coarse view, one per phase   | the stride             |
| scale     | the whole grid at a growing resolution, the last in full      | the resolutions        |
| image     | everything at once                                            | -                      |

Shapes: B batch, N tokens of the grid, S tokens of the sequence (S = N but for `scale`, which holds every resolution),
E entities, C channels. Raster order: the last axis runs fastest.
Source: xAR (arXiv 2502.20388), section 3.1.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_TOKENS = 1 << 17
"""Of a grid: 512 x 256, or 32 x 64 x 64. Orders and positions are written out a row a token."""
KINDS = ("token", "patch", "cell", "subsample", "scale", "image")
EntitySize = int | Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Layout:
    """An ordering of a grid into entities; make one with `make_layout`.

    sizes: tokens of each entity [E]; order: [S] raster index of each sequence token (for `scale`: counted through the
    concatenated resolutions); positions: [S, axes] coordinates in the full grid, where rotary embeddings read them.
    scales: the grid of each resolution, for `scale` alone.
    """

    kind: str
    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    order: Tensor
    positions: Tensor
    scales: tuple[tuple[int, ...], ...] = ()

    @property
    def tokens(self) -> int:
        """S, the length of the sequence."""
        return len(self.order)

    @property
    def entities(self) -> int:
        """E, the number of steps that generate it."""
        return len(self.sizes)

    @cached_property
    def inverse(self) -> Tensor:
        """[S] the place in the sequence of each raster token: `x[order][inverse] == x`."""
        return torch.argsort(self.order)

    @cached_property
    def entity_ids(self) -> Tensor:
        """[S] the entity of each sequence token."""
        return torch.tensor([entity for entity, size in enumerate(self.sizes) for _ in range(size)])

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The first token of each entity, and one past the last token of all, [E + 1]."""
        return (0, *accumulate(self.sizes))

    def span(self, entity: int) -> tuple[int, int]:
        """First token and one past the last of an entity."""
        return self.offsets[entity], self.offsets[entity + 1]

    def sizes_between(self, start: int, stop: int) -> tuple[int, ...]:
        """The sizes of the entities that lie whole within the tokens start..stop."""
        return self.sizes[bisect_left(self.offsets, start) : bisect_right(self.offsets, stop) - 1]

    def to_sequence(self, raster_BNC: Tensor) -> Tensor:
        """Raster tokens [B, N, ...] to the sequence [B, S, ...]; `scale` averages them to each resolution."""
        if self.scales:
            raster_BNC = torch.cat([_resize(raster_BNC, self.grid, to) for to in self.scales], dim=1)
        return raster_BNC[:, self.order.to(raster_BNC.device)]

    def to_raster(self, sequence_BSC: Tensor, entities: int | None = None) -> Tensor:
        """The sequence [B, S, ...] back to raster tokens [B, N, ...], zeros where only `entities` of them are done."""
        done = self.entities if entities is None else entities
        if not self.scales:
            known = (self.entity_ids < done).to(sequence_BSC.device)
            shown = sequence_BSC * known.reshape(-1, *[1] * (sequence_BSC.dim() - 2)).to(sequence_BSC.dtype)
            return shown[:, self.inverse.to(sequence_BSC.device)]
        if done == 0:
            return torch.zeros_like(sequence_BSC[:, -math.prod(self.grid) :])
        start, stop = self.span(done - 1)
        return _resize(sequence_BSC[:, start:stop], self.scales[done - 1], self.grid)


def _make(kind: str, grid: tuple[int, ...], size: int | tuple[int, ...] | None) -> Layout:
    if kind == "scale":
        return _scale(grid, size)
    cells = {
        "token": (1,) * len(grid),
        "patch": (1,) * len(grid),
        "image": grid,
        "cell": _per_axis(kind, grid, size),
        "subsample": _per_axis(kind, grid, size),
    }[kind]
    raster = torch.arange(math.prod(grid)).reshape(grid)
    if kind == "subsample":  # entity = a phase; its tokens lie `stride` apart
        groups = [raster[tuple(slice(p, None, s) for p, s in zip(phase, cells))] for phase in _corners(cells)]
    else:  # entity = a block of neighbours
        counts = tuple(g // c for g, c in zip(grid, cells))
        groups = [
            raster[tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, cells))] for corner in _corners(counts)
        ]
    order = torch.cat([group.reshape(-1) for group in groups])
    positions = _coordinates(grid)[order].float()
    return Layout(kind, grid, tuple(group.numel() for group in groups), order, positions)


def make_layout(kind: str, grid: Sequence[int], size: EntitySize = None) -> Layout:
    """The layout that cuts `grid` into entities of a kind (table above); ValueError where they don't fit."""
    if kind not in KINDS:
        raise ValueError(f"entity: got {kind!r}, accepted: {', '.join(KINDS)}")
    grid = tuple(int(side) for side in grid)
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ValueError(f"grid: got {grid}, accepted: one to three positive sides")
    if math.prod(grid) > MAX_TOKENS:
        raise ValueError(f"grid: got {grid}, accepted: at most {MAX_TOKENS} tokens in all")
    if kind in ("token", "patch", "image") and size is not None:
        raise ValueError(f"entity_size: got {size!r}, but entity {kind!r} takes none")
    return _make(kind, grid, tuple(size) if isinstance(size, Sequence) else size)


def _per_axis(kind: str, grid: tuple[int, ...], size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The block or stride on each axis, checked to divide the grid."""
    if kind not in ("cell", "subsample") or size is None:
        size = 1
    sides = (size,) * len(grid) if isinstance(size, int) else size
    if len(sides) != len(grid) or any(s < 1 or g % s for g, s in zip(grid, sides)):
        raise ValueError(f"entity_size: got {size!r} for a {kind}, accepted: divisors of the grid {grid} on each axis")
    return sides


def _scale(grid: tuple[int, ...], sides: int | tuple[int, ...] | None) -> Layout:
    """Coarse to fine: each resolution shrinks the longest axis to one of `sides`, the others in proportion."""
    longest = max(grid)
    if sides is None:
        sides = (*(2**i for i in range(longest.bit_length()) if 2**i < longest), longest)
    sides = (sides,) if isinstance(sides, int) else sides
    if list(sides) != sorted(set(sides)) or not sides or sides[0] < 1 or sides[-1] != longest:
        raise ValueError(f"entity_size: got {list(sides)}, accepted: growing sides that end with {longest}")
    scales = tuple(tuple(max(1, round(g * side / longest)) for g in grid) for side in sides)
    positions: list[Tensor] = []
    for scale in scales:  # a coarse token sits at the centre of what it covers
        index = _coordinates(scale).unbind(1)
        positions.append(torch.stack([(i + 0.5) * g / s - 0.5 for i, g, s in zip(index, grid, scale)], dim=-1))
    sizes = tuple(math.prod(scale) for scale in scales)
    return Layout("scale", grid, sizes, torch.arange(sum(sizes)), torch.cat(positions), scales)


def _coordinates(grid: tuple[int, ...]) -> Tensor:
    """The index of every token of a grid in raster order, [N, axes]."""
    # Not torch.unravel_index, which imports sympy for half a second.
    return torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), dim=-1).flatten(0, -2)


def _corners(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Every index of a grid in raster order."""
    return list(product(*(range(count) for count in counts)))


def _resize(x_BNC: Tensor, grid: tuple[int, ...], to: tuple[int, ...]) -> Tensor:
    """Raster tokens of one grid averaged (or repeated) to another."""
    if grid == to:
        return x_BNC
    flat = x_BNC.reshape(*x_BNC.shape[:2], -1)
    maps = flat.transpose(1, 2).reshape(flat.shape[0], -1, *[1] * (3 - len(grid)), *grid)
    depth, height, width = (*[1] * (3 - len(to)), *to)
    small = F.adaptive_avg_pool3d(maps, (depth, height, width))
    return small.flatten(2).transpose(1, 2).reshape(x_BNC.shape[0], -1, *x_BNC.shape[2:])
