"""What a tokenizer, a generator and a judge promise each other: the only interfaces between the rooms.

Shapes: B batch, N tokens, C latent channels, E entities.
`Tokens` are always in raster order; only a generator's `Layout` knows any other order.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .config import Config, ModelConfig
from .rng import Rng
from .sequence.layout import Layout

if TYPE_CHECKING:
    from .decoding.previews import Preview
    from .media import Medium

if hasattr(os, "register_at_fork"):  # OpenMP's threads don't survive a fork, and a child that waits for them hangs:
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))  # it computes alone; `spawn` has threads


@dataclass(frozen=True)
class Tokens:
    """An encoded batch.

    data: latents [B, N, C] (floating) or codes [B, N] (whole numbers), raster order over `grid`.
    grid: (H, W), (T, H, W) or (N,); its product is N.
    source: fingerprint of the tokenizer that made them; "" where unknown.
    """

    data: Tensor
    grid: tuple[int, ...]
    source: str = ""

    @property
    def continuous(self) -> bool:
        """Latents rather than codes."""
        return self.data.is_floating_point()


@dataclass(frozen=True)
class Loss:
    """What is minimised (a scalar with a gradient) and the parts worth logging (detached scalars)."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


Batch = dict[str, Tensor]
"""`images` [B, 3 or 1, H, W] in [0, 1], of clips [B, 3 or 1, T, H, W] (T frames); or `tokens` [B, N, C] / [B, N];
`labels` [B] int64 where the data has any."""

Condition = Mapping[str, Any] | None
"""What n samples are conditioned on, by name, each one that the generator `takes`; None or an empty one is nothing.

| name     | value                                                              |
|----------|--------------------------------------------------------------------|
| `labels` | class labels [n] int64, ids [n, P] where a condition has P tokens    |
| `text`   | n captions, or n prompts                                           |
"""


class Model(nn.Module, ABC):
    """What all three roles share: built from one config, trained by `loss`, no device, dtype or global RNG inside."""

    Config: ClassVar[type[ModelConfig]]
    role: ClassVar[str]
    kind: ClassVar[str]
    training_only: ClassVar[tuple[str, ...]] = ()
    """Config fields, and modules of the same name, that a released checkpoint does without (None there)."""
    config: ModelConfig

    @abstractmethod
    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The training objective; `rng` has one stream a row, so the loss of a row doesn't depend on its neighbours."""

    @abstractmethod
    def example(self, n: int, rng: Rng) -> Batch:
        """A random batch of n rows in this model's shapes, for contract tests and benchmarks."""

    def check(self, batch: Batch) -> None:
        """ValueError in one line where a training batch isn't what `loss` reads: a column that is missing, of another
        shape, or with numbers that the model has no place for. The training loop asks before the first step."""
        return

    def after_step(self, rng: Rng) -> None:
        """What a model updates by itself after each optimizer step, such as a codebook's running means.

        It may depend on the state dict and on what the step's `loss` calls noted, nothing else; rng: one stream, alike
        in every process.
        """
        return

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


class Tokenizer(Model):
    """Pictures (or clips, or sound) to tokens and back."""

    @abstractmethod
    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """images [B, channels, H, W] in [0, 1], clips [B, channels, T, H, W] -> Tokens; the posterior's mode without
        `rng`, a sample with it."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens -> images [B, channels, H, W] or clips [B, channels, T, H, W] in [0, 1]."""

    @abstractmethod
    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """The token grid of a picture of `size` (height, width), or of a clip of (frames, height, width); ValueError
        where it doesn't fit."""

    @classmethod
    def medium_of(cls, config: Any) -> "Medium":
        """What a tokenizer of this config takes in and gives back: known before its weights are loaded."""
        from .media import Pictures

        return Pictures(config.image_channels, tuple(config.image_size))

    @property
    def medium(self) -> "Medium":
        """What it takes in and gives back."""
        return self.medium_of(self.config)

    def preview(self, layout: Layout) -> "Preview":
        """How a generation under way is shown, whose tokens come in the order of `layout`."""
        from .decoding.previews import Preview

        return Preview(self, layout)

    def check(self, batch: Batch) -> None:
        """Pictures or clips in this tokenizer's channels, of a size that its grid divides."""
        if "images" not in batch:
            raise ValueError(
                f"data: got {', '.join(sorted(batch))}, accepted: images, which a {self.kind} is trained on"
            )
        images, channels = batch["images"], getattr(self.config, "image_channels", None)
        sides = 2 if self.size is None else len(self.size)
        if images.dim() != 2 + sides or channels not in (None, images.shape[1]):
            accepted = ", ".join(["batch", str(channels or "channels"), *("frames", "height", "width")[-sides:]])
            raise ValueError(f"images: got shape {tuple(images.shape)}, accepted: [{accepted}]")
        self.grid(tuple(images.shape[2:]))

    @property
    def size(self) -> tuple[int, ...] | None:
        """(height, width) of the pictures that it was trained on, or (frames, height, width) of the clips."""
        return getattr(self.config, "image_size", None)

    @property
    def codes(self) -> int | None:
        """How many different codes there are: tokens are whole numbers below it. None: they are continuous."""
        return None


class OrderedTokenizer(Tokenizer):
    """A tokenizer whose tokens go from coarse to fine: any number of leading ones makes a picture.

    `Sampling` is the config class of its decoding settings; `config.sampling` holds a checkpoint's recommended ones.
    """

    Sampling: ClassVar[type[Config]]

    def preview(self, layout: Layout) -> "Preview":
        """See `Tokenizer.preview`."""
        from .decoding.previews import Prefixes

        return Prefixes(self, layout)

    @abstractmethod
    def decode(
        self,
        tokens: Tokens,
        keep: int | Tensor | None = None,
        rng: Rng | None = None,
        sampling: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The first k tokens of each picture, any k from 1 to N -> images [B, channels, H, W] in [0, 1].

        keep: use fewer than are there, one number or [B] of them; rng: of the noise, else the same noise for every
        picture; sampling: a `Sampling`, or the config's; progress(done, all) counts steps.
        """


class ClipTokenizer(Tokenizer):
    """A tokenizer of clips in which no later frame reaches back: a long clip passes in chunks, in constant memory."""

    @classmethod
    def medium_of(cls, config: Any) -> "Medium":
        """See `Tokenizer.medium_of`."""
        from .media import Clips

        return Clips(config.image_channels, tuple(config.clip_size))

    def preview(self, layout: Layout) -> "Preview":
        """See `Tokenizer.preview`."""
        from .decoding.previews import Frames

        return Frames(self, layout)

    @property
    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the clips that it was trained on."""

    @abstractmethod
    def carry(self) -> Any:
        """What is handed from chunk to chunk of one clip, to begin with. `encode_more` and `decode_more` change it."""

    @abstractmethod
    def encode_more(self, clips: Tensor, carry: Any) -> Tensor:
        """The next frames [B, channels, T, H, W] -> their codes [B, t, h, w], those of the whole clip.

        ValueError where the frames don't make whole codes.
        """

    @abstractmethod
    def decode_more(self, codes: Tensor, carry: Any) -> Tensor:
        """The next codes [B, t, h, w] -> their frames [B, channels, T, H, W], those of the whole clip."""

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """A clip in chunks -> the codes of each, as soon as it came (see `encode_more`)."""
        carry = self.carry()
        return (self.encode_more(chunk, carry) for chunk in chunks)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Codes in chunks -> the frames of each, as soon as they came (see `decode_more`)."""
        carry = self.carry()
        return (self.decode_more(chunk, carry) for chunk in chunks)


@dataclass(frozen=True)
class Keep:
    """Known tokens that stay as they are: in-painting, continuation, video prediction.

    data: like `Tokens.data` for n samples (or 1, shared), or the `Tokens`; mask: bool [N] or [n, N], True = known, or
    whole numbers 0 and 1; source: as of `Tokens`, whose it is where they are given. Arrays and lists become tensors;
    ValueError in one line for what is none.
    """

    data: Tensor
    mask: Tensor
    source: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.data, Tokens):
            object.__setattr__(self, "source", self.data.source)
        object.__setattr__(
            self, "data", _tensor("data", self.data.data if isinstance(self.data, Tokens) else self.data)
        )
        object.__setattr__(self, "mask", _tensor("mask", self.mask))

    def known(self) -> Tensor:
        """The mask, bool; ValueError in one line for anything that would have to be rounded to it."""
        mask = self.mask
        if mask.is_floating_point() or mask.is_complex() or not torch.equal(mask.bool().to(mask.dtype), mask):
            raise ValueError(f"keep: got a mask of {mask.dtype}, accepted: bool, True where a token is known")
        return mask.bool()

    def expanded(self, what: Literal["codes", "latents"], rows: int, *shape: int) -> tuple[Tensor, Tensor]:
        """Data [rows, *shape] and mask [rows, N], where N = shape[0]; ValueError in one line where they don't fit.

        what: codes are whole numbers of any dtype, and come as int64; latents floating point, and come in fp32,
        zeros where they aren't known.
        """
        data, mask = self.data, self.known()
        mask = mask.expand(rows, -1) if mask.dim() == 1 else mask
        fits = mask.shape == (rows, shape[0]) and data.shape in ((1, *shape), (rows, *shape))
        numbers = "latents" if data.is_floating_point() else "codes"
        if not fits or numbers != what or data.is_complex() or data.dtype == torch.bool:
            sides = ", ".join(map(str, shape))
            raise ValueError(
                f"keep: got data {tuple(data.shape)} of {data.dtype} and mask {tuple(self.mask.shape)}, accepted: "
                f"{what} [{rows} or 1, {sides}] and mask [{shape[0]}] or [{rows}, {shape[0]}]"
            )
        if what == "codes":
            return data.long().expand(rows, *shape), mask
        data = torch.where(mask[..., None].to(data.device), data.float().expand(rows, *shape), 0)
        if not bool(data.isfinite().all()):
            raise ValueError("keep: got NaN or infinity, accepted: finite numbers where a token is known")
        return data, mask


def _tensor(what: str, given: Any) -> Tensor:
    """What `Keep` was given, as a tensor."""
    try:
        return given if isinstance(given, Tensor) else torch.as_tensor(np.array(given))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        got = type(given).__name__
        raise ValueError(f"keep: got {got} as its {what}, accepted: a tensor, an array or a list of numbers") from None


@dataclass
class State:
    """A generation under way, decodable after every step. Generators subclass it with what they carry along.

    data: [n, N, C] or [n, N] in raster order, unfinished tokens zero; entity: how many are done of `entities`.
    """

    data: Tensor
    entity: int
    entities: int

    @property
    def done(self) -> bool:
        """Whether every entity is there."""
        return self.entity >= self.entities


class Generator(Model):
    """Predicts the next X: `start`, then `step` until `state.done`; `nextok_mm.decoding.decode` is that loop.

    `Sampling` is the config class of a method's sampling settings (steps, solver, guidance ...); `config.sampling`
    holds a checkpoint's recommended ones.
    """

    Sampling: ClassVar[type[Config]]
    layout: Layout

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of a `Condition` that `start` takes; it may be given fewer, or none."""
        return ("labels",) if getattr(self.config, "classes", 0) else ()

    @property
    def codes(self) -> int | None:
        """How many different codes its tokens have, as `Tokenizer.codes`; None: they are continuous."""
        return None

    @property
    def given(self) -> int:
        """How many of the first entities `start` has to be given by `keep`: none, but for models that only go on."""
        return 0

    @abstractmethod
    def predict(self, batch: Batch, rng: Rng) -> Tensor:
        """What the loss compares with its target: a prediction for every token of the sequence, [B, S, ...]."""

    @abstractmethod
    def start(self, condition: Condition, rng: Rng, sampling: Any = None, keep: Keep | None = None) -> State:
        """Begin len(rng) samples. condition: see `Condition`; sampling: a `Sampling`, or the config's.

        A row depends on its stream of `rng`, its condition and what it keeps, on nothing else: implementations wear
        `inference.inferring`, and a row that knows all of an entity draws nothing for it (`Rng.only`).
        """

    @abstractmethod
    def step(self, state: State) -> State:
        """Generate one more entity; `decoding.decode` calls it in eval mode and without gradients."""

    @property
    @abstractmethod
    def backend(self) -> str:
        """The attention backend that sampling runs on this model's device: goes into the Result."""


def taken(condition: Condition, *names: str) -> dict[str, Any]:
    """The parts of a condition that aren't None; ValueError for one that isn't among `names`, what a model takes."""
    if condition is not None and not isinstance(condition, Mapping):
        raise ValueError(f"condition: got {type(condition).__name__}, accepted: values by name, such as labels=[7]")
    given = {name: value for name, value in (condition or {}).items() if value is not None}
    for name in given:
        if name not in names:
            raise ValueError(f"{name}: got a condition, accepted: {', '.join(names) or 'none'}, which this model takes")
    return given


def checked_labels(condition: Condition, rows: int, classes: int) -> list[int]:
    """Labels of `rows` samples as numbers, `classes` ("no label") for each where there is no condition.

    ValueError in one line for captions, a wrong number of labels, or a label out of range.
    """
    given = taken(condition, "labels").get("labels")
    if given is None:
        return [classes] * rows
    if given.shape != (rows,):
        raise ValueError(f"labels: got shape {tuple(given.shape)}, accepted: ({rows},)")
    labels = given.tolist()
    for label in labels:
        if not 0 <= label < classes:
            accepted = f"0 to {classes - 1}" if classes else "none, this model has no classes"
            raise ValueError(f"labels: got {label}, accepted: {accepted}")
    return labels


def check_labels(batch: Batch, classes: int, *ids: int) -> None:
    """ValueError in one line where the labels of a training batch don't fit a model of so many classes.

    Labels are whole numbers [B] of 0 .. classes - 1 ([B, P] where `ids` says that a condition has P of them). The
    number behind the last class means "no label", and isn't the data's to give. Labels may be missing, and a model
    without classes passes them over.
    """
    labels = batch.get("labels")
    if labels is None or not classes:
        return
    wanted = (len(batch.get("tokens", batch.get("images", labels))), *ids)
    if labels.shape != wanted:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, accepted: {wanted}")
    check_numbers("labels", labels, classes, "classes")


def check_tokens(tokens: Tensor | None, shape: Sequence[int], codes: int | None) -> None:
    """ValueError in one line where the tokens of a training batch aren't [B, *shape]: whole numbers below `codes`, or
    latents, which are floating point, where there are none."""
    if tokens is None:
        raise ValueError("data: got no tokens, accepted: tokens, or images beside a `tokenizer` that encodes them")
    if tuple(tokens.shape[1:]) != tuple(shape) or tokens.is_floating_point() != (codes is None):
        what = "latents" if codes is None else "whole numbers"
        accepted = f"{what} [{', '.join(['batch', *map(str, shape)])}]"
        raise ValueError(f"tokens: got {tuple(tokens.shape)} of {tokens.dtype}, accepted: {accepted}")
    if codes is not None:
        check_numbers("tokens", tokens, codes, "codes")


def check_numbers(name: str, numbers: Tensor, count: int, what: str) -> None:
    """ValueError in one line where numbers aren't whole ones of 0 .. count - 1. what: they say which of the model's.

    Fake and meta tensors hold no numbers to be checked, nor do those that torch.compile looks at.
    """
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"{name}: got {numbers.dtype}, accepted: whole numbers from 0 to {count - 1}")
    if type(numbers) is not Tensor or numbers.is_meta or not numbers.numel() or torch.compiler.is_compiling():
        return
    for number in torch.stack(numbers.long().aminmax()).tolist():
        if not 0 <= number < count:
            raise ValueError(f"{name}: got {number}, accepted: 0 to {count - 1}, the {what} of this model")


def check_speaks(generator: Generator, tokenizer: Tokenizer, tokenizer_name: str, name: str) -> None:
    """ValueError in one line where a generator can't speak a tokenizer's tokens: channels, codes, number, grid."""

    def compare(what: str, theirs: Any, ours: Any) -> None:
        if None not in (theirs, ours) and theirs != ours:
            raise ValueError(f"tokenizer: {tokenizer_name} has {theirs} {what}, accepted: the {ours} {what} of {name}")

    if tokenizer.codes is None and generator.codes is None:
        fields = (getattr(tokenizer.config, "latent_channels", None), getattr(generator.config, "channels", None))
        return compare("channels", *fields)
    if (tokenizer.codes is None) != (generator.codes is None):
        theirs, ours = (
            "continuous tokens" if codes is None else f"{codes} codes" for codes in (tokenizer.codes, generator.codes)
        )
        raise ValueError(f"tokenizer: {tokenizer_name} has {theirs}, accepted: the {ours} of {name}")
    compare("codes", tokenizer.codes, generator.codes)
    ours = tuple(generator.layout.grid)
    theirs = None if tokenizer.size is None else tuple(tokenizer.grid(tokenizer.size))
    if theirs is None:
        return
    ordered = isinstance(tokenizer, OrderedTokenizer)
    if not (ordered and math.prod(theirs) > math.prod(ours)):  # their first codes make a picture
        compare("tokens", math.prod(theirs), math.prod(ours))
    if theirs != ours and not ordered:
        raise ValueError(f"tokenizer: {tokenizer_name} has a grid of {theirs}, accepted: the {ours} of {name}")
