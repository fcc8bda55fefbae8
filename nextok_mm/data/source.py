"""What every source of rows promises, and the endless deterministic stream that training reads from one."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..config import Config
from ..contracts import Batch, Tokenizer
from ..rng import Rng, mix

if TYPE_CHECKING:
    from ..media.words import TextTokenizer


class SourceConfig(Config):
    """Base of the configs of sources."""

    kind: str = Field(description="Name of the kind of source, which selects the config class.")

    def open(self) -> "Source":
        """The source that this config describes; reads what it needs and checks it."""
        raise NotImplementedError


class Source(ABC):
    """Rows by index. class_names: of the labels, where there are any; captions: of every row, where it has one; words:
    what makes its tokens of text, without which a model of them is of no use; draws: what seeds decide (flip, crop,
    sample); makes_tokens: its rows may be tokens that no tokenizer made; token_rows: how many tokens a row has, and how
    many different codes there are, where the source itself says so."""

    class_names: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None
    words: "TextTokenizer | None" = None
    draws: frozenset[str] = frozenset()
    makes_tokens: ClassVar[bool] = False
    token_rows: tuple[int, int] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    def column(self, name: str) -> Iterable[Tensor]:
        """The `labels` or `tokens` of all rows, in parts, where they are known before a row is read; else nothing.

        Numbers that the model has no place for are found by it before the first step.
        """
        return ()

    def found_labels(self) -> list[int]:
        """The labels that there are, each once, in order; none where `column` knows of none."""
        parts = [part.unique() for part in self.column("labels")]
        return torch.cat(parts).unique().tolist() if parts else []

    def check(self, tokenizer: Tokenizer[Any]) -> None:
        """ValueError where rows hold tokens that another tokenizer made."""
        return

    @abstractmethod
    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """The rows at `indices`. seeds: one a row, what its crop, flip or sample is drawn from; None: nothing drawn."""


class TokenRows(Source):
    """Rows of tokens that no tokenizer made, each a function of the config and its index: made when it is asked for.

    The config has `rows`, `length` (tokens per row) and `num_codes`.
    """

    makes_tokens = True

    def __init__(self, config: Any):
        self.config = config
        self.token_rows = config.length, config.num_codes

    def __len__(self) -> int:
        return self.config.rows


def identity(source: Source) -> str:
    """16 hexadecimal digits of a source's length and of 64 of its rows: the same path may hold other pictures."""
    rows = torch.linspace(0, len(source) - 1, min(64, len(source))).long().tolist()
    digest = hashlib.sha256(f"{len(source)} {rows}".encode())
    for name, tensor in sorted(source.batch(rows).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def flipped(images: Tensor, seeds: Sequence[int] | None) -> Tensor:
    """[B, ..., W] mirrored left to right in a random half of the rows; unchanged without seeds."""
    if seeds is None:
        return images
    mirror = Rng(seeds).integers(2).bool().view(-1, *[1] * (images.ndim - 1))
    return torch.where(mirror, images.flip(-1), images)


class Order:
    """The index of the row at every position of an endless stream: each epoch a new permutation of (seed, epoch)."""

    def __init__(self, rows: int, seed: int):
        if rows < 1:
            raise ValueError("data: the source has no rows")
        self.rows, self.seed, self.epoch = rows, seed, -1
        self.permutation: list[int] = []

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.rows)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, "order", epoch))
            self.permutation, self.epoch = torch.randperm(self.rows, generator=generator).tolist(), epoch
        return self.permutation[place]


class Stream(Dataset):
    """A source as a stream: asked for positions, it gives (positions, batch), the same ones on every machine."""

    def __init__(self, source: Source, seed: int):
        self.source, self.seed = source, seed
        self.order = Order(len(source), seed)

    def __getitem__(self, positions: range) -> tuple[range, Batch]:
        seeds = [mix(self.seed, "data", position) for position in positions]
        return positions, self.source.batch([self.order[position] for position in positions], seeds)


class Positions(Sampler[range]):
    """Which positions one process reads: `micro` rows at a time, `accumulate` times a step, beginning at `step`.

    A step's positions are consecutive and shared out over the processes, so a step sees the same rows however many
    processes and however many parts it is cut into.
    """

    def __init__(self, step: int, micro: int, accumulate: int, rank: int, world: int):
        self.step, self.micro, self.accumulate, self.rank, self.world = step, micro, accumulate, rank, world

    def __iter__(self) -> Iterator[range]:
        share = self.step * self.accumulate * self.world + self.rank
        while True:
            yield range(share * self.micro, (share + 1) * self.micro)
            share += self.world


def read(stream: Stream, positions: Positions, workers: int, pin: bool) -> Iterator[tuple[range, Batch]]:
    """The stream's batches in order, prepared ahead by `workers` processes where there are any."""
    loader = DataLoader(
        stream,
        batch_size=None,
        sampler=positions,
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        pin_memory=pin,
        persistent_workers=workers > 0,
    )
    return iter(loader)


def _as_it_is(batch: tuple[range, Batch]) -> tuple[range, Batch]:
    return batch
