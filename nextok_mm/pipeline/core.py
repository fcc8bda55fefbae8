"""What `load` returns: a tokenizer and a generator, from labels to pictures in one call.

    pipeline = nextok_mm.load("xar-fashion")
    pipeline.generate(labels=[7], n=16, seed=0).save("out.png")

Sample i of a run is drawn from the seed (run seed, i) alone: the same picture in any batch, on any device.
"""

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from .. import registry
from ..checkpoint import Card, fingerprint, from_pretrained, read_card, resolve, tokenizer_folder
from ..contracts import ClipTokenizer, Generator, Keep, OrderedTokenizer, State, Tokenizer, Tokens, check_speaks
from ..decoding import decode
from ..decoding.frames import Frames
from ..inference import inference
from ..media import clips as video
from ..media import pictures as media
from ..media.pictures import Fit
from ..rng import Rng, mix
from . import conditions, inputs, ladder
from .inputs import Images

BATCH = 64
MAX_ROWS = 1_000_000
"""Samples of one call: more are made in several, with seeds of their own."""
MAX_SHEET = 1 << 28
"""Pixels of the picture that holds all samples, in memory three bytes each and more."""
Progress = Callable[[int, int], None]
MEANT = {"label": "labels", "class_labels": "labels", "classes": "labels", "prompt": "text", "caption": "text"}
MEANT |= {"captions": "text", "num_images": "n", "count": "n", "generator": "seed", "batch_size": "batch"}
"""What other libraries call arguments of ours."""


@dataclass
class Result:
    """Pictures or clips, and how they came about.

    images: [n, C, H, W] in [0, 1] on the CPU, of clips [n, C, T, H, W] (those T frames that are final); labels, text:
    of each, [n], or None; calls: network calls of a batch; seconds by part; backend: the attention backend that ran;
    done: entities of `entities` (fewer in a streamed partial result).
    """

    images: Tensor
    name: str
    seed: int
    labels: list[int] | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    backend: str = ""
    done: int = 0
    entities: int = 0
    text: list[str] | None = None

    def settings(self) -> dict[str, Any]:
        """What a PNG keeps: enough to make it again."""
        own = {"model": self.name, "seed": self.seed, "n": len(self.images), "labels": self.labels}
        own |= {"sampling": self.sampling, "attention": self.backend}
        own |= {} if self.text is None else {"text": self.text}
        return {f"nextok.{key}": value for key, value in own.items()}

    @property
    def moving(self) -> bool:
        """Clips rather than pictures."""
        return self.images.dim() == 5

    def pil(self) -> list[Image.Image]:
        """Each picture by itself, a clip as a row of its frames."""
        if self.moving:
            return [video.strip(clip[None]) for clip in self.images]
        return [media.to_pil(image) for image in self.images]

    def grid(self, columns: int | None = None, zoom: int | None = None) -> Image.Image:
        """All of them in one picture, clips as rows of their frames."""
        columns, zoom = inputs.sides(columns, zoom)
        return video.strip(self.images, zoom) if self.moving else media.grid(self.images, columns, zoom)

    def save(
        self,
        path: str | Path,
        force: bool = False,
        columns: int | None = None,
        zoom: int | None = None,
        fps: float = video.FPS,
    ) -> Path:
        """Write pictures as a PNG, clips as .mp4, .gif, .webp (at `fps` frames a second) or .png, with the settings.

        An existing file is kept unless `force`.
        """
        columns, zoom = inputs.sides(columns, zoom)
        return video.save(self.images, path, self.settings(), force, columns, zoom, fps)

    def _repr_png_(self) -> bytes:
        """Notebooks show the grid."""
        buffer = io.BytesIO()
        self.grid().save(buffer, "PNG")
        return buffer.getvalue()


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

    def labels(self, given: Any, n: int) -> Tensor | None:
        """Class indices [n]; see conditions.labels."""
        return conditions.labels(self.generator, self.card.labels or (), given, n)

    def _condition(self, labels: Any, text: Any, n: int) -> Tensor | list[str] | None:
        """Labels or captions of n samples, whichever this model reads; ValueError for the other."""
        takes = None if self.generator is None else self.generator.conditioned_on
        if takes == "text" and labels is not None:
            raise ValueError(f"labels: got {labels!r}, accepted: text, {self.card.name} reads captions")
        if takes != "text" and text is not None:
            accepted = "labels" if takes == "labels" else "neither text nor labels"
            raise ValueError(f"text: got {text!r}, accepted: {accepted}, {self.card.name} reads no captions")
        return conditions.captions(text, n) if takes == "text" else self.labels(labels, n)

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
        return _joined(parts)

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
        chosen = self._condition(labels, text, n)
        mine = None if chosen is None else chosen[rows.start : rows.stop]
        started = time.perf_counter()
        begun_state = generator.start(mine, Rng([mix(seed, row) for row in rows]), settings, _rows_of(keep, rows, n))
        seconds = {"generate": 0.0, "decode": 0.0}
        frames = Frames(tokenizer, generator) if isinstance(tokenizer, ClipTokenizer) else None
        images = torch.zeros(len(rows), 0, 0, 0)
        for state in decode(generator, begun_state):
            begun = time.perf_counter()
            seconds["generate"] += begun - started
            if state.done or (decode_all and _worth_showing(tokenizer, state.entity)):
                images = self._pictures(tokenizer, generator, state) if frames is None else frames.take(state)
            seconds["decode"] += time.perf_counter() - begun
            yield Result(
                images,
                self.card.name,
                seed,
                mine.tolist() if isinstance(mine, Tensor) else None,
                settings.model_dump(mode="json"),
                getattr(state, "calls", 0),
                dict(seconds),
                generator.backend,
                state.entity,
                state.entities,
                mine if isinstance(mine, list) else None,
            )
            started = time.perf_counter()  # what the caller does with a partial result is not ours

    def tokenize(self, images: Images, fit: Fit = "exact") -> Tokens:
        """Pictures or clips in any form that `inputs.images` takes, such as [B, C, H, W] in [0, 1], to tokens."""
        tokenizer = self._tokenizer()
        with inference(tokenizer):
            return tokenizer.encode(inputs.images(images, tokenizer, fit).to(tokenizer.device))

    def detokenize(self, tokens: Tokens | Tensor | Any) -> Tensor:
        """Tokens (or latents, or codes: a tensor, an array, a list) to images [B, C, H, W] in [0, 1].

        ValueError in one line for tokens of another tokenizer, or that don't fit its grid, channels or codes.
        """
        tokenizer = self._tokenizer()
        own = fingerprint(tokenizer)
        if isinstance(tokens, Tokens) and tokens.source and tokens.source != own:
            raise ValueError(f"tokens: made by tokenizer {tokens.source}, accepted: those of {self.card.name} ({own})")
        with inference(tokenizer):
            return tokenizer.decode(inputs.tokens(tokens, tokenizer))

    @overload
    def reconstruct(self, images: Images, fit: Fit = "exact") -> Tensor: ...
    @overload
    def reconstruct(
        self,
        images: Images,
        fit: Fit = "exact",
        *,
        tokens: Sequence[int] | int,
        seed: int = 0,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> ladder.Ladder: ...
    def reconstruct(
        self,
        images: Images,
        fit: Fit = "exact",
        *,
        tokens: Sequence[int] | int | None = None,
        seed: int = 0,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Tensor | ladder.Ladder:
        """Pictures there and back: a tensor [B, C, H, W] in [0, 1], or any other form that `inputs.images` takes.

        tokens: how many leading tokens to use, each number in turn, which gives a Ladder; seed: of the noise that all
        of a picture's start from; progress(done, all) counts solver steps; sampling: settings that replace the
        tokenizer's own. ValueError in one line for a number or a setting that isn't accepted, and for tokens without
        an order.
        """
        if tokens is None and sampling:
            raise ValueError(f"{next(iter(sampling))}: got a setting, accepted: beside tokens=[...] (--tokens)")
        batch, seed = inputs.whole("batch", batch, 1), inputs.whole("seed", seed)
        tensor = inputs.images(images, self._tokenizer(), fit)
        if tokens is None:
            return self.detokenize(self.tokenize(tensor)).cpu()
        tokenizer = ladder.ordered(self._tokenizer(), self.card.name)
        numbers = ladder.check(conditions.each(tokens), math.prod(tokenizer.grid(tensor.shape[-2:])))
        settings = settings_of(tokenizer, sampling)
        found = ladder.climb(tokenizer, tensor, numbers, seed, settings, batch, progress)
        return ladder.Ladder(tensor.cpu(), found, numbers, self.card.name, seed, settings.model_dump(mode="json"))

    def read(self, path: str | Path, fit: Fit = "exact") -> Tensor:
        """A picture file in the tokenizer's channels and size, [1, C, H, W], or the first frames of a video file.

        fit: of another aspect, `exact` refuses it, `crop` takes its middle, `pad` keeps it all between white borders.
        """
        return inputs.read(path, self._tokenizer(), fit)

    def fitted(self, path: str | Path, fit: Fit) -> str:
        """What `read` does to a file of another aspect, in words; empty where its aspect is the tokenizer's."""
        tokenizer: Any = self._tokenizer()
        rows, columns = tokenizer.size[1:] if self.moving else tokenizer.config.image_size
        own = video.size(path) if self.moving else media.size(path)
        return media.changed(own, (columns, rows), fit)

    @property
    def moving(self) -> bool:
        """Whether it makes clips rather than pictures."""
        return isinstance(self.tokenizer, ClipTokenizer)

    def check_out(self, path: str | Path, force: bool, fps: float = video.FPS) -> None:
        """What saving its results under this name would refuse, refused before the work is done."""
        if self.moving:
            video.check_out(path, force, fps)
        else:
            media.check_png(path, force)

    def check_sheet(self, n: int, columns: int | None = None) -> None:
        """ValueError where n samples side by side make too large a picture, said before the work is done."""
        size = None if self.tokenizer is None else self.tokenizer.size
        if size is None:
            return
        across = inputs.whole("n", n, 1, MAX_ROWS) if columns is None else inputs.whole("columns", columns, 1, MAX_ROWS)
        across = math.ceil(math.sqrt(n)) if columns is None else across
        height, width = (side * max(1, math.ceil(96 / min(size[-2:]))) for side in size[-2:])
        down = math.ceil(n / across) * height
        if across * width * down > MAX_SHEET:
            raise ValueError(
                f"n, columns: {n} samples would make a picture of {across * width} x {down} pixels, accepted: "
                f"{MAX_SHEET} in all; several calls with seeds of their own make several pictures"
            )

    def _pictures(self, tokenizer: Tokenizer, generator: Generator, state: State) -> Tensor:
        data = state.data
        if isinstance(tokenizer, OrderedTokenizer) and state.entity < generator.layout.entities:
            # An unfinished token is none, not code 0.
            data = data[:, : generator.layout.span(state.entity - 1)[1]]
        with inference(tokenizer):
            return tokenizer.decode(Tokens(data, tuple(generator.layout.grid))).cpu()

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


def of_clips(name: str | Path) -> bool:
    """Whether a checkpoint is a tokenizer of clips, or a generator that speaks through one; loads no weights."""
    folder = resolve(name)
    card = read_card(folder)
    if card.role == "generator" and (place := tokenizer_folder(card, folder)) is not None:
        card = read_card(place)
    return card.role == "tokenizer" and issubclass(registry.get("tokenizer", card.kind), ClipTokenizer)


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


def _worth_showing(tokenizer: Tokenizer, entity: int) -> bool:
    """Whether a partial picture is decoded after this entity: always, of ordered tokens at powers of two."""
    return not isinstance(tokenizer, OrderedTokenizer) or entity & (entity - 1) == 0


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
    return Keep(data, mask[rows.start : rows.stop] if each else mask)


def _joined(parts: list[Result]) -> Result:
    """Batches as one result."""
    first = parts[0]
    return Result(
        torch.cat([part.images for part in parts]),
        first.name,
        first.seed,
        None if first.labels is None else [label for part in parts for label in part.labels or []],
        first.sampling,
        first.calls,
        {name: sum(part.seconds[name] for part in parts) for name in first.seconds},
        first.backend,
        first.done,
        first.entities,
        None if first.text is None else [caption for part in parts for caption in part.text or []],
    )
