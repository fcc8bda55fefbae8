"""ELM: a language model over image codes, one token after another, and the masked model that its paper compares it to.

The sequence is a prefix (the class, or a caption and a start token) and the codes in raster order, or coarse to fine.
A code out of a large vocabulary is split into groups of a small one. The tokenizer may be any with codes: binary (BAE),
FlexTok, VQ. What the model reads and predicts of them in training is the view of its objective (nextok_mm.objectives):
the next code, masked codes, and others.

Shapes: B batch, N codes of a picture, G groups of a code, V vocabulary of a group, P tokens of the prefix, Q tokens of
a pass, D width, W width of text embeddings, R rows of a pass (B conditional ones, then, for guidance, B without).
Source: Liu et al., Elucidating the Design Space of Language Models for Image Generation (arXiv 2410.16257).
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm import contracts
from nextok_mm.config import ModelConfig
from nextok_mm.contracts import (
    Batch,
    Condition,
    Generator,
    Known,
    Loss,
    check_labels,
    check_numbers,
    check_tokens,
    checked_labels,
    dropped,
    labels_without,
    taken,
)
from nextok_mm.decoding.logits import draw
from nextok_mm.decoding.masked import Filling, fill
from nextok_mm.features.text import Text, TextEncoder, load_text
from nextok_mm.flow.guidance import Guidance, Schedule, guide_halves
from nextok_mm.heads.categorical import CategoricalHead, ChainedHead, CodeEmbedding, Head, group_vocabulary, join, split
from nextok_mm.heads.masked import MaskedHead
from nextok_mm.inference import inferring
from nextok_mm.objectives import ObjectiveField, View, parse
from nextok_mm.objectives.masked import shown
from nextok_mm.registry import register
from nextok_mm.rng import Rng
from nextok_mm.sequence import Backbone, BackboneConfig, KVCache, Mask, choose_backend, make_layout
from nextok_mm.sequence.masks import block_causal, two_way


class Sampling(Filling):
    """How to sample: the settings of `Filling`, of which `Drawing`'s are for every model, and those of guidance."""

    cfg: float = Field(default=1.0, ge=0, le=100, description="Weight of classifier-free guidance; 1 turns it off.")
    cfg_schedule: Schedule = Field(
        default="linear",
        description="How the weight of guidance grows from 1 to cfg over the positions of the sequence.",
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="Stop after this many codes, for a tokenizer with ordered tokens; null generates all of them.",
    )
    cache: bool = Field(
        default=True,
        description="Keep the keys and values of finished tokens; without, every step computes them again.",
    )


class ELMConfig(ModelConfig):
    """An ELM. `size` names a preset; B to 2B are the published ones (ImageNet 256, 16 x 16 codes of 20 bits).

    A model reads labels or captions: with `text`, `classes` is 0. A two-way objective goes with independent heads,
    and with no text.
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(grid=(4, 4), num_codes=64, classes=3, width=32, heads=2, depth=2),
        "fashion": dict(grid=(4, 4), num_codes=2**16, classes=10, width=192, heads=6, depth=8, dropout=0.1),
        "B": dict(width=768, heads=12, depth=12),
        "L": dict(width=1024, heads=16, depth=24),
        "XL": dict(width=1280, heads=20, depth=36),
        "XXL": dict(width=1536, heads=24, depth=48, num_codes=2**24),
        "2B": dict(width=1792, heads=28, depth=48, num_codes=2**24),
    }
    grid: tuple[int, ...] = Field(
        default=(16, 16),
        min_length=1,
        max_length=3,
        description="Sides of the grid of codes; one number for ordered tokens, which may be fewer than the "
        "tokenizer's.",
    )
    num_codes: int = Field(default=2**20, ge=2, le=2**62, description="Number of different codes of the tokenizer.")
    groups: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Number of groups into which a code is split; the vocabulary of a group is "
        "num_codes ** (1 / groups).",
    )
    classes: int = Field(
        default=1000,
        ge=0,
        description="Number of classes to generate; 0 makes the model unconditional, or a reader of captions.",
    )
    text: Text | None = Field(
        default=None, description="The text encoder whose embeddings of a caption are the condition; null reads labels."
    )
    width: int = Field(gt=0, le=1 << 16, description="Width of the transformer's hidden states.")
    heads: int = Field(
        gt=0, le=1 << 12, description="Number of attention heads; width / heads has to be an even number."
    )
    depth: int = Field(gt=0, le=1 << 10, description="Number of transformer blocks.")
    mlp_hidden: int | None = Field(
        default=None,
        gt=0,
        le=1 << 18,
        description="Width inside the MLPs; null takes 8/3 of the width, rounded up to a multiple of 256.",
    )
    objective: ObjectiveField = Field(
        default=parse("autoregressive"),
        description="What the model is trained to predict: a kind (autoregressive, masked, meap, mlm_u), or a kind and "
        "its fields.",
    )
    head: Literal["independent", "chained"] = Field(
        default="independent",
        description="How the groups of a code are predicted: each independent of the others (the paper), or "
        "chained in order.",
    )
    ada: bool = Field(
        default=False,
        description="Let the class also modulate the blocks (AdaLN), in addition to being the first token.",
    )
    rope: Literal["grid", "sequence"] = Field(
        default="grid", description="Rotary positions of the codes: their place in the grid, or in the sequence."
    )
    condition_dropout: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of training samples whose condition is left out, so that guidance has an "
        "unconditional prediction.",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Probability with which dropout zeroes an activation in training."
    )
    smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Label smoothing of the loss: the share of the target that is spread evenly over the vocabulary.",
    )
    sampling: Sampling = Field(
        default=Sampling(), description="The sampling settings that are used where a call gives no others."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ELMConfig":
        group_vocabulary(self.num_codes, self.groups)
        if self.text and self.classes:
            raise ValueError(
                f"classes: got {self.classes} beside text, accepted: 0, since a model reads either labels or captions"
            )
        if self.ada and self.text:
            raise ValueError("ada: got true beside text, accepted: false, since a caption has no class to modulate by")
        if self.objective.two_way and (self.head != "independent" or self.text):
            kind = self.objective.kind
            raise ValueError(f"objective: {kind} goes with head: independent, and it reads labels, not text")
        if self.objective.prompt >= math.prod(self.grid):
            prompt, places = self.objective.prompt, math.prod(self.grid)
            raise ValueError(f"objective.prompt: got {prompt}, accepted: below {places}, the number of codes")
        return self


@dataclass
class State(contracts.State):
    """Samples under way. codes_BNG: the groups of what is finished; known_BN: which codes are known, and of a two-way
    model what it has filled in; drawing: of each place, which rows draw its code; prefix, cond: of the R rows; calls:
    network calls so far."""

    codes_BNG: Tensor
    rng: Rng
    sampling: Sampling
    known_BN: Tensor
    drawing: list[list[bool]]
    prefix_RPD: Tensor
    cond_R1D: Tensor
    cache: KVCache | None
    calls: int = field(default=0)


@register("generator", "elm")
class ELM(Generator[ELMConfig, State]):
    """The model; see the module's text."""

    Config = ELMConfig
    Sampling = Sampling
    state = State

    def __init__(self, config: ELMConfig):
        super().__init__()
        self.config, width = config, config.width
        self.layout = make_layout("token", config.grid)
        self.vocabulary = group_vocabulary(config.num_codes, config.groups)
        self.prefix_tokens = 1 + (config.text.length if config.text else 0)
        self.embed = CodeEmbedding(self.vocabulary + config.objective.unseen, width, config.groups)  # the last: unseen
        self.labels = nn.Embedding(config.classes + 1, width)  # the last one means "no label", or is the start token
        self.read = _Reader(config.text, width) if config.text else None
        hidden = config.mlp_hidden or 256 * math.ceil(int(8 * width / 3) / 256)
        fields = dict(
            width=width,
            heads=config.heads,
            depth=config.depth,
            mlp_hidden=hidden,
            norm_eps=1e-5,
            bias=False,
            modulated=config.ada,
            dropout=config.dropout,
        )
        self.backbone = Backbone(BackboneConfig.parse(fields), self._positions())
        self.final = nn.Linear(width, 2 * width) if config.ada else None  # shift and scale of the last norm
        heads = {"chained": ChainedHead, "tied": partial(MaskedHead, embedding=self.embed)}
        head: Any = heads.get(config.objective.head or config.head, CategoricalHead)
        self.head: Head = head(width, self.vocabulary, config.groups)
        self.dropout = nn.Dropout(config.dropout)
        self._reset_parameters()

    def _positions(self) -> Tensor:
        """Where the prefix and the codes are: the class token nowhere (as published), a caption at the origin."""
        places = self.layout.positions
        if self.config.rope == "sequence":
            places = torch.arange(len(places), dtype=torch.float32)[:, None]
        prefix = torch.full((self.prefix_tokens, places.shape[1]), 0.0 if self.config.text else float("nan"))
        return torch.cat((prefix, places))

    def _reset_parameters(self) -> None:
        """N(0, 0.02) throughout; a modulation starts at zero, so that every block starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.labels.weight, std=0.02)
        if self.final is not None:
            for parameter in (self.backbone.ada_weight, self.final.weight, self.final.bias):
                nn.init.zeros_(parameter)

    @property
    def num_codes(self) -> int:
        """Different codes of a position."""
        return self.config.num_codes

    @property
    def takes(self) -> tuple[str, ...]:
        """Captions, classes, or neither."""
        return ("text",) if self.config.text else ("labels",) if self.config.classes else ()

    # Training

    def check(self, batch: Batch) -> None:
        """Codes of this model's vocabulary, and labels of its classes, or captions in the shape that it reads."""
        tokens = batch.get("tokens")
        if tokens is not None and len(self.layout.grid) == 1:  # of ordered ones there may be more
            tokens = tokens[:, : self.layout.tokens]
        check_tokens(tokens, [self.layout.tokens], self.num_codes)
        check_labels(batch, self.config.classes)
        text = self.config.text
        if text is None:
            return
        if "text" not in batch or batch["text"].shape[1:] != (text.length, text.width):
            got = tuple(batch["text"].shape[1:]) if "text" in batch else "no text"
            raise ValueError(
                f"data: got {got}, accepted: captions as ({text.length}, {text.width}) numbers, from a cache "
                f"(nextok cache --text {text.encoder})"
            )
        lengths, rows = batch.get("text_length"), len(batch["text"])
        if lengths is None or lengths.shape != (rows,):
            got = "none" if lengths is None else f"shape {tuple(lengths.shape)}"
            raise ValueError(f"text_length: got {got}, accepted: ({rows},), how many places of each caption count")
        check_numbers("text_length", lengths, text.length + 1, "places of text")

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Cross-entropy in nats a group. batch: tokens [B, N] codes, and labels [B], or text [B, P - 1, W] with
        text_length [B] (see nextok_mm.features.text)."""
        self.check(batch)
        view = self._view(batch, rng)
        states_BND = self.states(view, *self._trained_on(batch, rng))
        return self.head.loss(states_BND, self._split(view.target_BN), view.weight_BN, self.config.smoothing)

    def predict(self, batch: Batch, rng: Rng) -> Tensor:
        """The logits [B, N, G, V] that `loss` compares."""
        self.check(batch)
        view = self._view(batch, rng)
        return self.logits(view, *self._trained_on(batch, rng))

    def logits(self, view: View, prefix_BPD: Tensor, cond_B1D: Tensor) -> Tensor:
        """Logits [B, N, G, V] of every place of a view at once."""
        return self.head(self.states(view, prefix_BPD, cond_B1D), self._split(view.target_BN))

    def states(self, view: View, prefix_BPD: Tensor, cond_B1D: Tensor) -> Tensor:
        """The hidden states [B, N, D] that predict the places of a view."""
        read_BM = view.read_BN[:, : view.read_BN.shape[1] - view.ahead]
        seen_BMG = torch.where(read_BM[..., None] < 0, self.vocabulary, self._split(read_BM))
        x_BQD = torch.cat((prefix_BPD, self.embed(seen_BMG)), dim=1)
        mask = view.mask(self.prefix_tokens, read_BM.shape[1])
        return self._pass(self.dropout(x_BQD), mask, cond_B1D)[:, self.prefix_tokens - view.ahead :]

    def _mask(self, positions: int) -> Mask:
        """The prefix is one entity, every code but the last of `positions` one after it."""
        return block_causal((self.prefix_tokens, *[1] * (positions - 1)))

    def _pass(
        self, x_RQD: Tensor, mask: Mask, cond_R1D: Tensor, first: int = 0, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states [R, Q, D] of Q tokens that stand from `first` on."""
        tokens = slice(first, first + x_RQD.shape[1])
        cond = cond_R1D if self.config.ada else None
        hidden = self.backbone(x_RQD, mask, (x_RQD.shape[1],), cond, tokens=tokens, cache=cache)
        if self.final is None:
            return hidden
        shift, scale = self.final(nn.functional.silu(cond_R1D)).chunk(2, dim=-1)
        return hidden * (1 + scale) + shift

    def _view(self, batch: Batch, rng: Rng) -> View:
        """What the objective makes of a batch. Where codes go from coarse to fine, more than the N of this model may be
        there: it is one of the first N."""
        return self.config.objective.view(batch["tokens"][:, : self.layout.tokens], rng)

    def _split(self, codes_BN: Tensor) -> Tensor:
        """[B, N] codes -> their groups [B, N, G]."""
        return split(codes_BN, self.vocabulary, self.config.groups)

    def _trained_on(self, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor]:
        """Prefix and condition of a training batch, some rows without."""
        dropped_B = dropped(rng, self.config.condition_dropout, batch["tokens"].device)
        if self.read is not None:
            length_B = torch.where(dropped_B, 0, batch["text_length"])
            return self._prefix(torch.zeros_like(length_B), batch["text"], length_B)
        return self._prefix(labels_without(batch, self.config.classes, dropped_B))

    def _prefix(
        self, labels_B: Tensor, text_BPW: Tensor | None = None, length_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The prefix [B, P, D], and the class's vector alone [B, 1, D]."""
        start_B1D = self.labels(labels_B)[:, None]
        if self.read is None:
            return start_B1D, start_B1D
        assert text_BPW is not None and length_B is not None
        return torch.cat((self.read(text_BPW, length_B), start_B1D), dim=1), start_B1D

    # Sampling

    @property
    def backend(self) -> str:
        """The attention backend of sampling on this device."""
        return choose_backend(self.backbone.backend, two_way(1), self.device)

    @inferring
    def start(self, condition: Condition, rng: Rng, sampling: Any = None, known: Known | None = None) -> State:
        """Begin len(rng) samples; condition: labels [n], captions, or None; `known` holds known codes, raster order."""
        settings: Sampling = sampling or self.config.sampling
        rows, places = len(rng), self.layout.tokens
        two_way, stop = self.config.objective.two_way, self._stop(settings)
        prefix, cond = self._conditions(condition, rows, guided=settings.cfg != 1.0)
        cached, room = settings.cache and not two_way, self.prefix_tokens + places - 1
        cache = self.backbone.cache(len(prefix), room, like=prefix) if cached else None
        codes, known_BN = self._known(known, rows)
        return State(
            data=join(codes, self.vocabulary),
            finished=0,
            total=settings.passes if two_way else stop,
            codes_BNG=codes,
            rng=rng,
            sampling=settings,
            known_BN=known_BN,
            drawing=[[True] * rows] * places if known is None else (~known_BN).T.tolist(),
            prefix_RPD=prefix,
            cond_R1D=cond,
            cache=cache,
        )

    def step(self, state: State) -> State:
        """One more code of every sample; of a two-way model, one more pass."""
        return self._fill(state) if self.config.objective.two_way else self._next(state)

    def _next(self, state: State) -> State:
        """Draw the next code, where it isn't known in every row."""
        at = state.finished
        if any(state.drawing[at]):
            known_B1 = state.known_BN[:, at, None]
            rng = state.rng.only(state.drawing[at])  # a row that knows its code draws none, as it would alone
            hidden_R1D = self._take_in(state)
            chosen_B1G = self.head.choose(
                hidden_R1D, lambda logits: draw(self._guided(state, logits), state.sampling, rng)
            )
            kept = state.codes_BNG[:, at : at + 1]
            state.codes_BNG[:, at : at + 1] = torch.where(known_B1[..., None], kept, chosen_B1G)
        state.finished += 1
        state.data = join(state.codes_BNG, self.vocabulary)
        state.data[:, state.finished :] = 0
        return state

    def _take_in(self, state: State) -> Tensor:
        """The hidden state [R, 1, D] that predicts the next code: one network call on all that isn't cached yet."""
        state.calls += 1
        cached = 0 if state.cache is None else state.cache.length
        end = self.prefix_tokens + state.finished
        new_BG = state.codes_BNG[:, max(cached - self.prefix_tokens, 0) : state.finished]
        rows = len(state.prefix_RPD) // len(new_BG)
        x = self.embed(new_BG).repeat(rows, 1, 1)
        x = torch.cat((state.prefix_RPD, x), dim=1) if cached == 0 else x
        mask = two_way(end).last(1) if end - cached == 1 else self._mask(state.finished + 1).last(end - cached)
        hidden = self._pass(x, mask, state.cond_R1D, cached, state.cache)
        if state.cache is not None:
            state.cache.commit(end - cached)
        return hidden[:, -1:]

    def _guided(self, state: State, logits_RNGV: Tensor) -> Tensor:
        """The logits of the B samples, guided with this step's weight."""
        s = state.sampling
        logits = logits_RNGV.float()
        if s.cfg != 1.0:
            # The published schedules count the step under way as done, all but the square root.
            done = state.finished + (s.cfg_schedule != "square_root")
            total = state.total if self.config.objective.two_way else self.layout.entities
            weight = Guidance(weight=s.cfg, schedule=s.cfg_schedule).grown(done / total)
            logits = guide_halves(logits, weight)
        return logits

    def _fill(self, state: State) -> State:
        """Guess every masked code; some of the guesses stay."""
        guided = len(state.prefix_RPD) // len(state.codes_BNG)
        view = shown(join(state.codes_BNG, self.vocabulary), ~state.known_BN).repeated(guided)
        state.calls += 1
        logits_BNGV = self._guided(state, self.logits(view, state.prefix_RPD, state.cond_R1D))
        under_way = state.sampling, state.finished, state.total, state.rng
        state.codes_BNG, state.known_BN = fill(logits_BNGV, state.codes_BNG, state.known_BN, *under_way)
        state.finished += 1
        state.data = join(state.codes_BNG, self.vocabulary) * state.known_BN
        return state

    def _stop(self, settings: Sampling) -> int:
        """How many codes will be there; ValueError where a part of them makes no picture."""
        places = self.layout.tokens
        stop = settings.tokens or places
        ordered = len(self.layout.grid) == 1 and not self.config.objective.two_way
        if stop > places or (stop < places and not ordered):
            accepted = f"1 to {places}" if ordered else f"{places}, all of them"
            raise ValueError(f"tokens: got {stop}, accepted: {accepted}")
        return stop

    def _conditions(self, condition: Condition, rows: int, guided: bool) -> tuple[Tensor, Tensor]:
        """Prefix [R, P, D] and class vectors [R, 1, D]: of the samples, and again without where guided."""
        classes = self.config.classes
        if self.config.text is None:
            labels = checked_labels(condition, rows, classes) + [classes] * (rows if guided else 0)
            return self._prefix(torch.tensor(labels, device=self.device))
        given = taken(condition, "text").get("text", [""] * rows)
        if isinstance(given, str) or len(given) != rows:
            raise ValueError(f"text: got {given!r:.80}, accepted: a list of {rows} captions")
        captions = [*given, *([""] * rows if guided else [])]
        text, length = self._encoder().encode(captions, self.config.text.length)
        text, length = text.to(self.device), length.to(self.device)
        return self._prefix(torch.zeros_like(length), text, length)

    def _encoder(self) -> TextEncoder:
        assert self.config.text is not None
        return load_text(self.config.text.encoder)

    def _known(self, known: Known | None, rows: int) -> tuple[Tensor, Tensor]:
        """The kept codes [B, N, G], zeros elsewhere, and where they count [B, N]. ValueError for other shapes."""
        places, groups = self.layout.tokens, self.config.groups
        if known is None:
            codes = torch.zeros(rows, places, groups, dtype=torch.long, device=self.device)
            return codes, torch.zeros(rows, places, dtype=torch.bool, device=self.device)
        codes, mask = known.expanded("codes", rows, places, num_codes=self.num_codes)
        return split(codes.to(self.device), self.vocabulary, groups), mask.to(self.device).clone()

    def example(self, n: int, rng: Rng) -> Batch:
        """Random codes, and labels or text embeddings."""
        batch = {"tokens": rng.integers(self.num_codes, self.layout.tokens)}
        text = self.config.text
        if text is not None:
            return batch | {
                "text": rng.normal(text.length, text.width),
                "text_length": 1 + rng.integers(text.length),
            }
        return batch | {"labels": rng.integers(max(self.config.classes, 1))}


class _Reader(nn.Module):
    """Text embeddings to prefix tokens; a learned vector stands where there is no text: every row is equally long."""

    def __init__(self, text: Text, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(text.width)
        self.into = nn.Linear(text.width, width)
        self.blank = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, text_BPW: Tensor, length_B: Tensor) -> Tensor:
        """[B, P - 1, W] and how many count [B] -> [B, P - 1, D]."""
        there_BP = torch.arange(text_BPW.shape[1], device=text_BPW.device) < length_B[:, None]
        read = self.into(self.norm(text_BPW.to(self.into.weight.dtype)))
        return torch.where(there_BP[..., None], read, self.blank.to(read.dtype))
