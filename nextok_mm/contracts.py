"""What a tokenizer, a generator and a judge promise each other: the only interfaces between the rooms.

What they hand on is in tokens.py, what they check in checks.py, what a loss is in loss.py; all of it is had from here.

Shapes: B batch, N tokens, C latent channels, E entities.
`Tokens` are always in raster order; only a generator's `Layout` knows any other order.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from .checks import (
    Batch,
    Condition,
    check_labels,
    check_numbers,
    check_tokens,
    checked_labels,
    dropped,
    labels_without,
    taken,
)
from .config import Config, ModelConfig
from .loss import Loss
from .rng import Rng
from .sequence.layout import Layout
from .tokens import Known, Tokens

if TYPE_CHECKING:
    from .decoding.previews import Preview
    from .media import Medium
    from .media.words import TextTokenizer

if hasattr(os, "register_at_fork"):  # OpenMP's threads don't survive a fork, and a child that waits for them hangs:
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))  # it computes alone; `spawn` has threads

__all__ = [
    "Batch",
    "ClipTokenizer",
    "Condition",
    "ConfigT",
    "Generator",
    "Known",
    "Loss",
    "Model",
    "OpenState",
    "OrderedTokenizer",
    "State",
    "StateT",
    "StreamingTokenizer",
    "Tokenizer",
    "Tokens",
    "check_labels",
    "check_numbers",
    "check_speaks",
    "check_tokens",
    "check_words",
    "checked_labels",
    "dropped",
    "labels_without",
    "taken",
]

ConfigT = TypeVar("ConfigT", bound=ModelConfig, default=Any)
"""The config of a kind: `class XAR(Generator[XARConfig, State])`."""


class Model(nn.Module, ABC, Generic[ConfigT]):
    """What all three roles share: built from one config, trained by `loss`, no device, dtype or global RNG inside."""

    Config: ClassVar[type[ModelConfig]]
    role: ClassVar[str]
    kind: ClassVar[str]
    training_only: ClassVar[tuple[str, ...]] = ()
    """Config fields, and modules of the same name, that a released checkpoint does without (None there)."""
    config: ConfigT

    @abstractmethod
    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Compute the training objective.

        Args:
            batch: A training batch.
            rng: Random numbers, one stream per row, so that the loss of a row does not depend on its neighbors.

        Returns:
            The loss, one number per row and term.
        """

    @abstractmethod
    def example(self, n: int, rng: Rng) -> Batch:
        """Make a random batch in this model's shapes, for contract tests and benchmarks.

        Args:
            n: Number of rows.
            rng: Random numbers, one stream per row.

        Returns:
            A training batch.
        """

    def check(self, batch: Batch) -> None:
        """Refuse a training batch that is not what `loss` reads; the training loop asks before the first step.

        Args:
            batch: A training batch.

        Raises:
            ValueError: A column is missing, has another shape, or holds numbers that the model has no place for.
        """
        return

    def after_step(self, rng: Rng) -> None:
        """Update what a model updates by itself after each optimizer step, such as a codebook's running means.

        The update may depend on the state dict and on what the step's `loss` calls noted, on nothing else.

        Args:
            rng: Random numbers, one stream that is alike in every process.
        """
        return

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Compute activations again in the backward pass, in every part that has a switch for it (`checkpointing`).

        Args:
            on: Whether to do so.

        Raises:
            ValueError: The model has no such part.
        """
        parts: list[Any] = [module for module in self.modules() if hasattr(module, "checkpointing")]
        if not parts:
            raise ValueError(f"train.gradient_checkpointing: a {self.kind} has none, accepted: false")
        for part in parts:
            part.checkpointing = on

    def published(self, layer: str) -> str | None:
        """Say what a layer is called in the files of the family that models of this kind come from.

        Args:
            layer: Name of a layer, or of a part of one that `parts` of its module names.

        Returns:
            Its name there, which is its own where there is no such family; None where it is not there by itself.
        """
        return layer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


class Tokenizer(Model[ConfigT]):
    """A model that encodes pictures, clips or sound to tokens, and decodes tokens back."""

    @abstractmethod
    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Encode a batch to tokens.

        Args:
            images: Pictures [B, channels, H, W] or clips [B, channels, T, H, W] in [0, 1].
            rng: Random numbers, one stream per row, with which the posterior is sampled; None takes its mode.

        Returns:
            The tokens.

        Raises:
            ValueError: The batch has another shape than the tokenizer accepts.
        """

    @abstractmethod
    def decode(self, tokens: Tokens) -> Tensor:
        """Decode tokens to what they stand for.

        Args:
            tokens: Tokens on a grid that the tokenizer can decode.

        Returns:
            Pictures [B, channels, H, W] or clips [B, channels, T, H, W] in [0, 1].
        """

    @abstractmethod
    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Compute the grid of tokens of a picture or a clip.

        Args:
            size: (height, width) of a picture in pixels, or (frames, height, width) of a clip.

        Returns:
            The sides of the grid.

        Raises:
            ValueError: The tokenizer can't encode this size.
        """

    @classmethod
    def medium_of(cls, config: Any) -> "Medium":
        """Say what a tokenizer of this config takes in and gives back, before its weights are loaded.

        Args:
            config: A config of this class.

        Returns:
            The medium.
        """
        from .media import Pictures

        return Pictures(config.image_channels, tuple(config.image_size))

    @property
    def medium(self) -> "Medium":
        """What it takes in and gives back."""
        return self.medium_of(self.config)

    def preview(self, generator: "Generator[Any, Any]") -> "Preview":
        """Make what decodes the states of a generation as they come.

        Args:
            generator: The generator of this tokenizer's tokens.

        Returns:
            The preview, which says when a state is due and decodes it.
        """
        from .decoding.previews import Decoded

        return Decoded(self, generator.layout)

    def check(self, batch: Batch) -> None:
        """Refuse samples of another medium, of other channels or of a size that is no grid's. See `Model.check`."""
        if "images" not in batch:
            raise ValueError(
                f"data: got {', '.join(sorted(batch))}, accepted: images, which a {self.kind} is trained on"
            )
        images, medium = batch["images"], self.medium
        if images.dim() != medium.rank or images.shape[1] != medium.channels:
            accepted = ", ".join(["batch", str(medium.channels), *medium.axes[1:]])
            raise ValueError(f"images: got shape {tuple(images.shape)}, accepted: [{accepted}]")
        self.grid(tuple(images.shape[2:]))

    @property
    def size(self) -> tuple[int, ...] | None:
        """(height, width) of the pictures that it was trained on, or (frames, height, width) of the clips."""
        return getattr(self.config, "image_size", None)

    @property
    def num_codes(self) -> int | None:
        """How many different codes there are: tokens are whole numbers below it. None: they are continuous."""
        return None


class OrderedTokenizer(Tokenizer[ConfigT]):
    """A tokenizer whose tokens run from coarse to fine, so that any number of leading ones makes a picture.

    `Sampling` is the config class of its decoding settings; `config.sampling` holds a checkpoint's recommended ones.
    """

    Sampling: ClassVar[type[Config]]

    def preview(self, generator: "Generator[Any, Any]") -> "Preview":
        """See `Tokenizer.preview`."""
        from .decoding.previews import Prefixes

        return Prefixes(self, generator.layout)

    @abstractmethod
    def decode(
        self,
        tokens: Tokens,
        num_tokens: int | Tensor | None = None,
        rng: Rng | None = None,
        sampling: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Decode the first k tokens of each picture, with any k from 1 to N.

        Args:
            tokens: The tokens.
            num_tokens: How many leading tokens to use: one number, or one per row [B]; None uses all that are there.
            rng: Random numbers of the noise, one stream per row; None gives every picture the same noise.
            sampling: A `Sampling` config; None takes `config.sampling`.
            progress: A function (done, all) that is called after each solver step.

        Returns:
            Pictures [B, channels, H, W] in [0, 1].
        """


class StreamingTokenizer(Tokenizer[ConfigT]):
    """A tokenizer in which nothing sees what is later in time: long samples pass in chunks, in constant memory."""

    @abstractmethod
    def carry(self) -> Any:
        """Make a fresh streaming state.

        Returns:
            What is handed from chunk to chunk of one sample; `encode_more` and `decode_more` change it.
        """

    @abstractmethod
    def encode_more(self, samples: Tensor, carry: Any) -> Tensor:
        """Encode what comes next of a sample.

        Args:
            samples: The next frames of clips [B, channels, T, H, W], or the next of sounds [B, channels, T].
            carry: The streaming state, which is changed.

        Returns:
            Their tokens, equal to those of the whole sample: codes [B, t, h, w] of clips, latents [B, N, C] of sounds.

        Raises:
            ValueError: They do not make whole tokens.
        """

    @abstractmethod
    def decode_more(self, tokens: Tensor, carry: Any) -> Tensor:
        """Decode the next tokens of a sample.

        Args:
            tokens: The tokens, in the form of `encode_more`.
            carry: The streaming state, which is changed.

        Returns:
            What they stand for, equal to that of the whole sample. A tokenizer whose tokens reach over into what
            follows gives what is final.
        """

    def decode_end(self, carry: Any) -> Tensor | None:
        """Give what the last tokens of a sample still hold back.

        Args:
            carry: The streaming state.

        Returns:
            The rest; None where nothing is held back.
        """
        return None

    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode a sample chunk by chunk.

        Args:
            chunks: The chunks, each as in `encode_more`.

        Returns:
            The tokens of each chunk, as soon as it came.
        """
        carry = self.carry()
        return (self.encode_more(chunk, carry) for chunk in chunks)

    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode tokens chunk by chunk.

        Args:
            chunks: The chunks, each as in `decode_more`.

        Yields:
            What each chunk stands for, as soon as it came; at last what was held back, where anything was.
        """
        carry = self.carry()
        for chunk in chunks:
            yield self.decode_more(chunk, carry)
        if (rest := self.decode_end(carry)) is not None:
            yield rest


class ClipTokenizer(StreamingTokenizer[ConfigT]):
    """A tokenizer of clips in which no frame sees a later one."""

    @classmethod
    def medium_of(cls, config: Any) -> "Medium":
        """See `Tokenizer.medium_of`."""
        from .media import Clips

        return Clips(config.image_channels, tuple(config.clip_size))

    def preview(self, generator: "Generator[Any, Any]") -> "Preview":
        """See `Tokenizer.preview`."""
        from .decoding.previews import Frames

        return Frames(self, generator.layout)

    @property
    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the clips that it was trained on."""


@dataclass
class State:
    """A generation under way, which can be decoded after every step; generators subclass it with what they carry along.

    Attributes:
        data: Tokens [n, N, C] or [n, N] in raster order; unfinished ones are zero.
        finished: Number of finished entities; of a masked model, of passes.
        total: Number of entities, or passes, of a whole sample.
    """

    data: Tensor
    finished: int
    total: int

    @property
    def done(self) -> bool:
        """Whether every entity is there."""
        return self.finished >= self.total


@dataclass
class OpenState(State):
    """A generation whose rows end when they end: `data` [n, T] are the new tokens, zeros behind a row's end.

    Attributes:
        lengths_B: How many new tokens each row has, its end among them.
        ended_B: Whether each row has ended.
    """

    lengths_B: Tensor
    ended_B: Tensor

    @property
    def done(self) -> bool:
        """Whether every row has ended, or as many entities are there as were asked for."""
        return super().done or bool(self.ended_B.all())


StateT = TypeVar("StateT", bound=State, default=Any)


class Generator(Model[ConfigT], Generic[ConfigT, StateT]):
    """A model that predicts the next entity: `start`, then `step` until `state.done`.

    `nextok_mm.decoding.decode` is that loop. `Sampling` is the config class of a method's sampling settings (steps,
    solver, guidance ...); `config.sampling` holds a checkpoint's recommended ones. `state` is the class of its states.
    `open_ended`: rows end when they end, not where a `layout` ends; such a generator has none. `medium`: what its
    tokens stand for by the text tokenizer beside its weights; None where that is a tokenizer's affair. `needs_text`:
    a pipeline asks it for nothing without a text, since what it makes ends where its text does.
    """

    Sampling: ClassVar[type[Config]]
    state: ClassVar[type[State]]
    layout: Layout
    open_ended: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    medium: "ClassVar[Medium | None]" = None

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of a `Condition` that `start` takes; it may be given fewer, or none."""
        return ("labels",) if getattr(self.config, "classes", 0) else ()

    @property
    def num_codes(self) -> int | None:
        """How many different codes its tokens have, as `Tokenizer.num_codes`; None: they are continuous."""
        return None

    @property
    def given(self) -> int:
        """How many of the first entities `start` has to be given by `known`: none, but for models that only go on."""
        return 0

    @property
    def longest_prompt(self) -> int:
        """The largest number of tokens that a prompt may have, where `takes` names `tokens`; else none."""
        return 0

    @property
    def prompt_vocabulary(self) -> int:
        """How many different tokens a prompt may hold, where `takes` names `tokens`."""
        return self.num_codes or 0

    def read_text(self, words: "TextTokenizer", texts: Sequence[str], sampling: Any) -> dict[str, Any]:
        """Read what people ask for in words, where `takes` names `tokens`.

        Args:
            words: The text tokenizer.
            texts: The texts.
            sampling: A `Sampling` config.

        Returns:
            Parts of a condition by name, each with a value per text.

        Raises:
            ValueError: A text is longer than a prompt may be, or can't be read.
        """
        return {"tokens": [words.prompt(text, self.longest_prompt) for text in texts]}

    def remarks(self, state: Any, words: "TextTokenizer | None") -> list[dict[str, Any]] | None:
        """Say about each finished sample what its tokens don't.

        Args:
            state: The last state.
            words: The text tokenizer, where there is one.

        Returns:
            Remarks by name for each sample, such as why it ended; None where there are none.
        """
        return None

    @abstractmethod
    def predict(self, batch: Batch, rng: Rng) -> Tensor:
        """Predict what the loss compares with its target.

        Args:
            batch: A training batch.
            rng: Random numbers, one stream per row.

        Returns:
            A prediction [B, S, ...] for every token of the sequence.
        """

    @abstractmethod
    def start(self, condition: Condition, rng: Rng, sampling: Any = None, known: Known | None = None) -> StateT:
        """Begin len(rng) samples.

        A row depends on its stream of `rng`, its condition and its known tokens, on nothing else. Implementations wear
        `inference.inferring`, and a row that knows all of an entity draws nothing for it (`Rng.only`).

        Args:
            condition: What the samples are generated for, by name; see `Condition`.
            rng: Random numbers, one stream per sample.
            sampling: A `Sampling` config; None takes `config.sampling`.
            known: Known tokens, which stay as they are.

        Returns:
            The state before the first step.

        Raises:
            ValueError: The condition or the known tokens do not fit this model.
        """

    @abstractmethod
    def step(self, state: StateT) -> StateT:
        """Generate one more entity; `decoding.decode` calls it in eval mode and without gradients.

        Args:
            state: What `start` or the last `step` returned.

        Returns:
            The state with one more entity.
        """

    def end(self, state: StateT, rows: Tensor) -> StateT:
        """Let rows of an open-ended generation end here; nothing changes for the others.

        Args:
            state: What `start` or the last `step` returned.
            rows: Numbers of the rows.

        Returns:
            The state without them under way.
        """
        raise NotImplementedError(f"a {self.kind} ends where its layout ends")

    @property
    @abstractmethod
    def backend(self) -> str:
        """The attention backend that sampling runs on this model's device."""


def check_speaks(generator: Generator[Any, Any], tokenizer: Tokenizer[Any], tokenizer_name: str, name: str) -> None:
    """ValueError in one line where a generator can't speak a tokenizer's tokens: channels, codes, number, grid."""

    def compare(what: str, theirs: Any, ours: Any) -> None:
        if None not in (theirs, ours) and theirs != ours:
            raise ValueError(f"tokenizer: {tokenizer_name} has {theirs} {what}, accepted: the {ours} {what} of {name}")

    if tokenizer.num_codes is None and generator.num_codes is None:
        fields = (getattr(tokenizer.config, "latent_channels", None), getattr(generator.config, "channels", None))
        return compare("channels", *fields)
    if (tokenizer.num_codes is None) != (generator.num_codes is None):
        theirs, ours = (
            "continuous tokens" if codes is None else f"{codes} codes"
            for codes in (tokenizer.num_codes, generator.num_codes)
        )
        raise ValueError(f"tokenizer: {tokenizer_name} has {theirs}, accepted: the {ours} of {name}")
    compare("codes", tokenizer.num_codes, generator.num_codes)
    ours = tuple(generator.layout.grid)
    theirs = None if tokenizer.size is None else tuple(tokenizer.grid(tokenizer.size))
    if theirs is None:
        return
    ordered = isinstance(tokenizer, OrderedTokenizer)
    if not (ordered and math.prod(theirs) > math.prod(ours)):  # their first codes make a picture
        compare("tokens", math.prod(theirs), math.prod(ours))
    if theirs != ours and not ordered:
        raise ValueError(f"tokenizer: {tokenizer_name} has a grid of {theirs}, accepted: the {ours} of {name}")


def check_words(generator: Generator[Any, Any], words: "TextTokenizer", known: str, name: str) -> None:
    """ValueError in one line where a text tokenizer isn't a generator's own.

    known: the fingerprint of the one that it was trained with, "" where nobody has noted it. A table of embeddings may
    have room to spare, but not half of it.
    """
    codes = generator.prompt_vocabulary
    if known and words.fingerprint != known:
        raise ValueError(
            f"tokenizer: got the text tokenizer {words.fingerprint}, accepted: {known}, with which {name} was trained; "
            "tokenizer=... (--tokenizer) takes another one all the same"
        )
    if not codes // 2 < words.size <= codes:
        raise ValueError(
            f"tokenizer: got a text tokenizer of {words.size} tokens, accepted: one of the {codes} tokens of {name}"
        )
