"""Mel: sounds to log-mel frames, r of them as one token of fewer numbers, and back by Griffin and Lim's iteration.

Nothing is learned but a linear map, which is principal components once it is fitted (`fit`, seconds):

    python -m tokenizers_speech.mel DATA OUT        a folder of sounds -> a checkpoint

Decoding is the plain reference for `vocoder`, which has the same tokens and a network to decode them.

Shapes: B batch, T samples, N tokens, C channels of a token.
Source: see _mel.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from nextok_mm.checkpoint import fingerprint, save_pretrained
from nextok_mm.console import run
from nextok_mm.contracts import Batch, Loss, Tokens
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from ._mel import MelFront, MelSettings, griffin_lim
from ._sound import SoundTokenizer


class MelConfig(MelSettings):
    """Log-mel frames as tokens; `speech` is 50 ms per token at 24 kHz."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            rate=2000, sound_size=320, hop=20, window=80, bands=12, low=20, high=1000, frames=2, latent_channels=6
        ),
        "speech": dict(),
    }
    steps: int = Field(default=32, ge=0, le=1 << 12, description="Number of Griffin and Lim's iterations in decoding.")


@dataclass
class MelCarry:
    """What a stream hands on: the last samples that went in, the frames that came out and aren't sound yet."""

    before: Tensor | None = None
    tokens: Tensor | None = None


@register("tokenizer", "mel")
class Mel(SoundTokenizer[MelConfig]):
    """The model; see the module's text."""

    Config = MelConfig

    def __init__(self, config: MelConfig):
        super().__init__()
        self.config = config
        self.front = MelFront(config)

    @property
    def samples_per_token(self) -> int:
        """How many samples one token stands for."""
        return self.config.samples_per_token

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Sounds [B, 1, T] in [-1, 1] -> Tokens [B, N, C]; nothing is drawn."""
        sounds = self.whole(images)
        return Tokens(self.front.tokens(self.front.mel(sounds[:, 0])), self.grid(images.shape[2:]), fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens [B, N, C] -> sounds [B, 1, N * samples_per_token] in [-1, 1], fp32."""
        config = self.config
        magnitudes = self.front.magnitudes(self.front.frames(tokens.data))
        sounds = griffin_lim(magnitudes, self.front.hann, config.hop, config.steps)
        return sounds[:, None, config.window - config.hop :].clamp(-1, 1)

    def carry(self) -> MelCarry:
        """Nothing yet: the next chunk is the first."""
        return MelCarry()

    @torch.no_grad()
    def encode_more(self, samples: Tensor, carry: MelCarry) -> Tensor:
        """The next sounds [B, 1, T] of whole tokens -> their tokens [B, N, C]."""
        x, reach = self.chunk(samples)[:, 0], self.config.window - self.config.hop
        before = x.new_zeros(len(x), reach) if carry.before is None else carry.before
        tokens = self.front.tokens(self.front.mel(x, before))
        carry.before = torch.cat((before, x), dim=1)[:, x.shape[1] :][:, -reach:] if reach else before
        return tokens

    def decode_more(self, tokens: Tensor, carry: MelCarry) -> Tensor:
        """Nothing before the end, since all of a sound takes part in every iteration: [B, 1, 0]."""
        carry.tokens = tokens if carry.tokens is None else torch.cat((carry.tokens, tokens), dim=1)
        return tokens.new_zeros(len(tokens), 1, 0)

    def decode_end(self, carry: MelCarry) -> Tensor | None:
        """All of the sound, which is why `vocoder` is what streams."""
        return None if carry.tokens is None else self.decode(Tokens(carry.tokens, (carry.tokens.shape[1],)))

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Squared error of the log-mel frames, which `fit` makes as small as it can be in closed form."""
        mel = self.front.mel(self.whole(batch["images"])[:, 0])
        return Loss({"mel": (self.front.frames(self.front.tokens(mel)) - mel).square()})

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise."""
        return {"images": (rng.normal(1, self.config.sound_size) * 0.2).clamp(-1, 1)[:n]}


def sounds_of(source: Any, batch: int = 16) -> Iterator[Tensor]:
    """A crop of each row of a source of sounds, [B, T]."""
    for first in range(0, len(source), batch):
        rows = range(first, min(first + batch, len(source)))
        yield source.batch(rows, rows)["images"][:, 0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit a mel tokenizer to a folder of sounds; the exit code."""
    from nextok_mm.data.speech import Config as Speech

    parser = argparse.ArgumentParser(prog="python -m tokenizers_speech.mel", description="fit a mel tokenizer")
    parser.add_argument("data", help="folder of sound files")
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--channels", type=int, default=32, help="number of channels of a token")
    parser.add_argument("--rows", type=int, default=1000, help="number of sounds to fit to")
    args = parser.parse_args(arguments)

    def work() -> None:
        model = Mel(MelConfig.parse({"size": "speech", "latent_channels": args.channels}))
        config = model.config
        size = 2 * config.rate // config.samples_per_token * config.samples_per_token
        source = Speech(path=args.data, rate=config.rate, size=size, rows=args.rows, crop="random").open()
        kept = model.front.fit(sounds_of(source))
        save_pretrained(
            model,
            args.out,
            about={
                "fitted to": f"{len(source)} sounds of {Path(args.data).name}, {100 * kept:.2f} % of their variance"
            },
        )
        print(f"{100 * kept:.2f} % of the variance in {config.latent_channels} numbers; {args.out}")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
