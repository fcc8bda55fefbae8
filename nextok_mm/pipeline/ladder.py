"""The ladder: a picture beside what comes back from its first 1, 4, 16 ... tokens, of a tokenizer with ordered tokens.

Shapes: B pictures, K numbers of tokens, N tokens of a picture, C H W picture.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..config import Config
from ..contracts import OrderedTokenizer, Tokenizer, Tokens
from ..inference import inferring
from ..media import pictures as media
from ..rng import Rng, mix
from .inputs import sides, whole


@dataclass
class Ladder:
    """Pictures, and what their first k tokens make of them, for every k that was asked for.

    pictures: [B, C, H, W] in [0, 1]; images: [B, K, C, H, W]; tokens: the K numbers; both tensors are on the CPU.
    """

    pictures: Tensor
    images: Tensor
    tokens: tuple[int, ...]
    name: str
    seed: int = 0
    sampling: dict[str, Any] = field(default_factory=dict)

    def psnr(self) -> list[float]:
        """For every k: the peak signal-to-noise ratio over all pictures, in dB."""
        error = (self.images - self.pictures[:, None]).square().transpose(0, 1).flatten(1).mean(1)
        return (-10 * error.clamp_min(1e-12).log10()).tolist()

    def grid(self, zoom: int | None = None) -> Image.Image:
        """One row a picture: as it was given, then each k, named above its column."""
        _, zoom = sides(None, zoom)
        rows = torch.cat((self.pictures[:, None], self.images), dim=1)
        return media.grid(rows.flatten(0, 1), rows.shape[1], zoom, heads=["given", *map(str, self.tokens)])

    def save(self, path: str | Path, force: bool = False, zoom: int | None = None) -> Path:
        """Write the grid as a PNG with the settings in it; an existing file is kept unless `force`."""
        own = {"model": self.name, "seed": self.seed, "tokens": list(self.tokens), "sampling": self.sampling}
        return media.save_png(self.grid(zoom), path, {f"nextok.{key}": value for key, value in own.items()}, force)

    def _repr_png_(self) -> bytes:
        """Notebooks show the grid."""
        buffer = io.BytesIO()
        self.grid().save(buffer, "PNG")
        return buffer.getvalue()


@inferring
def climb(
    tokenizer: OrderedTokenizer,
    pictures: Tensor,
    tokens: Sequence[int],
    seed: int,
    sampling: Config,
    batch: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Pictures [B, C, H, W] from their first k tokens, for each k: [B, K, C, H, W] on the CPU.

    Every k of a picture starts from the same noise, so that the tokens alone make the difference. A batch mixes
    pictures and numbers of tokens as they come. progress(done, all) counts the solver's steps over all batches.
    """
    encoded = [tokenizer.encode(part.to(tokenizer.device)) for part in pictures.split(batch)]
    codes, grid, source = torch.cat([part.data for part in encoded]), encoded[0].grid, encoded[0].source
    kept = torch.tensor(list(tokens)).repeat(len(pictures))
    rows = torch.arange(len(pictures)).repeat_interleave(len(tokens))
    batches = math.ceil(len(rows) / batch)
    parts = []
    for index, (mine, keep) in enumerate(zip(rows.split(batch), kept.split(batch))):

        def count(done: int, steps: int, index: int = index) -> None:
            if progress is not None:
                progress(index * steps + done, batches * steps)

        rng, chosen = Rng([mix(seed, row) for row in mine.tolist()]), Tokens(codes[mine.to(codes.device)], grid, source)
        parts.append(tokenizer.decode(chosen, keep, rng, sampling, count).cpu())
    return torch.cat(parts).unflatten(0, (len(pictures), len(tokens)))


def ordered(tokenizer: Tokenizer, name: str) -> OrderedTokenizer:
    """The tokenizer, if its tokens have an order; ValueError in one line if not."""
    if not isinstance(tokenizer, OrderedTokenizer):
        raise ValueError(
            f"tokens: got a number of them, but those of {name} ({tokenizer.kind}) have no order; accepted: none"
        )
    return tokenizer


def check(tokens: Sequence[int], most: int) -> tuple[int, ...]:
    """The numbers, if each is one from 1 to `most`; ValueError in one line if not."""
    accepted = f"whole numbers from 1 to {most}"
    found = tuple(whole("tokens", k, 1, accepted=accepted) for k in tokens)
    for k in found:
        if k > most:
            raise ValueError(f"tokens: got {k}, accepted: {accepted}")
    if not found:
        raise ValueError(f"tokens: got none in the list, accepted: {accepted}")
    return found
