"""A language model: the next X is one token of text, and a sequence ends when it says so.

Llama 2 and 3, SmolLM2, Mistral, Qwen2 and Qwen3 are this one model with other fields: pre-norm RMS blocks, rotary
positions, SwiGLU, keys and values shared by groups of heads. Prompts of a batch may be of any length: each is read by
itself, its keys and values lie at the end of the common cache, and what is empty before them is seen by nobody. A row
that has ended leaves the batch, so it costs nothing more.

Shapes: B rows, R rows still under way, N tokens, T new tokens, V vocabulary, D width.
Sources: Llama 2 (arXiv 2307.09288), Llama 3 (2407.21783), Qwen2 (2407.10671), Qwen3 (2505.09388).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm import contracts
from nextok_mm.config import ModelConfig
from nextok_mm.contracts import Batch, Condition, Generator, Known, Loss, check_numbers, taken
from nextok_mm.decoding.logits import Drawing, draw
from nextok_mm.heads.categorical import compared
from nextok_mm.inference import inferring
from nextok_mm.media import Words
from nextok_mm.objectives import KINDS, ObjectiveField, View, parse
from nextok_mm.registry import register
from nextok_mm.rng import Rng
from nextok_mm.sequence import Backbone, BackboneConfig, KVCache, choose_backend
from nextok_mm.sequence.masks import causal, continued
from nextok_mm.sequence.packed import SharedTable
from nextok_mm.sequence.reading import read_prefixes, take_in
from nextok_mm.sequence.rope import LongRope

AT_ONCE = 1 << 24  # logits that are computed at a time where only those of known tokens count
ROOM = 128  # slots that a cache has beyond the prompt to begin with; it grows


class Sampling(Drawing):
    """How to sample: the settings of `Drawing`, and those of open-ended texts."""

    tokens: int = Field(default=256, ge=1, le=1 << 20, description="Largest number of new tokens per row.")
    repetition: float = Field(
        default=1.0,
        ge=0.01,
        le=10,
        description="Penalty of codes that are there already: a positive logit is divided by it, a negative one "
        "multiplied; 1 is none (arXiv 1909.05858).",
    )
    cache: bool = Field(
        default=True,
        description="Keep the keys and values of finished tokens; without, every step computes them again.",
    )


class LanguageConfig(ModelConfig):
    """A language model. `size` names a preset; see `BlockConfig` and `BackboneConfig` for the shape of its blocks."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            vocabulary=61, context=64, width=32, heads=4, kv_heads=2, depth=2, mlp_hidden=64, begin=1, ends=(2,)
        ),
        "bytes": dict(vocabulary=258, context=512, width=192, heads=6, depth=6, mlp_hidden=512, begin=256, ends=(257,)),
        "SmolLM2-135M": dict(
            vocabulary=49152,
            context=8192,
            width=576,
            heads=9,
            kv_heads=3,
            depth=30,
            mlp_hidden=1536,
            norm_eps=1e-5,
            rope_theta=1e5,
            tied=True,
            begin=1,
            ends=(2,),
        ),
    }
    vocabulary: int = Field(ge=2, le=1 << 24, description="Number of different tokens.")
    context: int = Field(gt=0, le=1 << 24, description="Largest number of positions that the model was trained for.")
    width: int = Field(gt=0, le=1 << 16, description="Width of the transformer's hidden states.")
    heads: int = Field(gt=0, le=1 << 10, description="Number of attention heads.")
    kv_heads: int | None = Field(
        default=None,
        gt=0,
        le=1 << 10,
        description="Number of heads of keys and values, each shared by heads / kv_heads queries; null takes heads.",
    )
    head_dim: int | None = Field(
        default=None, gt=0, le=1 << 12, description="Number of channels of an attention head; null takes width / heads."
    )
    depth: int = Field(gt=0, le=1 << 10, description="Number of transformer blocks.")
    mlp_hidden: int = Field(gt=0, le=1 << 20, description="Width inside the MLPs.")
    norm_eps: float = Field(default=1e-6, gt=0, le=1, description="The small number that norms add to the mean square.")
    rope_theta: float = Field(
        default=10000.0, gt=0, le=1e12, description="Base of the wavelengths of rotary positions."
    )
    rope_scaling: LongRope | None = Field(
        default=None, description="The stretching of rotary positions to longer texts; null stretches nothing."
    )
    qkv_bias: bool = Field(default=False, description="Give the layers of queries, keys and values biases.")
    qk_norm: bool = Field(default=False, description="Normalize queries and keys per head before the rotation.")
    window: int | None = Field(
        default=None, ge=1, le=1 << 24, description="Number of tokens back that a token sees; null sees all."
    )
    tied: bool = Field(default=False, description="Use the table of input embeddings as the output table too.")
    begin: int | None = Field(default=None, ge=0, description="The token that stands before a text; null has none.")
    ends: tuple[int, ...] = Field(default=(), description="The tokens after which a row has ended.")
    objective: ObjectiveField = Field(
        default=parse("autoregressive"),
        description="What the model is trained to predict: a kind (autoregressive, meap), or a kind and its fields.",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Probability with which dropout zeroes an activation in training."
    )
    sampling: Sampling = Field(
        default=Sampling(), description="The sampling settings that are used where a call gives no others."
    )

    @model_validator(mode="after")
    def _special(self) -> "LanguageConfig":
        for name, ids in (("begin", () if self.begin is None else (self.begin,)), ("ends", self.ends)):
            for token in ids:
                if not 0 <= token < self.vocabulary:
                    raise ValueError(f"{name}: got {token}, accepted: 0 to {self.vocabulary - 1}")
        if self.objective.two_way:
            accepted = ", ".join(kind for kind in KINDS if not parse(kind).two_way)
            raise ValueError(f"objective: got {self.objective.kind}, accepted: {accepted}, which read left to right")
        return self


@dataclass
class State(contracts.OpenState):
    """Texts under way; entity: how many steps were made.

    prompt_BM: what was given, -1 before the shorter ones; most_B: how many new tokens a row may have; rows_R: which
    rows are still in the batch; empty_R: slots of the cache that hold nothing before a row's first token; unread_RN:
    tokens that are known and not yet in the cache; logits_RV: of the next token, where nothing is unread; seen_BV:
    which tokens a row has already (where repetition has a price).
    """

    prompt_BM: Tensor
    most_B: Tensor
    rows_R: Tensor
    empty_R: Tensor
    unread_RN: Tensor
    logits_RV: Tensor | None
    seen_BV: Tensor | None
    cache: KVCache
    rng: Rng
    sampling: Sampling
    calls: int = 0


@register("generator", "language")
class Language(Generator[LanguageConfig, State]):
    """The model; see the module's text."""

    Config = LanguageConfig
    Sampling = Sampling
    state = State
    open_ended = True
    medium = Words()

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.table = (SharedTable if config.tied else nn.Embedding)(config.vocabulary, config.width)
        fields = dict(
            width=config.width,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            depth=config.depth,
            mlp_hidden=config.mlp_hidden,
            norm_eps=config.norm_eps,
            rope_theta=config.rope_theta,
            rope_scaling=config.rope_scaling,
            rope_pairs="halves",
            bias=False,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            dropout=config.dropout,
        )
        self.backbone = Backbone(BackboneConfig.parse(fields))
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)
        self.unseen = nn.Parameter(0.02 * torch.randn(config.width)) if config.objective.unseen else None
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """N(0, 0.02) throughout; what is added to the stream of D numbers is scaled down by its number of additions."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (2 * self.config.depth) ** -0.5 if name.endswith("out.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)

    @property
    def num_codes(self) -> int:
        """Different tokens."""
        return self.config.vocabulary

    @property
    def takes(self) -> tuple[str, ...]:
        """The tokens of prompts."""
        return ("tokens",)

    @property
    def longest_prompt(self) -> int:
        """What leaves room for one token more."""
        return self.config.context - 1

    def published(self, layer: str) -> str | None:
        """See `Model.published`: the names of the hub's files."""
        from nextok_mm.adapters import llama

        return llama.layer(layer)

    # Training

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Cross-entropy in nats a token. batch: tokens [B, N], each predicted from those before it in its row; -1 is no
        target and stands at a row's end."""
        view = self._view(batch, rng)
        logits_BNV = self.logits(view.read_BN)[:, :-1]
        target_BN = view.target_BN[:, 1:].clamp_min(0)
        return compared(logits_BNV[:, :, None], target_BN[..., None], view.weight_BN[:, 1:])

    def predict(self, batch: Batch, rng: Rng) -> Tensor:
        """Logits [B, N, V] of what follows each token."""
        return self.logits(self._view(batch, rng).read_BN)

    def _view(self, batch: Batch, rng: Rng) -> View:
        """What the objective makes of a batch."""
        self.check(batch)
        return self.config.objective.view(batch["tokens"].long(), rng)

    def logits(self, tokens_BN: Tensor) -> Tensor:
        """Tokens [B, N], negative ones unseen -> logits [B, N, V] of what follows each."""
        return self._head(self.states(tokens_BN))

    def states(self, tokens_BN: Tensor) -> Tensor:
        """Tokens [B, N], negative ones unseen -> hidden states [B, N, D] behind the last norm."""
        count, x_BND = tokens_BN.shape[1], self.table(tokens_BN.clamp_min(0))
        if self.unseen is not None:
            x_BND = torch.where(tokens_BN[..., None] < 0, self.unseen, x_BND)
        mask = causal(count) if self.config.window is None else continued(0, [1] * count, self.config.window)
        places = torch.arange(count, device=tokens_BN.device)[:, None]
        return self.backbone(x_BND, mask, places_NX=places)

    @inferring
    def logprobs(self, tokens_BN: Tensor) -> Tensor:
        """Log-probabilities [B, N - 1] in nats of each token but the first, given those before it in its row.

        Not all logits are there at once: with a large vocabulary they are many times as large as anything else.
        """
        check_numbers("tokens", tokens_BN, self.config.vocabulary, "vocabulary")
        states_XD, targets_X = self.states(tokens_BN)[:, :-1].flatten(0, 1), tokens_BN[:, 1:].flatten()
        some = max(1, AT_ONCE // self.config.vocabulary)
        parts = []
        for states, targets in zip(states_XD.split(some), targets_X.split(some)):
            logits = self._head(states).float()
            parts.append(logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1))
        return torch.cat(parts).view(len(tokens_BN), -1)

    @property
    def before(self) -> int | None:
        """The token that stands before a text: the one that begins it, or else one that ends another."""
        return self.config.begin if self.config.begin is not None else next(iter(self.config.ends), None)

    def _head(self, states_BND: Tensor) -> Tensor:
        if self.head is not None:
            return self.head(states_BND)
        assert isinstance(self.table, SharedTable)
        return self.table.logits(states_BND)

    def check(self, batch: Batch) -> None:
        """Tokens [B, N] of this vocabulary; -1 is no token."""
        tokens = batch.get("tokens")
        if tokens is None or tokens.is_floating_point() or tokens.dim() != 2 or tokens.shape[1] < 2:
            got = "none" if tokens is None else f"{tuple(tokens.shape)} of {tokens.dtype}"
            raise ValueError(f"tokens: got {got}, accepted: whole numbers [batch, 2 or more]")
        if tokens.shape[1] > self.config.context:
            raise ValueError(f"tokens: got {tokens.shape[1]} in a row, accepted: at most {self.config.context}")
        check_numbers("tokens", tokens.clamp_min(0), self.config.vocabulary, "vocabulary")

    # Sampling

    @property
    def backend(self) -> str:
        """The attention backend of sampling on this device: one token against all before it."""
        return choose_backend(self.backbone.backend, continued(1, [1]), self.device)

    @inferring
    def start(self, condition: Condition, rng: Rng, sampling: Any = None, known: Known | None = None) -> State:
        """Begin len(rng) texts; condition: the `tokens` of each prompt, in a list or a tensor [N], or nothing.

        ValueError in one line for a prompt that is empty, has a token out of range, or leaves no room in the context.
        """
        settings: Sampling = sampling or self.config.sampling
        if known is not None:
            raise ValueError("known: got known tokens, accepted: none, what is known of a text is its prompt")
        prompts = self._prompts(taken(condition, "tokens").get("tokens"), len(rng))
        longest = max(len(prompt) for prompt in prompts)
        most = [min(settings.tokens, self.config.context - len(prompt)) for prompt in prompts]
        rows, device = len(prompts), self.device
        room = longest + min(ROOM, max(most))
        cache = self.backbone.cache(rows, room, like=self.table.weight, window=self.config.window)
        last_RD, empty_R = read_prefixes(self.backbone, [self.table(prompt) for prompt in prompts], cache)
        return State(
            data=torch.zeros(rows, 0, dtype=torch.long, device=device),
            finished=0,
            total=max(most),
            most_B=torch.tensor(most, device=device),
            prompt_BM=torch.stack([F.pad(prompt, (longest - len(prompt), 0), value=-1) for prompt in prompts]),
            lengths_B=torch.zeros(rows, dtype=torch.long, device=device),
            ended_B=torch.zeros(rows, dtype=torch.bool, device=device),
            rows_R=torch.arange(rows, device=device),
            empty_R=empty_R,
            unread_RN=torch.zeros(rows, 0, dtype=torch.long, device=device),
            logits_RV=self._head(last_RD),
            seen_BV=self._seen(prompts) if settings.repetition != 1.0 else None,
            cache=cache,
            rng=rng,
            sampling=settings,
            calls=1,
        )

    def _prompts(self, given: Any, rows: int) -> list[Tensor]:
        """The prompt of each row, [N] on the model's device."""
        config = self.config
        if given is None:
            if config.begin is None:
                raise ValueError("text: got no prompt, accepted: at least one token, this model has none to begin with")
            given = [[config.begin]] * rows
        if isinstance(given, str) or not isinstance(given, Sequence | Tensor) or len(given) != rows:
            raise ValueError(f"text: got {type(given).__name__}, accepted: the tokens of {rows} prompts")
        prompts = [torch.as_tensor(prompt, device=self.device) for prompt in given]
        for prompt in prompts:
            if prompt.dim() != 1 or not len(prompt) or prompt.is_floating_point():
                raise ValueError(
                    f"text: got a prompt of shape {tuple(prompt.shape)}, accepted: one or more whole numbers"
                )
            if len(prompt) >= config.context:
                raise ValueError(
                    f"text: got a prompt of {len(prompt)} tokens, accepted: at most {config.context - 1} "
                    f"(this model's context is {config.context} tokens, prompt and answer together)"
                )
            if not 0 <= int(prompt.min()) <= int(prompt.max()) < config.vocabulary:
                got = f"{int(prompt.min())} to {int(prompt.max())}"
                raise ValueError(f"text: got tokens {got}, accepted: 0 to {config.vocabulary - 1}")
        return [prompt.long() for prompt in prompts]

    def step(self, state: State) -> State:
        """One more token of every row that has not ended."""
        logits_RV = state.logits_RV
        if logits_RV is None:
            states_RND = take_in(self.backbone, self.table(state.unread_RN), state.cache, state.empty_R, last=1)
            logits_RV = self._head(states_RND[:, -1])
            state.calls += 1
        logits_RV = self._penalized(logits_RV.float(), state)
        drawn_R = draw(logits_RV, state.sampling, state.rng.of(state.rows_R.tolist()))
        column_B = torch.zeros(len(state.data), 1, dtype=torch.long, device=drawn_R.device)
        column_B[state.rows_R] = drawn_R[:, None]
        state.data = torch.cat((state.data, column_B), dim=1)
        state.lengths_B[state.rows_R] += 1
        if state.seen_BV is not None:
            state.seen_BV[state.rows_R, drawn_R] = True
        state.unread_RN, state.logits_RV = drawn_R[:, None], None
        state.finished += 1
        ends = torch.tensor(self.config.ends, dtype=torch.long, device=drawn_R.device)
        full_R = state.lengths_B[state.rows_R] >= state.most_B[state.rows_R]
        return self.end(state, state.rows_R[torch.isin(drawn_R, ends) | full_R])

    def end(self, state: State, rows: Tensor) -> State:
        """Let rows end here: they leave the batch, and nothing changes for the others.

        The last ones stay where they are, so that `extend` may go on with a text.
        """
        state.ended_B[rows] = True
        stay_R = (~state.ended_B[state.rows_R]).nonzero().squeeze(1)
        if not len(rows) or not len(stay_R):
            return state
        state.rows_R, state.empty_R = state.rows_R[stay_R], state.empty_R[stay_R]
        state.unread_RN, state.cache = state.unread_RN[stay_R], state.cache.select(stay_R)
        state.logits_RV = None if state.logits_RV is None else state.logits_RV[stay_R]
        return state

    def extend(self, state: State, tokens: Sequence[int] | Tensor, more: int | None = None) -> State:
        """Go on with a text: `tokens` is all of it from its beginning; what the state has read isn't read again.

        more: at most so many new tokens (None: as the settings say). ValueError for a state of several texts.
        """
        if len(state.data) != 1:
            raise ValueError(f"extend: got a state of {len(state.data)} texts, accepted: one")
        text_N = self._prompts([tokens], 1)[0]
        known_N = torch.cat((state.prompt_BM[0], state.data[0]))[: state.cache.length + state.cache.dropped]
        both = min(len(known_N), len(text_N) - 1)
        differing = (known_N[:both] != text_N[:both]).nonzero()
        shared = int(differing[0]) if len(differing) else both
        if shared < state.cache.dropped:
            return self.start({"tokens": [text_N]}, state.rng, state.sampling)
        state.cache.rollback(shared - state.cache.dropped)
        state.prompt_BM, state.data = text_N[None], state.data[:, :0]
        state.unread_RN, state.logits_RV = text_N[None, shared:], None
        state.finished, state.total = 0, min(more or state.sampling.tokens, self.config.context - len(text_N))
        state.most_B = torch.full_like(state.lengths_B, state.total)
        state.lengths_B, state.ended_B = torch.zeros_like(state.lengths_B), torch.zeros_like(state.ended_B)
        state.seen_BV = None if state.seen_BV is None else self._seen([text_N])
        return state

    def _penalized(self, logits_RV: Tensor, state: State) -> Tensor:
        """Logits with the price of what has been said already."""
        if state.seen_BV is None:
            return logits_RV
        price = state.sampling.repetition
        priced = torch.where(logits_RV > 0, logits_RV / price, logits_RV * price)
        return torch.where(state.seen_BV[state.rows_R], priced, logits_RV)

    def _seen(self, prompts: list[Tensor]) -> Tensor:
        seen_BV = torch.zeros(len(prompts), self.config.vocabulary, dtype=torch.bool, device=self.device)
        for row, prompt in enumerate(prompts):
            seen_BV[row, prompt] = True
        return seen_BV

    def example(self, n: int, rng: Rng) -> Batch:
        """Random tokens."""
        return {"tokens": rng.integers(self.config.vocabulary, min(self.config.context, 16))}
