"""Next-block prediction: the codes of a clip in equal blocks, each predicted in one step from the blocks before it.

A block is a cell of the T x H x W grid: a token, a part of a row, a row, rows, a frame, frames, a cube. Every token of
a block predicts its counterpart (same place in the block) of the next one; attention is two-way within a block and
causal between blocks. Blocks of one token are plain next-token prediction. There are two ways to begin:

    hybrid  [condition] begin c0 c1 .. cK-2 | cK-1 filler .. filler | block 1 | block 2 ..
            one token after another up to the end of the first block; then its last code and K - 1 learned fillers
            make the first whole block of input, which predicts block 1. E - 1 + K steps.
    given   [condition] block 0 | block 1 ..     the first blocks (frames) are known: video prediction.

The vocabulary is [begin and fillers (hybrid: K, given: none) | condition ids | codes].

Shapes: B batch, N codes of a clip, E blocks, K codes of a block, P condition tokens, L tokens of the input, D width,
V vocabulary, R rows of a pass (B conditional ones, then B unconditional ones where guidance needs them).
Source: Ren et al., Next Block Prediction: Video Generation via Semi-Autoregressive Modeling (arXiv 2502.07737).
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
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
    check_tokens,
    checked_labels,
    dropped,
    taken,
)
from nextok_mm.decoding.logits import Drawing, draw
from nextok_mm.flow.guidance import Guidance, Schedule, guide_halves
from nextok_mm.heads.categorical import CategoricalHead, CodeEmbedding
from nextok_mm.inference import inferring
from nextok_mm.registry import register
from nextok_mm.rng import Rng
from nextok_mm.sequence import Backbone, BackboneConfig, KVCache, Mask, choose_backend, make_layout
from nextok_mm.sequence.masks import block_causal, continued


class Sampling(Drawing):
    """How to sample: the settings of `Drawing`, and those of guidance."""

    cfg: float = Field(default=1.0, ge=0, le=100, description="Weight of classifier-free guidance; 1 turns it off.")
    cfg_schedule: Schedule = Field(
        default="constant", description="How the weight of guidance grows from 1 to cfg over the steps of a generation."
    )
    cache: bool = Field(
        default=True,
        description="Keep the keys and values of finished tokens; without, every step computes them again.",
    )
    special: bool = Field(
        default=False,
        description="Let begin, filler and condition ids be drawn too, as the official sampler does; they come "
        "out negative.",
    )


class NextBlockConfig(ModelConfig):
    """A next-block model. `size` names a preset; base, XL and 3B are the published frame predictors (K600)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            grid=(3, 4, 4), num_codes=100, block=(1, 1, 4), classes=3, width=32, heads=2, depth=2, condition_dropout=0.5
        ),
        "moving": dict(grid=(5, 8, 8), num_codes=2560, block=(1, 1, 8), classes=55, width=160, heads=4, depth=4),
        "base": dict(start="given", positions=5120, width=1536, heads=16, depth=24),
        "XL": dict(start="given", positions=5120, width=2048, heads=32, depth=24),
        "3B": dict(start="given", positions=5120, width=3072, heads=32, depth=32),
    }
    grid: tuple[int, int, int] = Field(
        default=(5, 16, 16), description="Frames, rows and columns of the grid of codes of a clip."
    )
    num_codes: int = Field(64_000, gt=1, description="Number of different codes of the tokenizer.")
    block: tuple[int, int, int] = Field(
        default=(1, 1, 16),
        description="Frames, rows and columns of codes that are predicted together; they have to divide the grid.",
    )
    start: Literal["hybrid", "given"] = Field(
        default="hybrid",
        description="How a clip begins: hybrid generates the first block token by token, given expects known "
        "first frames.",
    )
    classes: int = Field(0, ge=0, description="Number of condition ids; 0 makes the model unconditional.")
    condition: int = Field(
        1, ge=1, le=1 << 12, description="Number of tokens of a condition, all of them in front of the clip."
    )
    pad: int | None = Field(
        None,
        ge=0,
        description="The id that fills up a condition with fewer tokens, which no query sees; null knows none.",
    )
    positions: int | None = Field(
        None,
        gt=0,
        description="Number of places in the learned table of positions; null takes as many as the longest input has.",
    )
    width: int = Field(gt=0, le=1 << 16, description="Width of the transformer's hidden states.")
    heads: int = Field(
        gt=0, le=1 << 12, description="Number of attention heads; width / heads has to be an even number."
    )
    depth: int = Field(gt=0, le=1 << 10, description="Number of transformer blocks.")
    condition_dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of training samples whose condition is left out, so that guidance has an "
        "unconditional prediction.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Probability with which dropout zeroes an activation in training."
    )
    sampling: Sampling = Field(
        default=Sampling(), description="The sampling settings that are used where a call gives no others."
    )

    @property
    def clip_tokens(self) -> int:
        """N, tokens of a clip."""
        return math.prod(self.grid)

    @property
    def block_tokens(self) -> int:
        """K, tokens of a block."""
        return math.prod(self.block)

    @property
    def prefix(self) -> int:
        """P, condition tokens in front of everything."""
        return self.condition if self.classes else 0

    @property
    def length(self) -> int:
        """L, tokens of the longest input."""
        total, block = self.clip_tokens, self.block_tokens
        return self.prefix + total - (0 if self.start == "hybrid" else block)

    @property
    def shift(self) -> int:
        """What is added to a code: the number of special and condition ids."""
        return (self.block_tokens if self.start == "hybrid" else 0) + self.classes

    @model_validator(mode="after")
    def _consistent(self) -> "NextBlockConfig":
        if any(side < 1 or whole % side for side, whole in zip(self.block, self.grid)):
            raise ValueError(f"block: got {self.block}, accepted: divisors of the grid {self.grid} on each axis")
        if self.start == "given" and self.clip_tokens == self.block_tokens:
            raise ValueError("start: got 'given', which needs two blocks or more; a clip of one block starts 'hybrid'")
        if self.pad is not None and not (self.condition > 1 and self.pad < self.classes):
            raise ValueError(
                f"pad: got {self.pad}, accepted: below classes {self.classes}, where condition is two or more"
            )
        if self.positions is not None and self.positions < self.length:
            raise ValueError(f"positions: got {self.positions}, accepted: at least {self.length}, the input's length")
        return self


@dataclass
class State(contracts.State):
    """Clips under way. ids_BM: the input as far as it is known (`NextBlock.places` says where a code lies in it), one
    block longer than is ever fed; condition: embedded, None without one; calls: network calls so far.
    """

    ids_BM: Tensor
    condition_RPD: Tensor | None
    padding_RL: Tensor | None
    rng: Rng
    sampling: Sampling
    known: tuple[Tensor, Tensor] | None
    cache: KVCache | None
    calls: int = field(default=0)


@register("generator", "next_block")
class NextBlock(Generator[NextBlockConfig, State]):
    """The model; see the module's text."""

    Config = NextBlockConfig
    Sampling = Sampling
    state = State
    places: Tensor

    def __init__(self, config: NextBlockConfig):
        super().__init__()
        self.config = config
        self.layout = make_layout("cell", config.grid, config.block)
        self.block = config.block_tokens
        self.sizes = self._parts()
        self.offsets = (0, *accumulate(self.sizes))
        ids = config.shift + config.num_codes
        self.embed = CodeEmbedding(ids, config.width)
        self.none = nn.Parameter(torch.empty(config.prefix, config.width)) if config.prefix else None
        fields = dict(
            width=config.width,
            heads=config.heads,
            depth=config.depth,
            mlp="gelu",
            mlp_hidden=4 * config.width,
            norm="layer",
            norm_bias=True,
            norm_eps=1e-5,
            dropout=config.dropout,
            positions=config.positions or config.length,
            rope=False,
        )
        self.backbone = Backbone(BackboneConfig.parse(fields), self.layout.positions)
        self.head = CategoricalHead(config.width, ids)
        places = torch.tensor([self._place(code) for code in range(self.layout.tokens)])
        self.register_buffer("places", places, persistent=False)
        if self.none is not None:
            nn.init.normal_(self.none, std=config.width**-0.5)

    @property
    def num_codes(self) -> int:
        """How many different codes its tokens have."""
        return self.config.num_codes

    @property
    def takes(self) -> tuple[str, ...]:
        """Class labels; a condition of several tokens has no names to ask for, its ids go to `start` itself."""
        return ("labels",) if self.config.prefix == 1 else ()

    @property
    def given(self) -> int:
        """The first block, of a `given` start."""
        return int(self.config.start == "given")

    # The input

    def _parts(self) -> tuple[int, ...]:
        """How the input falls into parts that see themselves and what came before: their lengths, L in all."""
        condition = [self.config.prefix] if self.config.prefix else []
        first = [1] * self.block if self.config.start == "hybrid" else []
        return (*condition, *first, *[self.block] * (self.layout.entities - 1))

    def _place(self, code: int) -> int:
        """Where a code of the sequence lies in the input. All that lies before it predicts it."""
        if self.config.start == "given":
            return self.config.prefix + code
        return self.config.prefix + 1 + code + (self.block - 1 if code >= self.block else 0)  # behind the fillers

    def ids(self, codes_BN: Tensor, condition_BP: Tensor | None) -> Tensor:
        """Codes in the layout's order and condition ids -> the input's ids [B, M], with the last block at its end."""
        config = self.config
        ids = codes_BN.new_zeros(len(codes_BN), int(config.length + self.block))
        if config.start == "hybrid":
            fillers = torch.arange(1, self.block, device=ids.device)
            first = config.prefix + 1 + self.block
            ids[:, first : first + self.block - 1] = fillers
        if condition_BP is not None:
            ids[:, : config.prefix] = condition_BP + config.shift - config.classes
        ids[:, self.places] = codes_BN + config.shift
        return ids

    def _condition(self, condition: Condition, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """Condition ids [B, P] (0 where there is none) and which rows have none [B]; ValueError for wrong ones."""
        config, given = self.config, taken(condition, "labels").get("labels")
        if config.prefix > 1 and given is not None:
            if given.shape != (rows, config.prefix) or not 0 <= int(given.min()) <= int(given.max()) < config.classes:
                raise ValueError(
                    f"labels: got shape {tuple(given.shape)}, accepted: ({rows}, {config.prefix}) condition ids of "
                    f"0 to {config.classes - 1}"
                )
            if bool((given == config.pad).all(1).any()) if config.pad is not None else False:
                raise ValueError(f"labels: got a condition of {config.pad} (pad) alone, accepted: with other ids in it")
            return given.to(self.device), torch.zeros(rows, dtype=torch.bool, device=self.device)
        labels = torch.tensor(checked_labels(condition, rows, config.classes), device=self.device)
        without = labels == config.classes
        ids = labels.where(~without, 0)[:, None].expand(-1, config.prefix)
        return (ids, without) if config.prefix else (None, None)

    def _padding(self, ids_BP: Tensor | None) -> Tensor | None:
        """Which tokens of the input are padding of a condition [B, L]; None where a model has none."""
        if ids_BP is None or self.config.pad is None:
            return None
        padding = ids_BP == self.config.pad
        return torch.cat((padding, padding.new_zeros(len(ids_BP), self.config.length - ids_BP.shape[1])), dim=1)

    def _embed_condition(self, ids_BP: Tensor, without_B: Tensor) -> Tensor:
        """[B, P, D]; the learned "none" for rows without one."""
        assert self.none is not None
        ids_BP = ids_BP + self.config.shift - self.config.classes
        return torch.where(without_B[:, None, None], self.none, self.embed(ids_BP[..., None]))

    # Training

    def check(self, batch: Batch) -> None:
        """Codes of this model's vocabulary; labels of its classes, or the condition ids of each row."""
        check_tokens(batch.get("tokens"), [self.layout.tokens], self.num_codes)
        check_labels(batch, self.config.classes, *([self.config.prefix] if self.config.prefix > 1 else []))

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Cross-entropy over all codes that have a prediction. batch: tokens [B, N] raster codes, labels [B]."""
        states_BND = self._trained_on(batch, rng)
        target_BN = self.layout.to_sequence(batch["tokens"])[:, -states_BND.shape[1] :] + self.config.shift
        return self.head.loss(states_BND, target_BN[..., None])

    def predict(self, batch: Batch, rng: Rng) -> Tensor:
        """Logits [B, N, V] of every code in the layout's order; a `given` start has none for its first block."""
        return self.head(self._trained_on(batch, rng))[:, :, 0]

    def _trained_on(self, batch: Batch, rng: Rng) -> Tensor:
        """The hidden states of a training batch, some rows of it without their condition; see `states`."""
        self.check(batch)
        codes_BN = self.layout.to_sequence(batch["tokens"])
        labels = batch.get("labels") if self.config.prefix else None
        if labels is not None and self.config.prefix == 1:
            labels = labels[:, None]
        without_B = dropped(rng, self.config.condition_dropout if labels is not None else 1.0, codes_BN.device)
        return self.states(codes_BN, labels, without_B)

    def logits(self, codes_BN: Tensor, condition_BP: Tensor | None, without_B: Tensor) -> Tensor:
        """Teacher forcing: codes in the layout's order, and conditions but for the rows without -> logits [B, N, V]."""
        return self.head(self.states(codes_BN, condition_BP, without_B))[:, :, 0]

    def states(self, codes_BN: Tensor, condition_BP: Tensor | None, without_B: Tensor) -> Tensor:
        """As `logits`, the hidden states [B, N, D] that predict the codes."""
        prefix = self.config.prefix
        ids = self.ids(codes_BN, condition_BP)[:, : self.config.length]
        x_BLD = self.embed(ids[:, prefix:, None])
        if prefix:
            given = torch.zeros_like(ids[:, :prefix]) if condition_BP is None else condition_BP
            x_BLD = torch.cat((self._embed_condition(given, without_B), x_BLD), dim=1)
        mask, places = block_causal(self.sizes), slice(0, self.config.length)
        y_BLD = self.backbone(x_BLD, mask, tokens=places, padding_BK=self._padding(condition_BP))
        return y_BLD[:, prefix:]

    # Sampling

    @property
    def backend(self) -> str:
        """The attention backend of sampling on this device: one block against all before it."""
        return choose_backend(self.backbone.backend, continued(self.block, [self.block]), self.device)

    @inferring
    def start(self, condition: Condition, rng: Rng, sampling: Any = None, known: Known | None = None) -> State:
        """Begin len(rng) clips; condition: labels [n], condition ids [n, P], or None; `known` holds known raster codes.

        ValueError in one line for a wrong condition, or a `given` start without its first block.
        """
        settings: Sampling = sampling or self.config.sampling
        rows, layout = len(rng), self.layout
        condition_BP, without_B = self._condition(condition, rows)
        held = self._known(known, rows)
        if self.config.start == "given" and (held is None or not bool(held[1][:, : self.block].all())):
            raise ValueError(
                f"known: got none of the first block {self.config.block}, accepted: its codes; {self.kind} with start "
                "'given' goes on from known frames"
            )
        embedded, padding, guided = None, None, settings.cfg != 1.0 and condition is not None
        if condition_BP is not None and without_B is not None:
            embedded = self._embed_condition(condition_BP, without_B)
            padding = None if condition is None else self._padding(condition_BP)  # no condition has no padding
            if guided:
                padding = None if padding is None else padding.repeat(2, 1)
                embedded = torch.cat((embedded, self._embed_condition(condition_BP, torch.ones_like(without_B))))
        codes = torch.zeros(rows, layout.tokens, dtype=torch.long, device=self.device)
        both, room = rows * (2 if guided else 1), self.config.length
        cache = self.backbone.cache(both, room, like=self.head.logits.weight) if settings.cache else None
        return State(
            data=layout.to_raster(codes, 0),
            finished=0,
            total=layout.entities,
            ids_BM=self.ids(codes, condition_BP),
            condition_RPD=embedded,
            padding_RL=padding,
            rng=rng,
            sampling=settings,
            known=held,
            cache=cache,
        )

    def step(self, state: State) -> State:
        """Generate one block: in one pass, or token by token for the first one of a hybrid start."""
        start, stop = self.layout.span(state.finished)
        if state.finished == 0 and self.config.start == "hybrid":
            for token in range(start, stop):
                self._draw(state, token, token + 1)
        else:
            self._draw(state, start, stop)
        state.finished += 1
        state.data = self.layout.to_raster(state.ids_BM[:, self.places] - self.config.shift, state.finished)
        return state

    def _draw(self, state: State, start: int, stop: int) -> None:
        """Codes start..stop of the sequence, in one network call; none where all of them are known."""
        shift, rows = self.config.shift, len(state.ids_BM)
        known = None if state.known is None else tuple(part[:, start:stop] for part in state.known)
        if known is not None and bool(known[1].all()):
            codes_BK = known[0]
        else:
            logits_RKV = self._pass(state, self._place(start), stop - start)
            if len(logits_RKV) > rows:
                logits_RKV = guide_halves(logits_RKV, self._weight(state, start))
            first = 0 if state.sampling.special else shift
            # A row that knows the block whole draws nothing for it, as it would alone.
            rng = state.rng if known is None else state.rng.only(~known[1].all(1))
            codes_BK = draw(logits_RKV, state.sampling, rng) + (first - shift)
            codes_BK = codes_BK if known is None else torch.where(known[1], known[0], codes_BK)
        state.ids_BM[:, self.places[start:stop]] = codes_BK + shift

    def _weight(self, state: State, code: int) -> float:
        """The guidance weight of the step that draws this code."""
        extra = self.block - 1 if self.config.start == "hybrid" else 0
        step = code if code < self.block and extra else code // self.block + extra
        steps = self.layout.entities + extra
        schedule = Guidance(weight=state.sampling.cfg, schedule=state.sampling.cfg_schedule)
        return schedule.grown(step / max(steps - 1, 1))

    def _pass(self, state: State, need: int, wanted: int) -> Tensor:
        """One network call: the input up to `need` that isn't cached yet; logits [R, K, V] of its last tokens.

        Special and condition ids have none, unless they may be drawn.
        """
        state.calls += 1
        fed = 0 if state.cache is None else state.cache.length
        x_RLD = self._embedded(state, fed, need)
        mask, places = self._mask(fed, need), slice(fed, need)
        y_RLD = self.backbone(x_RLD, mask, tokens=places, cache=state.cache, padding_BK=state.padding_RL)
        if state.cache is not None:
            state.cache.commit(need - fed)
        logits = self.head(y_RLD[:, -wanted:])[:, :, 0]
        return logits if state.sampling.special else logits[..., self.config.shift :]

    def _embedded(self, state: State, start: int, stop: int) -> Tensor:
        """The input's tokens start..stop as vectors [R, L, D]."""
        prefix, condition = self.config.prefix, state.condition_RPD
        x_BLD = self.embed(state.ids_BM[:, max(start, prefix) : stop, None])
        if condition is None:
            return x_BLD
        x_RLD = x_BLD if len(condition) == len(x_BLD) else x_BLD.repeat(2, 1, 1)
        return torch.cat((condition[:, start:], x_RLD), dim=1) if start < prefix else x_RLD

    def _mask(self, fed: int, need: int) -> Mask:
        """The mask of the input's tokens fed..need, which are whole parts of it."""
        parts = slice(bisect_left(self.offsets, fed), bisect_left(self.offsets, need))
        return continued(fed, self.sizes[parts])

    def _known(self, known: Known | None, rows: int) -> tuple[Tensor, Tensor] | None:
        """The kept codes [B, N] and where they count [B, N], in the layout's order."""
        if known is None:
            return None
        data, mask = known.expanded("codes", rows, self.layout.tokens, num_codes=self.num_codes)
        return self.layout.to_sequence(data.to(self.device)), self.layout.to_sequence(mask.to(self.device))

    def example(self, n: int, rng: Rng) -> Batch:
        """Random codes and labels."""
        tokens = rng.integers(self.config.num_codes, self.layout.tokens)
        labels = rng.integers(max(self.config.classes, 1), *([self.config.prefix] if self.config.prefix > 1 else []))
        return {"tokens": tokens[:n], "labels": labels[:n]}
