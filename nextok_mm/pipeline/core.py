"""What `load` (loading.py) returns: a tokenizer and a generator, from labels to pictures in one call.

    pipeline = nextok_mm.load("xar-fashion")
    pipeline.generate(labels=[7], n=16, seed=0).save("out.png")

Sample i of a run is drawn from the seed (run seed, i) alone: the same picture in any batch, on any device.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .. import borrowed
from ..checkpoint import Card, fingerprint
from ..contracts import Generator, Known, OrderedTokenizer, Tokenizer, Tokens
from ..inference import inference
from ..media import Fit, Medium
from ..media.words import TextTokenizer
from ..rng import Rng, mix
from ..weights import MAX_SHARD_SIZE
from . import conditions, inputs, ladder, voices
from . import folder as folders
from .conditions import MAX_ROWS
from .result import Result, joined
from .scores import Scores
from .settings import names, settings_of
from .streaming import Run, results, stops

BATCH = 64
Progress = Callable[[int, int], None]


class Pipeline:
    """A tokenizer together with a generator of its tokens, or a tokenizer by itself; `load` makes one.

    Attributes:
        tokenizer: The tokenizer; None for a generator whose tokenizer is not known, and for a language model.
        generator: The generator; None for a tokenizer by itself.
        words: The text tokenizer of a generator that reads prompts, with which a language model writes too; else None.
        card: The description of the checkpoint: name, class labels, license, figures.

    Example:
        >>> import nextok_mm as nx
        >>> pipeline = nx.load("xar-fashion", device="cpu")
        >>> pipeline
        <Pipeline xar-fashion: generator xar, generate, stream, tokenize, detokenize, reconstruct, on cpu>
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        generator: Generator | None,
        card: Card,
        tokenizer_card: Card | None = None,
        words: TextTokenizer | None = None,
    ):
        self.tokenizer, self.generator, self.card, self.words = tokenizer, generator, card, words
        self.tokenizer_card = card if card.role == "tokenizer" else tokenizer_card

    def to(self, device: str | torch.device) -> "Pipeline":
        """Move tokenizer and generator to a device.

        Args:
            device: A device by its name in PyTorch, such as `cuda`.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: This machine has no such device.
        """
        target = inputs.device(str(device))
        with torch.inference_mode(False):  # weights that moved inside it would be of no use outside
            for part in (self.tokenizer, self.generator):
                if part is not None:
                    part.to(target)
        return self

    def __repr__(self) -> str:
        """One line: the checkpoint, what it does, where it is."""
        device = next((part.device for part in (self.generator, self.tokenizer) if part is not None), "nowhere")
        return f"<Pipeline {self.card.name}: {self.card.role} {self.card.kind}, {', '.join(self.tasks)}, on {device}>"

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        part = self.generator or self.tokenizer
        assert part is not None
        return part.device

    @property
    def medium(self) -> Medium:
        """The kind of content that goes in and comes out; ValueError where a generator has no tokenizer."""
        return self._voice().medium

    @property
    def tasks(self) -> tuple[str, ...]:
        """What this checkpoint can do: the names of the methods that work."""
        writes = self._writes and self.words is not None
        makes = writes or (self.generator is not None and self.tokenizer is not None)
        grows = self.generator is not None and self.generator.open_ended
        able = {
            "generate": makes,
            "stream": makes,
            "chat": writes and self.words is not None and self.words.template is not None,
            "score": writes,
            "predict": makes and not grows and self.medium.temporal,
            "tokenize": self.tokenizer is not None,
            "detokenize": self.tokenizer is not None,
            "reconstruct": self.tokenizer is not None,
            "ladder": isinstance(self.tokenizer, OrderedTokenizer),
        }
        return tuple(name for name, there in able.items() if there)

    @staticmethod
    def from_pretrained(
        name: str | Path,
        tokenizer: str | Path | None = None,
        device: str | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        **others: Any,
    ) -> "Pipeline":
        """Load a checkpoint as a pipeline; see `nextok_mm.load`, which this is by another name."""
        from .loading import load

        return load(name, tokenizer, device, revision, dtype, **others)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
    ) -> Path:
        """Write generator and tokenizer into one folder, which `load` takes wherever it is moved.

        Args:
            folder: The folder; an older checkpoint there is replaced as a whole, at the very end.
            dtype: Number format in which a generator's weights are stored; None keeps theirs.
            max_shard_size: Weights of more bytes than that are written as several files and an index.

        Returns:
            The folder.

        Raises:
            ValueError: The folder holds anything but a checkpoint, or can't be written.
        """
        return folders.save(self, folder, dtype=dtype, max_shard_size=max_shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        dtype: torch.dtype | str | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
    ) -> str:
        """Upload the folder of `save_pretrained` to a model repository of the hub, which is made where there is none.

        Weights that an older commit had, and this one has not, are deleted from it.

        Args:
            repo_id: Name of the repository, owner/name.
            private: Whether a new repository is private; None leaves that to the hub.
            revision: The branch, which is made where there is none; None takes the main one.
            token: The token to upload with; None takes that of `hf auth login`.
            commit_message: The message of the commit.
            dtype: As in `save_pretrained`.
            max_shard_size: As in `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            ValueError: The hub refuses, or can't be reached.
        """
        return folders.push(
            self, repo_id, private, revision, token, commit_message, dtype=dtype, max_shard_size=max_shard_size
        )

    def condition(self, n: int, **given: Any) -> dict[str, Any]:
        """Read the condition of n samples in the form that the generator takes.

        Args:
            n: Number of samples.
            given: Values by name, such as `labels`, in any form that `generate` accepts.

        Returns:
            The condition of every sample by name; see `nextok_mm.contracts.Condition`.

        Raises:
            ValueError: A value is not one that this generator takes.
        """
        return self._condition(n, given, None)

    def _condition(self, n: int, given: Mapping[str, Any], sampling: Any) -> dict[str, Any]:
        """See `condition`; sampling: the settings, where they decide how a text is read."""
        voice, given = given.get("voice"), {name: value for name, value in given.items() if name != "voice"}
        read = conditions.read(self.generator, self.card.labels or (), self.card.name, n, given, self.words, sampling)
        if voice is not None:
            read |= voices.read(self.generator, self.tokenizer, self.card.name, voice, n)
        return read

    def generate(
        self,
        labels: Sequence[int | str] | int | str | None = None,
        n: int | None = None,
        seed: int = 0,
        *,
        text: Sequence[str] | str | None = None,
        voice: Any = None,
        stop: Sequence[str] | str | None = None,
        known: Known | None = None,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Result:
        """Generate n samples, such as pictures or texts.

        Sample i depends on (seed, i) and its condition alone, so it is the same in any batch and on any device.

        Args:
            labels: Classes by number or name; one for all, or several that are cycled. None cycles through all classes,
                and "none" gives no condition.
            n: Number of samples; None makes one, and of a language model one per prompt.
            seed: Seed of the run.
            text: Captions or prompts, for a generator that reads them; one for all, or several that are cycled. A
                `Path` is a file of a prompt.
            voice: Recordings to speak like, for a generator that hears them: names of files, sounds, or states that
                heard one (`nextok_mm.decoding.states`); one for all, or several that are cycled.
            stop: Texts at which a text ends, before the first of them; none where the samples are no texts.
            known: Known tokens, which stay as they are (in-painting, continuation).
            batch: Number of samples that are generated at a time.
            progress: A function (done, all) that is called after each entity, counted over all batches.
            sampling: Settings that replace the checkpoint's own, such as `steps`, `cfg` or `solver`; see the
                generator's `Sampling`.

        Returns:
            The samples, with everything that is needed to make them again.

        Raises:
            ValueError: A label, a setting or a number is not accepted, or the checkpoint has no generator.

        Example:
            >>> import nextok_mm as nx
            >>> result = nx.load("xar-fashion", device="cpu").generate(labels=["bag", "coat"], n=2, seed=0, steps=2)
            >>> result.images.shape
            torch.Size([2, 1, 32, 32])
            >>> result.save("out.png").name
            'out.png'
        """
        parts = list[Result]()
        n, batch = conditions.count(self.generator, n, text), inputs.whole("batch", batch, 1, MAX_ROWS)
        options = {"text": text, "voice": voice, "stop": stop, "known": known, "decode_all": False}
        seed = inputs.whole("seed", seed)
        for first in range(0, n, batch):
            size = min(batch, n - first)

            def count(done: int, entities: int, first: int = first) -> None:
                if progress is not None:
                    progress(first // batch * entities + done, math.ceil(n / batch) * entities)

            last = None
            rows = range(first, first + size)
            for last in self.stream(labels, n, seed, rows=rows, **options, **sampling):
                count(last.finished, last.total)
            assert last is not None
            parts.append(last)
        return joined(parts)

    def stream(
        self,
        labels: Sequence[int | str] | int | str | None = None,
        n: int | None = None,
        seed: int = 0,
        *,
        text: Sequence[str] | str | None = None,
        voice: Any = None,
        stop: Sequence[str] | str | None = None,
        known: Known | None = None,
        rows: range | None = None,
        decode_all: bool = True,
        **sampling: Any,
    ) -> Iterator[Result]:
        """Generate the samples of `generate` in one batch, and hand them out after every entity.

        This serves previews, progress and early stopping. With ordered tokens, pictures are decoded after 1, 2, 4, 8
        ... tokens: decoding costs more than generating a token, and one more token among many changes little. Texts
        grow by whole letters, and what has been handed out of one stays.

        Args:
            labels, n, seed, text, voice, stop, known, sampling: As in `generate`.
            rows: Which of the n samples to generate; None generates all of them.
            decode_all: Decode every state; False decodes the last one alone.

        Yields:
            The samples so far; `finished` counts the entities, or passes, of `total`.

        Raises:
            ValueError: As in `generate`; raised when the first result is asked for.
        """
        generator, speaks = self._parts()
        n, seed = conditions.count(generator, n, text), inputs.whole("seed", seed)
        rows = range(n) if rows is None else rows
        if not isinstance(cast(Any, rows), range) or rows.step != 1 or not 0 <= rows.start < rows.stop <= n:
            raise ValueError(f"rows: got {rows!r}, accepted: a range(first, last) within 0 to {n}")
        settings = settings_of(generator, sampling)
        given = self._condition(n, {"labels": labels, "text": text, "voice": voice}, settings)
        mine = {name: part[rows.start : rows.stop] for name, part in given.items()}
        preview = speaks.preview(generator)
        preview.until(stops(stop))
        started = time.perf_counter()
        held = inputs.rows_of(known, rows, n)
        if held is not None:
            self._check_source(speaks, held.source)
        begun_state = generator.start(mine, Rng([mix(seed, row) for row in rows]), settings, held)
        asked = conditions.asked(mine, text, rows)
        sampled = settings.model_dump(mode="json") | ({"stop": stops(stop)} if stop else {})
        yield from results(
            Run(
                generator,
                speaks.medium,
                preview,
                self.card.name,
                seed,
                asked,
                sampled,
                started,
                decode_all=decode_all,
                words=self.words,
            ),
            begun_state,
        )

    def tokenize(self, images: Any, fit: Fit = "exact") -> Tokens:
        """Encode samples to tokens.

        Args:
            images: Pictures [B, C, H, W] in [0, 1], clips [B, C, T, H, W], arrays, Pillow pictures, names of files, or
                a list of those; see `Medium.take`.
            fit: What happens to a file of another aspect: `exact` refuses it, `crop` takes its middle, `pad` keeps all
                of it between white borders.

        Returns:
            The tokens, with their grid and the fingerprint of the tokenizer.

        Raises:
            ValueError: The samples are not of a form, number of channels or size that the tokenizer accepts.

        Example:
            >>> import torch
            >>> import nextok_mm as nx
            >>> nx.load("vae-fashion", device="cpu").tokenize(torch.zeros(1, 1, 32, 32)).data.shape
            torch.Size([1, 16, 16])
        """
        tokenizer = self._tokenizer()
        with inference(tokenizer):
            return tokenizer.encode(self._taken(images, fit).to(tokenizer.device))

    def detokenize(
        self, tokens: Tokens | Tensor | Any, seed: int | None = None, progress: Progress | None = None, **sampling: Any
    ) -> Result:
        """Decode tokens to samples.

        Args:
            tokens: `Tokens`, or latents or codes as a tensor, an array or a list.
            seed: Seed of the noise, for a tokenizer whose decoding draws noise (FlexTok); None starts all samples from
                the same noise.
            progress: A function (done, all) that is called after each solver step of such a tokenizer.
            sampling: Settings that replace the tokenizer's own; see its `Sampling`.

        Returns:
            The samples.

        Raises:
            ValueError: The tokens are another tokenizer's, or do not fit the grid, channels or codes of this one.

        Example:
            >>> import nextok_mm as nx
            >>> pipeline = nx.load("flextok-fashion", device="cpu")
            >>> pipeline.detokenize([12, 7, 900], seed=0, steps=2).save("a.png").name
            'a.png'
        """
        tokenizer, seed = self._tokenizer(), None if seed is None else inputs.whole("seed", seed)
        if isinstance(tokens, Tokens):
            self._check_source(tokenizer, tokens.source)
        checked, settings, started = inputs.tokens(tokens, tokenizer), {}, time.perf_counter()
        with inference(tokenizer):
            if isinstance(tokenizer, OrderedTokenizer):
                chosen = settings_of(tokenizer, sampling)
                rng = None if seed is None else Rng([mix(seed, row) for row in range(len(checked.data))])
                settings, data = chosen.model_dump(mode="json"), tokenizer.decode(checked, None, rng, chosen, progress)
            elif sampling:
                borrowed.refuse(sampling, names(tokenizer))
                raise ValueError(f"{next(iter(sampling))}: got a setting, but {self.card.name} decodes without any")
            else:
                data = tokenizer.decode(checked)
        seconds = {"decode": time.perf_counter() - started}
        return self._result(data, seed=seed or 0, tokens=checked, sampling=settings, seconds=seconds)

    def reconstruct(
        self,
        images: Any,
        fit: Fit = "exact",
        *,
        tokens: Sequence[int] | int | None = None,
        seed: int = 0,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Result:
        """Encode samples and decode them again.

        Args:
            images: Samples in any form that `tokenize` accepts.
            fit: As in `tokenize`.
            tokens: Numbers of leading tokens to decode from, for a tokenizer with ordered tokens; None decodes all
                tokens.
            seed: Seed of the noise from which every decoding of a picture starts, where `tokens` are given.
            batch: Number of pictures that are decoded at a time, where `tokens` are given.
            progress: A function (done, all) that is called after each solver step, where `tokens` are given.
            sampling: Settings that replace the tokenizer's own, where `tokens` are given.

        Returns:
            The reconstructions, with the samples themselves in `given`; a `Ladder` where `tokens` are given.

        Raises:
            ValueError: A number or a setting is not accepted, or `tokens` are given and the tokenizer has no ordered
                ones.

        Example:
            >>> import torch
            >>> import nextok_mm as nx
            >>> result = nx.load("vae-fashion", device="cpu").reconstruct(torch.rand(2, 1, 32, 32))
            >>> len(result), result.given.shape
            (2, torch.Size([2, 1, 32, 32]))
        """
        if tokens is None and sampling:
            borrowed.refuse(sampling, names(self.tokenizer))
            raise ValueError(
                f"{next(iter(sampling))}: got a setting, but settings apply only together with tokens=[...] (--tokens)"
            )
        batch, seed = inputs.whole("batch", batch, 1), inputs.whole("seed", seed)
        given, tokenizer = self._taken(images, fit), self._tokenizer()
        if tokens is not None:
            return ladder.ladder(self, given, conditions.each(tokens), seed, batch, progress, sampling)
        with inference(tokenizer):
            encoded = tokenizer.encode(given.to(tokenizer.device))
            made = tokenizer.decode(encoded)[tuple(map(slice, given.shape))]  # of a sound, without what made it whole
            return self._result(made, given=given.cpu(), tokens=encoded)

    def predict(
        self, clips: Any, frames: int | None = None, seed: int = 0, labels: Any = None, **sampling: Any
    ) -> Result:
        """Continue clips from their first frames.

        Args:
            clips: Clips [n, C, T, H, W] in [0, 1], or in any form that `tokenize` accepts.
            frames: Number of frames of the whole clip; None generates as many as the model was trained on.
            seed: Seed of the run.
            labels: Classes, as in `generate`; None gives no condition, since the frames show what they hold.
            sampling: Settings that replace the checkpoint's own.

        Returns:
            The clips, which begin with the given frames.

        Raises:
            ValueError: The clips have another shape, their frames make no whole codes, or the model is one of pictures.
        """
        from .prediction import predict

        return predict(self, clips, frames, seed, labels, **sampling)

    def chat(self, messages: Any, seed: int = 0, *, stop: Sequence[str] | str | None = None, **sampling: Any) -> Result:
        """Answer a conversation; `Chat` is one that goes on without being read again.

        Args:
            messages: What has been said, each message a `role` (`system`, `user`, `assistant`) and a `content`.
            seed: Seed of the answer.
            stop: Texts at which the answer ends, before the first of them.
            sampling: Settings that replace the checkpoint's own.

        Returns:
            The answer, one text.

        Raises:
            ValueError: The checkpoint is no language model with a chat template, a message has another form, or the
                conversation doesn't fit into the model's context.
        """
        from .chat import Chat

        *_, last = Chat(self, seed=seed, stop=stop, **sampling).answer(messages)
        return last

    def score(self, text: Any, given: Any = None) -> Scores:
        """Measure how likely texts are to a language model.

        Args:
            text: A text, or several; a `Path` is a file of one.
            given: What stands before each text and is not scored, one for all or one for each; None is the beginning of
                a text.

        Returns:
            The log-probability of every text, and of every token of it.

        Raises:
            ValueError: The checkpoint is no language model, or a text is empty or longer than the model's context.
        """
        from .scores import score

        return score(self, text, given)

    def _check_source(self, tokenizer: "Tokenizer | TextTokenizer", source: str) -> None:
        """ValueError for tokens that say that another tokenizer made them."""
        own = fingerprint(tokenizer) if source else ""
        if source != own:
            raise ValueError(f"tokens: made by tokenizer {source}, accepted: those of {self.card.name} ({own})")

    def _result(self, data: Tensor, **how: Any) -> Result:
        """Samples of this pipeline's medium."""
        return Result(data=data.cpu(), medium=self.medium, name=self.card.name, **how)

    def _taken(self, given: Any, fit: Fit = "exact") -> Tensor:
        """What people hand in, as the tokenizer reads it."""
        tokenizer = self._tokenizer()
        return tokenizer.medium.take(given, fit).to(next(tokenizer.parameters()).dtype)

    def read(self, path: str | Path, fit: Fit = "exact") -> Tensor:
        """Read a file as the tokenizer reads it.

        Args:
            path: Name of the file.
            fit: As in `tokenize`.

        Returns:
            One sample [1, ...] in the tokenizer's channels and size.

        Raises:
            ValueError: The file is missing, damaged, too large, or of no format that is read.
        """
        return self.medium.read(path, fit)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None and self._writes:
            raise ValueError(f"tokenizer: {self.card.name} writes texts, accepted: {', '.join(self.tasks)}")
        if self.tokenizer is None:
            raise ValueError(
                f"tokenizer: {self.card.name} names none; load it with tokenizer=FOLDER (--tokenizer), "
                "for a converted checkpoint the converted VAE"
            )
        return inputs.check_pictures(self.tokenizer, self.card.name)

    def _voice(self) -> "Tokenizer | TextTokenizer":
        """What the generator's tokens stand for: a tokenizer, or without any the text tokenizer."""
        if self.tokenizer is None and self._writes and self.words is not None:
            return self.words
        return self._tokenizer()

    @property
    def _writes(self) -> bool:
        """Whether what the generator makes are texts, which need no tokenizer beside that of the text."""
        return self.generator is not None and self.generator.medium is not None

    def _parts(self) -> "tuple[Generator, Tokenizer | TextTokenizer]":
        if self.generator is None:
            raise ValueError(f"generate: {self.card.name} is a tokenizer, accepted: a generator")
        return self.generator, self._voice()
