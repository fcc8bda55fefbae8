"""A generation under way as samples: how each kind of tokenizer shows what is there already (texts: texts.py).

Shapes: n samples, N tokens, C channels, T frames, H W rows and columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import ClipTokenizer, State, Tokenizer, Tokens
from ..fingerprints import fingerprint
from ..inference import inference
from ..sequence.layout import Layout


class Preview(ABC):
    """What reads the states of one generation as they come."""

    watches = False
    """Whether every state has to be decoded, since what is there may end a sample."""

    def until(self, stop: Sequence[str]) -> None:
        """Let samples end where one of these texts appears; ValueError where samples are no texts."""
        if stop:
            raise ValueError(f"stop: got {list(stop)!r:.80}, accepted: none, since samples of this model are no texts")

    def due(self, entity: int) -> bool:
        """Whether a partial sample is worth its decoding after this entity."""
        return True

    @abstractmethod
    def decode(self, state: State) -> Any:
        """What is there of the samples, in their medium, on the CPU."""

    def stopped(self) -> list[int]:
        """The rows that have ended since the last time because of what `decode` found in them."""
        return []

    @abstractmethod
    def tokens(self, state: State) -> Tokens:
        """The tokens of finished samples."""


class Decoded(Preview):
    """All tokens decoded, unfinished ones as zeros."""

    def __init__(self, tokenizer: Tokenizer[Any], layout: Layout):
        self.tokenizer, self.layout = tokenizer, layout

    def decode(self, state: State) -> Tensor:
        """See `Preview.decode`."""
        return self._decoded(state.data)

    def tokens(self, state: State) -> Tokens:
        """See `Preview.tokens`."""
        return Tokens(state.data.cpu(), tuple(self.layout.grid), fingerprint(self.tokenizer))

    def _decoded(self, data: Tensor) -> Tensor:
        with inference(self.tokenizer):
            return self.tokenizer.decode(Tokens(data, tuple(self.layout.grid))).cpu()


class Prefixes(Decoded):
    """Of ordered tokens, those that are finished: an unfinished one is none, not code 0."""

    def due(self, entity: int) -> bool:
        """After 1, 2, 4, 8 ...: decoding costs more than drawing a token, and one more among many changes little."""
        return entity & (entity - 1) == 0

    def decode(self, state: State) -> Tensor:
        """The samples that the finished tokens make."""
        return self._decoded(state.data[:, : self.layout.span(state.finished - 1)[1]])


class Frames(Decoded):
    """The frames of clips, decoded once each, as soon as all of their codes are there."""

    tokenizer: ClipTokenizer[Any]

    def __init__(self, tokenizer: ClipTokenizer[Any], layout: Layout):
        super().__init__(tokenizer, layout)
        self.carry, self.decoded = tokenizer.carry(), 0
        self.parts: list[Tensor] = []

    def decode(self, state: State) -> Tensor:
        """All frames that are final, [n, C, T, H, W]."""
        last = self.layout.entity_ids[self.layout.inverse].view(self.layout.grid).flatten(1).amax(1)  # of each frame
        done = int((last < state.finished).long().cumprod(0).sum())
        if done > self.decoded:
            codes = torch.unflatten(state.data, 1, self.layout.grid)[:, self.decoded : done]
            with inference(self.tokenizer):
                self.parts.append(self.tokenizer.decode_more(codes, self.carry).cpu())
            self.decoded = done
        return torch.cat(self.parts, dim=2) if self.parts else self.tokenizer.medium.empty(len(state.data))
