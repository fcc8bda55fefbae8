"""Patches of latents, there and back, and fixed positions for them.

Shapes: B batch, C channels, H W rows and columns, P patches, D width.
"""

import torch
from torch import Tensor


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, P, patch * patch * C], the channel fastest."""
    x = x_BCHW.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # B C h p w q
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(x_BPN: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`."""
    x = x_BPN.unflatten(1, grid).unflatten(3, (patch, patch, -1))  # B h w p q C
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sincos(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed positions [P, D]: sine and cosine of the row, then of the column, at D / 4 rates from 1 to 1/10000."""
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64)[:, None] * rates for side in grid)
    rows, columns = rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)
    return torch.cat((rows.sin(), rows.cos(), columns.sin(), columns.cos()), dim=-1).flatten(0, 1).float()
