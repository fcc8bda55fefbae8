"""What `load` returns: a tokenizer and a generator, from labels to pictures in one call.

    pipeline = nextok_mm.load("xar-fashion")
    pipeline.generate(labels=[7], n=16, seed=0).save("out.png")

Sample i of a run is drawn from the seed (run seed, i) alone: the same picture in any batch, on any device.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..checkpoint import Card, fingerprint, from_pretrained, read_card, resolve, tokenizer_folder
from ..contracts import Generator, Keep, OrderedTokenizer, Tokenizer, Tokens, check_speaks
from ..decoding import decode
from ..inference import inference
from ..media import Fit, Medium
from ..rng import Rng, mix
from . import conditions, inputs, ladder
from .result import Result, joined

BATCH = 64
MAX_ROWS = 1_000_000
"""Samples of one call: more are made in several, with seeds of their own."""
Progress = Callable[[int, int], None]
MEANT = {"label": "labels", "class_labels": "labels", "classes": "labels", "prompt": "text", "caption": "text"}
MEANT |= {"captions": "text", "num_images": "n", "count": "n", "generator": "seed", "batch_size": "batch"}
"""What other libraries call arguments of ours."""


class Pipeline:
    """A tokenizer, and a generator that speaks its tokens (or none, for a tokenizer by itself)."""

    def __init__(self, tokenizer: Tokenizer | None, generator: Generator | None, card: Card):
        self.tokenizer, self.generator, self.card = tokenizer, generator, card

    def to(self, device: str | torch.device) -> "Pipeline":
        """Move both; returns self. ValueError for a device that isn't here."""
        target = _device(str(device))
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
        """Where its weights are."""
        part = self.generator or self.tokenizer
        assert part is not None
        return part.device

    @property
    def medium(self) -> Medium:
        """What it takes in and gives back; ValueError where a generator has no tokenizer."""
        return self._tokenizer().medium

    @property
    def tasks(self) -> tuple[str, ...]:
        """What this checkpoint can do: the names of the methods that work."""
        able = {
            "generate": self.generator is not None and self.tokenizer is not None,
            "stream": self.generator is not None and self.tokenizer is not None,
            "predict": self.generator is not None and self.tokenizer is not None and self.medium.temporal,
            "tokenize": self.tokenizer is not None,
            "detokenize": self.tokenizer is not None,
            "reconstruct": self.tokenizer is not None,
            "ladder": isinstance(self.tokenizer, OrderedTokenizer),
        }
        return tuple(name for name, there in able.items() if there)

    def condition(self, n: int, **given: Any) -> dict[str, Any]:
        """What n samples are asked for, as the generator reads it; see `conditions.read`."""
        return conditions.read(self.generator, self.card.labels or (), self.card.name, n, given)

    def generate(
        self,
        labels: Sequence[int | str] | int | str | None = None,
        n: int = 1,
        seed: int = 0,
        *,
        text: Sequence[str] | str | None = None,
        keep: Keep | None = None,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Result:
        """n pictures. labels, or text for a model that reads captions: one, or several taken in turn; sampling:
        settings that replace the checkpoint's own (steps, cfg, solver ...; see the generator's `Sampling`); keep: known
        tokens, for in-painting; progress(done, all) counts entities over all batches.

        ValueError in one line for a label, a setting or a size that isn't accepted.
        """
        parts = []
        n, batch = inputs.whole("n", n, 1, MAX_ROWS), inputs.whole("batch", batch, 1, MAX_ROWS)
        seed = inputs.whole("seed", seed)
        for first in range(0, n, batch):
            size = min(batch, n - first)

            def count(done: int, entities: int, first: int = first) -> None:
                if progress is not None:
                    progress(first // batch * entities + done, math.ceil(n / batch) * entities)

            last = None
            rows = range(first, first + size)
            for last in self.stream(labels, n, seed, text=text, keep=keep, rows=rows, decode_all=False, **sampling):
                count(last.done, last.entities)
            assert last is not None
            parts.append(last)
        return joined(parts)

    def stream(
        self,
        labels: Sequence[int | str] | int | str | None = None,
        n: int = 1,
        seed: int = 0,
        *,
        text: Sequence[str] | str | None = None,
        keep: Keep | None = None,
        rows: range | None = None,
        decode_all: bool = True,
        **sampling: Any,
    ) -> Iterator[Result]:
        """The same pictures in one batch, handed out after every entity: previews, progress, early stopping.

        rows: which of the n samples (else all of them); decode_all=False turns only the last state into pictures. Of
        ordered tokens the pictures of 1, 2, 4, 8 ... are shown: decoding costs more than drawing a token, and one more
        among many changes little.
        """
        generator, tokenizer = self._parts()
        n, seed = inputs.whole("n", n, 1, MAX_ROWS), inputs.whole("seed", seed)
        rows = range(n) if rows is None else rows
        if not isinstance(rows, range) or rows.step != 1 or not 0 <= rows.start < rows.stop <= n:
            raise ValueError(f"rows: got {rows!r}, accepted: a range(first, last) within 0 to {n}")
        for name in sampling.keys() & MEANT.keys():
            raise ValueError(f"{name}: no such argument, accepted: {MEANT[name]}=... (or a sampling setting)")
        settings = settings_of(generator, sampling)
        mine = {
            name: part[rows.start : rows.stop] for name, part in self.condition(n, labels=labels, text=text).items()
        }
        started = time.perf_counter()
        known = _rows_of(keep, rows, n)
        if known is not None:
            self._check_source(tokenizer, known.source)
        begun_state = generator.start(mine, Rng([mix(seed, row) for row in rows]), settings, known)
        seconds = {"generate": 0.0, "decode": 0.0}
        preview, data = tokenizer.preview(generator.layout), tokenizer.medium.empty(len(rows))
        asked = {name: part.tolist() if isinstance(part, Tensor) else list(part) for name, part in mine.items()}
        for state in decode(generator, begun_state):
            begun = time.perf_counter()
            seconds["generate"] += begun - started
            if state.done or (decode_all and preview.due(state.entity)):
                data = preview.decode(state)
            seconds["decode"] += time.perf_counter() - begun
            yield Result(
                data=data,
                medium=tokenizer.medium,
                name=self.card.name,
                seed=seed,
                condition=asked,
                tokens=Tokens(state.data.cpu(), tuple(generator.layout.grid), fingerprint(tokenizer))
                if state.done
                else None,
                sampling=settings.model_dump(mode="json"),
                calls=getattr(state, "calls", 0),
                seconds=dict(seconds),
                backend=generator.backend,
                done=state.entity,
                entities=state.entities,
            )
            started = time.perf_counter()  # time that the caller spends between results is not counted

    def tokenize(self, images: Any, fit: Fit = "exact") -> Tokens:
        """Samples in any form that `Medium.take` takes, such as pictures [B, C, H, W] in [0, 1], to tokens."""
        tokenizer = self._tokenizer()
        with inference(tokenizer):
            return tokenizer.encode(self._taken(images, fit).to(tokenizer.device))

    def detokenize(
        self, tokens: Tokens | Tensor | Any, seed: int | None = None, progress: Progress | None = None, **sampling: Any
    ) -> Result:
        """Tokens (or latents, or codes: a tensor, an array, a list) to what they stand for.

        seed, progress, sampling: of tokenizers whose decoding draws noise (FlexTok): the noise's seed (None: one noise
        for all), a function (done, all) that counts solver steps, and settings that replace the tokenizer's own.

            pipeline.detokenize([12, 7, 900], seed=0).save("a.png")

        ValueError in one line for tokens of another tokenizer, or that don't fit its grid, channels or codes.
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
                raise ValueError(
                    f"{next(iter(sampling))}: got a setting, accepted: none, {self.card.name} draws nothing"
                )
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
        """Samples there and back through the tokenizer, in any form that `Medium.take` takes.

        tokens: how many leading tokens to use, each number in turn, which gives a `Ladder`; seed: of the noise that all
        of a picture's start from; progress(done, all) counts solver steps; sampling: settings that replace the
        tokenizer's own. ValueError in one line for a number or a setting that isn't accepted, and for tokens without
        an order.
        """
        if tokens is None and sampling:
            raise ValueError(f"{next(iter(sampling))}: got a setting, accepted: beside tokens=[...] (--tokens)")
        batch, seed = inputs.whole("batch", batch, 1), inputs.whole("seed", seed)
        given, tokenizer = self._taken(images, fit), self._tokenizer()
        if tokens is not None:
            return ladder.ladder(self, given, conditions.each(tokens), seed, batch, progress, sampling)
        with inference(tokenizer):
            encoded = tokenizer.encode(given.to(tokenizer.device))
            return self._result(tokenizer.decode(encoded), given=given.cpu(), tokens=encoded)

    def predict(
        self, clips: Any, frames: int | None = None, seed: int = 0, labels: Any = None, **sampling: Any
    ) -> Result:
        """Clips that go on from their first frames; see `prediction.predict`."""
        from .prediction import predict

        return predict(self, clips, frames, seed, labels, **sampling)

    def _check_source(self, tokenizer: Tokenizer, source: str) -> None:
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
        """A file in the tokenizer's channels and size, [1, ...]; see `Medium.read`."""
        return self.medium.read(path, fit)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                f"tokenizer: {self.card.name} names none; load it with tokenizer=FOLDER (--tokenizer), "
                "for a converted checkpoint the converted VAE"
            )
        return inputs.check_pictures(self.tokenizer, self.card.name)

    def _parts(self) -> tuple[Generator, Tokenizer]:
        if self.generator is None:
            raise ValueError(f"generate: {self.card.name} is a tokenizer, accepted: a generator")
        return self.generator, self._tokenizer()


def load(
    name: str | Path, tokenizer: str | Path | None = None, device: str | None = None, revision: str | None = None
) -> Pipeline:
    """A pipeline from a shipped model's name, a checkpoint folder or a hub id (owner/name, with `revision`).

    tokenizer: replaces the one that a generator's checkpoint names; device: else a GPU where there is one. ValueError
    where the named one isn't there, or isn't the one that the generator was trained with.
    """
    folder = resolve(name, revision)
    model, card = from_pretrained(folder)
    if card.role == "judge":
        raise ValueError(f"load: {card.name} is a judge, accepted: a generator or a tokenizer (judges: nextok eval)")
    target = _device(device)
    if card.role == "tokenizer":
        return Pipeline(model, None, card).to(target)
    place = tokenizer_folder(card, folder) if tokenizer is None else resolve(tokenizer)
    speaks = None if place is None else from_pretrained(place, role="tokenizer")[0]
    if speaks is not None:
        known = "" if tokenizer is not None else card.tokenizer_fingerprint
        if known and fingerprint(speaks) != known:
            raise ValueError(
                f"tokenizer: {place} is {fingerprint(speaks)}, accepted: {known}, with which {card.name} was trained; "
                "tokenizer=... (--tokenizer) takes another one all the same"
            )
        check_speaks(model, speaks, f"{tokenizer or card.tokenizer}", card.name)
    return Pipeline(speaks, model, card).to(target)


def medium_of(name: str | Path) -> Medium | None:
    """What a tokenizer works on, or a generator that speaks through one; loads no weights. None for neither."""
    folder = resolve(name)
    card = read_card(folder)
    if card.role == "generator" and (place := tokenizer_folder(card, folder)) is not None:
        card = read_card(place)
    if card.role != "tokenizer":
        return None
    cls: Any = registry.get("tokenizer", card.kind)
    return cls.medium_of(cls.Config.parse(card.fields, where=card.kind))


def _device(device: str | None) -> torch.device:
    if device is not None:
        try:
            torch.zeros(1, device=device).tolist()  # a name that torch knows may still be absent here
            return torch.device(device)
        except (RuntimeError, AssertionError):
            here = [name for name, there in _accelerators().items() if there]
            raise ValueError(f"device: got {device!r}, accepted here: {', '.join(['cpu', *here])}") from None
    return torch.device(next((name for name, there in _accelerators().items() if there), "cpu"))


def _accelerators() -> dict[str, bool]:
    """Which of those that are chosen by themselves are there, the first one first."""
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def settings_of(model: Any, sampling: dict[str, Any]) -> Any:
    """A model's own sampling settings, those replaced that are given."""
    given = {name: value for name, value in sampling.items() if value is not None}
    return model.Sampling.parse({**model.config.sampling.model_dump(), **given}, where="sampling")


def _rows_of(keep: Keep | None, rows: range, n: int) -> Keep | None:
    """The part of `keep` that belongs to these rows, where it has one for each of the n."""
    if keep is None:
        return None
    if not isinstance(keep, Keep):
        got, accepted = type(keep).__name__, "nextok_mm.contracts.Keep(data, mask), tokens and which of them are known"
        raise ValueError(f"keep: got {got}, accepted: {accepted}")
    if keep.data.shape[:1] not in ((1,), (n,)) or (keep.mask.dim() == 2 and len(keep.mask) != n):
        got = f"data {tuple(keep.data.shape)} and mask {tuple(keep.mask.shape)}"
        raise ValueError(f"keep: got {got}, accepted: data of 1 or {n} rows, a mask of none or {n}")
    mask = keep.known()
    data = keep.data[rows.start : rows.stop] if len(keep.data) == n else keep.data
    each = mask.dim() == 2 and len(mask) == n
    return Keep(data, mask[rows.start : rows.stop] if each else mask, keep.source)
