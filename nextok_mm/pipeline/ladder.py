"""The ladder: a picture beside what comes back from its first 1, 4, 16 ... tokens, of a tokenizer with ordered tokens.

Shapes: B pictures, K numbers of tokens, N tokens of a picture, C H W picture.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from ..config import Config
from ..contracts import OrderedTokenizer, Tokenizer, Tokens
from ..inference import inferring
from ..media import Saving
from ..media import pictures as media
from ..media.medium import png
from ..rng import Rng, mix
from .inputs import sides, whole
from .result import Result
from .settings import settings_of

if TYPE_CHECKING:
    from .core import Pipeline


@dataclass(repr=False)
class Ladder(Result):
    """Pictures, and what their first k tokens make of them, for every k that was asked for.

    Attributes:
        given: The pictures [B, C, H, W].
        data: Their reconstructions [B, K, C, H, W], one for each number of tokens.
        numbers: The K numbers of leading tokens.
    """

    numbers: tuple[int, ...] = ()

    def psnr(self) -> list[float]:
        """Measure the reconstructions.

        Returns:
            For every k, the peak signal-to-noise ratio over all pictures, in dB.
        """
        assert self.given is not None
        error = (self.data - self.given[:, None]).square().transpose(0, 1).flatten(1).mean(1)
        return (-10 * error.clamp_min(1e-12).log10()).tolist()

    def settings(self) -> dict[str, Any]:
        """Describe how the ladder was made, in enough detail to make it again.

        Returns:
            The settings by name, which a saved file keeps.
        """
        own = {"model": self.name, "seed": self.seed, "tokens": list(self.numbers), "sampling": self.sampling}
        return {f"nextok.{key}": value for key, value in own.items()}

    def sheet(self, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """Lay the ladder out in one sheet: per picture a row of it as it was given, then from each k of tokens.

        Args:
            columns: Has no effect, since the numbers of tokens are the columns.
            zoom: Factor by which pixels are enlarged; None makes small pictures visible.

        Returns:
            The picture.
        """
        assert self.given is not None
        _, zoom = sides(columns, zoom)
        rows = torch.cat((self.given[:, None], self.data), dim=1)
        return media.sheet(rows.flatten(0, 1), rows.shape[1], zoom, heads=["given", *map(str, self.numbers)])

    def pil(self) -> list[Image.Image]:
        """Turn the ladder into Pillow pictures.

        Returns:
            One picture per row.
        """
        assert self.given is not None
        return [replace(self, given=given[None], data=data[None]).sheet() for given, data in zip(self.given, self.data)]

    def save(
        self,
        path: str | Path,
        force: bool = False,
        columns: int | None = None,
        zoom: int | None = None,
        fps: float = Saving.fps,
    ) -> Path:
        """Write the grid into one file, together with the settings.

        Args:
            path: Name of the file, which ends in .png, .jpg or .webp.
            force: Replace an existing file.
            columns: Has no effect, since the numbers of tokens are the columns.
            zoom: Factor by which pixels are enlarged; None makes small pictures visible.
            fps: Has no effect, since pictures do not move.

        Returns:
            The path of the file.

        Raises:
            ValueError: The file exists and `force` is not set, or its ending is none of those above.
        """
        return media.save_picture(self.sheet(columns, zoom), path, self.settings(), force)

    def _repr_png_(self) -> bytes:
        """Notebooks show the grid."""
        return png(self.sheet())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Notebooks show the grid."""
        return {"text/plain": repr(self), "image/png": self._repr_png_()}


def ladder(
    pipeline: "Pipeline",
    given: Tensor,
    tokens: Sequence[int],
    seed: int,
    batch: int,
    progress: Callable[[int, int], None] | None,
    sampling: dict[str, Any],
) -> Ladder:
    """Pictures [B, C, H, W] and what their first k tokens make of them, for each k of `tokens`; see `climb`."""
    tokenizer = ordered(pipeline.tokenizer, pipeline.card.name)
    numbers = check(tokens, math.prod(tokenizer.grid(given.shape[-2:])))
    settings = settings_of(tokenizer, sampling)
    return Ladder(
        data=climb(tokenizer, given, numbers, seed, settings, batch, progress),
        medium=tokenizer.medium,
        name=pipeline.card.name,
        seed=seed,
        given=given.cpu(),
        sampling=settings.model_dump(mode="json"),
        numbers=numbers,
    )


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
    encoded = [tokenizer.encode(part.to(tokenizer.device)) for part in torch.split(pictures, batch)]
    codes, grid, source = torch.cat([part.data for part in encoded]), encoded[0].grid, encoded[0].source
    kept = torch.tensor(list(tokens)).repeat(len(pictures))
    rows = torch.arange(len(pictures)).repeat_interleave(len(tokens))
    batches = math.ceil(len(rows) / batch)
    parts = list[Tensor]()
    for index, (mine, counts) in enumerate(zip(torch.split(rows, batch), torch.split(kept, batch))):

        def count(done: int, steps: int, index: int = index) -> None:
            if progress is not None:
                progress(index * steps + done, batches * steps)

        rng, chosen = (
            Rng([mix(seed, row) for row in map(int, mine)]),
            Tokens(codes[mine.to(codes.device)], grid, source),
        )
        parts.append(tokenizer.decode(chosen, counts, rng, sampling, count).cpu())
    return torch.unflatten(torch.cat(parts), 0, (len(pictures), len(tokens)))


def ordered(tokenizer: Tokenizer | None, name: str) -> OrderedTokenizer:
    """The tokenizer, if its tokens have an order; ValueError in one line if not."""
    if not isinstance(tokenizer, OrderedTokenizer):
        raise ValueError(
            f"tokens: got a number of them, but those of {name} ({getattr(tokenizer, 'kind', 'none')}) have no order; "
            "leave the number out"
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
