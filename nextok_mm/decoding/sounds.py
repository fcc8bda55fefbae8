"""Latents of speech as sound that grows: decoded once each, as they come, to no more than what is final.

Shapes: n rows, N latents, c channels, T samples.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts import OpenState, State, StreamingTokenizer, Tokens
from ..fingerprints import fingerprint
from ..inference import inference
from .previews import Preview


class Heard(Preview):
    """The sounds of all rows, each with a streaming state of its own, since rows end when they end."""

    def __init__(self, tokenizer: StreamingTokenizer[Any]):
        self.tokenizer = tokenizer
        self.carries: list[Any] = []
        self.parts: list[list[Tensor]] = []
        self.read: list[int] = []
        self.ended: list[bool] = []

    def decode(self, state: State) -> Tensor:
        """All samples that are final, [n, c, T]; silence behind the end of a row."""
        state, rows = cast(OpenState, state), len(state.data)
        if not self.carries:
            self.carries = [self.tokenizer.carry() for _ in range(rows)]
            self.parts = [list[Tensor]() for _ in range(rows)]
            self.read, self.ended = [0] * rows, [False] * rows
        with inference(self.tokenizer):
            for row in range(rows):
                length = int(state.lengths_B[row])
                if length > self.read[row]:
                    new_1NC = state.data[row : row + 1, self.read[row] : length]
                    self.parts[row].append(self.tokenizer.decode_more(new_1NC, self.carries[row]).cpu()[0])
                    self.read[row] = length
                if not self.ended[row] and (state.done or bool(state.ended_B[row])):
                    self.ended[row] = True
                    if (rest := self.tokenizer.decode_end(self.carries[row])) is not None:
                        self.parts[row].append(rest.cpu()[0])
        sounds = [torch.cat(parts, dim=1) if parts else self.tokenizer.medium.empty(1)[0] for parts in self.parts]
        longest = max(sound.shape[1] for sound in sounds)
        self.parts = [[sound] for sound in sounds]
        return torch.stack([F.pad(sound, (0, longest - sound.shape[1])) for sound in sounds])

    def tokens(self, state: State) -> Tokens:
        """See `Preview.tokens`; zeros stand behind a row's end."""
        return Tokens(state.data.cpu(), (state.data.shape[1],), fingerprint(self.tokenizer))
