"""What all tokenizers of sound share: their medium, how many tokens a sound has, and how it is made whole.

Shapes: B batch, T samples of a channel, N tokens.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor

from nextok_mm.contracts import ConfigT, Generator, StreamingTokenizer
from nextok_mm.decoding.previews import Preview
from nextok_mm.decoding.sounds import Heard
from nextok_mm.media import Sounds


class SoundTokenizer(StreamingTokenizer[ConfigT]):
    """A tokenizer of sounds [B, channels, T] in [-1, 1], whose tokens are one row in time.

    Its config says `rate` (samples per second), `sound_channels` and `sound_size`, the length of the sounds that it was
    trained on. A sound that makes no whole token is lengthened with silence.
    """

    @property
    @abstractmethod
    def samples_per_token(self) -> int:
        """How many samples of a channel one token stands for."""

    @classmethod
    def medium_of(cls, config: Any) -> Sounds:
        """See `Tokenizer.medium_of`."""
        return Sounds(config.rate, config.sound_channels, (config.sound_size,))

    def preview(self, generator: Generator[Any, Any]) -> Preview:
        """See `Tokenizer.preview`."""
        return Heard(self)

    @property
    def size(self) -> tuple[int]:
        """(samples,) of the sounds that it was trained on."""
        return (cast(Any, self.config).sound_size,)

    @property
    def tokens_per_second(self) -> float:
        """How many tokens one second of sound has."""
        return cast(Any, self.config).rate / self.samples_per_token

    def grid(self, size: Sequence[int]) -> tuple[int]:
        """Compute how many tokens a sound has.

        Args:
            size: (samples,) of one channel.

        Returns:
            (tokens,), of which the last may stand for less sound than the others.

        Raises:
            ValueError: There is no sample, or more than one number.
        """
        if len(size) != 1 or size[0] < 1:
            raise ValueError(f"sounds: got a size of {tuple(size)}, accepted: (samples,), one or more")
        return (-(-size[0] // self.samples_per_token),)

    def whole(self, sounds: Tensor) -> Tensor:
        """Check sounds, and lengthen them with silence to a whole number of tokens.

        Args:
            sounds: The sounds [B, channels, T].

        Returns:
            The sounds [B, channels, N * samples_per_token].

        Raises:
            ValueError: They have another shape, or no sample.
        """
        channels = cast(Any, self.config).sound_channels
        if sounds.dim() != 3 or sounds.shape[1] != channels:
            raise ValueError(f"sounds: got shape {tuple(sounds.shape)}, accepted: [batch, {channels}, samples]")
        (tokens,) = self.grid(tuple(sounds.shape[2:]))
        return F.pad(sounds, (0, tokens * self.samples_per_token - sounds.shape[2]))

    def chunk(self, sounds: Tensor) -> Tensor:
        """Check a chunk of sound: as `whole`, but nothing is added.

        Args:
            sounds: The sounds [B, channels, T].

        Returns:
            The sounds.

        Raises:
            ValueError: They have another shape, or don't make whole tokens.
        """
        if sounds.dim() == 3 and (not sounds.shape[2] or sounds.shape[2] % self.samples_per_token):
            raise ValueError(
                f"chunk: got {sounds.shape[2]} samples, accepted: a multiple of {self.samples_per_token}; the last "
                "chunk of a sound is lengthened with silence"
            )
        return self.whole(sounds)
