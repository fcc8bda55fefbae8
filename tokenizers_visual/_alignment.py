"""Alignment with a feature network: a layer of a generator is drawn towards what the network sees in the clean picture.

Patch features of one block go through a small MLP; the loss is one minus their cosine with the network's feature map,
resized to the patches. Of use in training alone.

Shapes: B batch, P patches, D width, F channels of the feature map, H W picture, h w patch rows and columns.
Source: Yu et al., Representation Alignment for Generation (arXiv 2410.06940), section 3.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nextok_mm.config import Config

from ._losses import FrozenFeatures


class AlignmentConfig(Config):
    """Alignment of a layer with a feature map of a fixed network (REPA)."""

    net: str = Field(
        default="effnet-lite0-imagenet", description="Name of the feature network (see nextok_mm.features.pictures)."
    )
    resolution: int = Field(
        default=64,
        ge=32,
        le=1024,
        description="Rows and columns in pixels of what the network is shown, where it leaves a choice.",
    )
    map: int = Field(
        default=-2, ge=-64, le=64, description="Index of the network's feature map; -1 is the last, coarsest one."
    )
    channels: int = Field(default=112, gt=0, le=1 << 16, description="Number of channels of that feature map.")
    layer: int = Field(default=0, ge=0, le=1 << 10, description="Index of the decoder block that is aligned with it.")
    hidden: int = Field(
        default=256, gt=0, le=1 << 16, description="Width of the hidden layer of the MLP between the two."
    )
    weight: float = Field(default=0.5, gt=0, description="Weight of the alignment in the loss.")


class Alignment(nn.Module):
    """The MLP; the network is fixed and no part of this module's parameters."""

    def __init__(self, config: AlignmentConfig, width: int):
        super().__init__()
        self.config = config
        self.mlp = nn.Sequential(nn.Linear(width, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.channels))
        self._features = FrozenFeatures(config.net, config.resolution)

    def taps(self, like: Tensor) -> dict[int, Tensor]:
        """What a backbone's pass has to be given to hand out the layer."""
        return {self.config.layer: like.new_empty(0)}

    def forward(self, taps: dict[int, Tensor], images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Filled taps, whose first h * w tokens are patches, and images [B, channels, H, W] in [0, 1] -> [B, P].

        ValueError in one line for a layer that isn't there, or a map of other channels.
        """
        features = taps[self.config.layer]
        if not features.numel():
            raise ValueError(f"repa.layer: got {self.config.layer}, accepted: a number below the decoder's depth")
        target = self._target(images, grid)
        mine = self.mlp(features[:, : grid[0] * grid[1]].to(next(self.mlp.parameters()).dtype))
        return 1 - F.cosine_similarity(mine.float(), target, dim=-1)

    @torch.no_grad()
    def _target(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """The feature map at the patches, [B, P, F]."""
        maps = self._features.on(images.device).maps(images.float())
        if not -len(maps) <= self.config.map < len(maps):
            raise ValueError(f"repa.map: got {self.config.map}, but {self.config.net} has {len(maps)} maps")
        chosen = maps[self.config.map].float()
        if chosen.shape[1] != self.config.channels:
            raise ValueError(f"repa.channels: got {self.config.channels}, accepted: {chosen.shape[1]}, the map's own")
        return F.interpolate(chosen, grid, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
