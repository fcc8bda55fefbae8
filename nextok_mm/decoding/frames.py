"""Frames of clips under way, handed out as soon as they are final.

Shapes: n clips, C channels, T frames, H W rows and columns.
"""

from typing import Any

import torch
from torch import Tensor

from ..contracts import ClipTokenizer, Generator, State
from ..inference import inference


class Frames:
    """The frames of clips under way, decoded once each, as soon as all of their codes are there."""

    def __init__(self, tokenizer: ClipTokenizer, generator: Generator):
        self.tokenizer, self.layout = tokenizer, generator.layout
        self.carry, self.decoded = tokenizer.carry(), 0
        self.parts: list[Tensor] = []

    def take(self, state: State) -> Tensor:
        """All frames that are final, [n, C, T, H, W] on the CPU."""
        last = self.layout.entity_ids[self.layout.inverse].view(self.layout.grid).flatten(1).amax(1)  # of each frame
        done = int((last < state.entity).long().cumprod(0).sum())
        codes = state.data.unflatten(1, self.layout.grid)
        if done > self.decoded:
            with inference(self.tokenizer):
                self.parts.append(self.tokenizer.decode_more(codes[:, self.decoded : done], self.carry).cpu())
            self.decoded = done
        if not self.parts:
            config: Any = self.tokenizer.config
            return torch.zeros(len(codes), config.image_channels, 0, *self.tokenizer.size[1:])
        return torch.cat(self.parts, dim=2)
