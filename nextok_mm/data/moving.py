"""Moving Fashion-MNIST: items of clothing bouncing about on a black canvas, as clips [1, T, side, side] in [0, 1].

The protocol of Moving MNIST with other pictures: every item starts somewhere in a random direction, moves a tenth of
its range a frame, bounces off the walls, and where items overlap the brighter pixel shows. A clip is a function of
(seed, split, index): the same one on every machine, and items of the training split never move in a test clip.

Shapes: B batch, I items, T frames.
Source: Srivastava et al., Unsupervised Learning of Video Representations using LSTMs (arXiv 1502.04681), section 3.1.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..contracts import Batch
from ..rng import Rng, mix
from . import fashion_mnist
from .source import Source, SourceConfig

SIDE = 28
SPEED = 0.1


class Config(SourceConfig):
    """Moving Fashion-MNIST.

    A clip's label says which classes move in it, in no order; `class_names` spells them "bag + sneaker".
    """

    kind: Literal["moving"] = Field(
        default="moving", description="Name of this kind of source, which selects this config."
    )
    split: Literal["train", "test"] = Field(
        default="train", description="Part of Fashion-MNIST that the items come from."
    )
    frames: int = Field(17, ge=1, le=10_000, description="Number of frames of a clip.")
    size: int = Field(64, ge=SIDE + 1, le=1024, description="Rows and columns of a clip, in pixels.")
    items: int = Field(2, ge=1, le=3, description="Number of items that move in a clip.")
    rows: int | None = Field(None, ge=1, description="Number of clips; null makes as many as the split has pictures.")
    seed: int = Field(default=0, description="Seed of the clips: which items move, and how.")
    root: str | None = Field(
        default=None, description="Folder of Fashion-MNIST; null takes Debian's, or else downloads it."
    )

    def open(self) -> "Moving":
        """The pictures, in memory as bytes; clips are made when they are asked for."""
        return Moving(self)


class Moving(Source):
    """Clips made on the fly, in a millisecond each."""

    def __init__(self, config: Config):
        self.config = config
        pictures = fashion_mnist.Config(split=config.split, root=config.root).open()
        self.items, self.item_labels = pictures.images, pictures.labels
        self.groups = list(combinations_with_replacement(range(len(fashion_mnist.CLASSES)), config.items))
        self.class_names = tuple(" + ".join(fashion_mnist.CLASSES[i] for i in group) for group in self.groups)

    def __len__(self) -> int:
        return self.config.rows or len(self.items)

    def column(self, name: str) -> Iterable[Tensor]:
        """Every label that a clip may have, once."""
        return [torch.arange(len(self.groups))] if name == "labels" else []

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`images` [B, 1, T, side, side] and `labels` [B]; nothing is drawn from seeds."""
        config = self.config
        rng = Rng([mix("moving", config.seed, config.split, index) for index in indices])
        chosen_BI = rng.integers(len(self.items), config.items)
        places_BIT2 = paths(rng.uniform(config.items, 3), config.frames, config.size - SIDE)
        clips = draw(self.items[chosen_BI].float() / 255, places_BIT2, config.size)
        groups = self.item_labels[chosen_BI].sort(dim=1).values.tolist()
        return {"images": clips, "labels": torch.tensor([self.groups.index(tuple(group)) for group in groups])}


def paths(drawn_BI3: Tensor, frames: int, room: int) -> Tensor:
    """Uniform numbers (start down, start across, direction) -> whole top left corners [B, I, T, 2] in 0 .. room."""
    start_BI2, angle_BI = drawn_BI3[..., :2], drawn_BI3[..., 2] * (2 * math.pi)
    velocity_BI2 = SPEED * torch.stack((angle_BI.sin(), angle_BI.cos()), dim=-1)
    travelled = start_BI2[:, :, None] + torch.arange(frames)[:, None] * velocity_BI2[:, :, None]
    bounced = 1 - (travelled % 2 - 1).abs()  # a triangle wave: walls at 0 and 1 reflect
    return (bounced * room).round().long()


def draw(items_BIHW: Tensor, places_BIT2: Tensor, size: int) -> Tensor:
    """Items [B, I, 28, 28] at their places [B, I, T, 2] -> clips [B, 1, T, size, size]."""
    rows, items, frames, _ = places_BIT2.shape
    inside = (torch.arange(SIDE)[:, None] * size + torch.arange(SIDE)).flatten()
    corner_BIT = places_BIT2[..., 0] * size + places_BIT2[..., 1]
    canvas = torch.zeros(rows, frames, size * size)
    for item in range(items):
        pixels = items_BIHW[:, item].flatten(1)[:, None].expand(-1, frames, -1)
        canvas.scatter_reduce_(2, corner_BIT[:, item, :, None] + inside, pixels, "amax")
    return canvas.unflatten(2, (size, size))[:, None]
