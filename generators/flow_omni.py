"""Flow-Omni: the next X is a continuous latent of speech, drawn by a small flow network from the state before it.

The sequence is [voice][text][begin, latent, latent ...] on one causal backbone with one cache: a voice is the latents
of a recording, text is a prefix, and each step reads the latent before it. A stop head says where a row ends. Where the
model is told durations (`alignment`), there is no prefix of text: every step is told its phonemes instead, and the end
of the last one is the end of the row. Pocket TTS's published models are the first form (`nextok convert pocket_tts`).

Training reads a whole row at once, with noise on the latents that are read back, and draws several noised versions of
each latent, since the head costs little beside the backbone. A head with two times can be taught, as a later stage, to
jump from noise to data in one step or two (`distill`).

Shapes: B rows, R rows still under way, N latents, P tokens of text, V latents of a voice, S the whole sequence,
D width, C channels, M draws. Times: t = 0 data, t = 1 noise.
Sources: Flow-Omni (arXiv 2412.04917); CALM (2509.06926) and the Pocket TTS it became.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextok_mm import contracts
from nextok_mm.contracts import Batch, Condition, Generator, Known, Loss, taken
from nextok_mm.flow.jumps import residual
from nextok_mm.flow.times import bounded_noise
from nextok_mm.heads.flow import FlowMLP
from nextok_mm.inference import inferring
from nextok_mm.media.spoken import pieces, prepared
from nextok_mm.media.words import TextTokenizer
from nextok_mm.registry import register
from nextok_mm.rng import Rng
from nextok_mm.sequence import Backbone, BackboneConfig, KVCache, choose_backend
from nextok_mm.sequence.masks import continued
from nextok_mm.sequence.reading import padded, read_prefixes, run_behind, take_in

from ._alignment import Alignment, spoken
from ._flow_omni_config import FlowOmniConfig, Sampling
from ._noised import Noised, check
from ._pieces import pieces_of

SHORT, SHORT_AFTER = 4, 3  # words of a text that is very short, and its latents from the stop on
ROOM = 256  # slots that a cache has beyond its prefix to begin with; it grows


@dataclass
class State(contracts.OpenState):
    """Speech under way. data: latents as the tokenizer has them, [B, N, C]; entity: how many steps were made. Before
    the first step it is what was read so far, and may be given as a `voice`.

    most_B: how many latents a row may have; stopped_B: whether it ended by itself, not because it had `most_B`;
    stops_BN: logits of the stop head; rows_R: which rows are still in the batch; last_RC: the latent that the next step
    reads; left_R: latents to be made from the stop on, -1 before it; after_R: how many these are; empty_Q, and the
    cache's rows: Q is R, or with guidance 2 R, the rows without text behind the others; told_QTD: what each step is
    told, ids_BP and durations_BP: of the phonemes, where it has these; queue: the pieces of its text that each row
    still has to speak, [after, *ids] each; voices: what it goes back to for them, mute_B: its empty slots.
    """

    most_B: Tensor
    stopped_B: Tensor
    stops_BN: Tensor
    rows_R: Tensor
    last_RC: Tensor
    left_R: Tensor
    after_R: Tensor
    empty_Q: Tensor
    told_QTD: Tensor | None
    durations_BP: Tensor | None
    ids_BP: Tensor | None
    queue: list[list[list[int]]]
    voices: KVCache
    mute_B: Tensor
    cache: KVCache
    rng: Rng
    sampling: Sampling
    calls: int = 0


@register("generator", "flow_omni")
class FlowOmni(Generator[FlowOmniConfig, State]):
    """The model; see the module's text."""

    Config = FlowOmniConfig
    Sampling = Sampling
    state = State
    open_ended = True
    needs_text = True
    shift: Tensor
    scale: Tensor

    def __init__(self, config: FlowOmniConfig):
        super().__init__()
        self.config, width, channels = config, config.width, config.channels
        fields = dict(
            width=width,
            heads=config.heads,
            depth=config.depth,
            mlp="gelu",
            mlp_hidden=config.mlp_hidden,
            norm="layer",
            norm_bias=True,
            norm_eps=config.norm_eps,
            bias=False,
            rope=config.rope,
            rope_theta=config.rope_theta,
            dropout=config.dropout,
        )
        self.backbone = Backbone(BackboneConfig.parse(fields))
        self.latents = nn.Linear(channels, width, bias=False)
        self.begin = nn.Parameter(torch.empty(channels))
        self.voice = nn.Linear(channels, width, bias=False) if config.voice else None
        self.voice_begin = nn.Parameter(torch.empty(width)) if config.voice and config.voice_begin else None
        told = config.alignment is not None
        self.alignment = Alignment(config.alignment, config.vocabulary, width) if config.alignment else None
        self.table = None if told else nn.Embedding(config.vocabulary, width)
        self.stop = None if told else nn.Linear(width, 1)
        self.head = FlowMLP(channels, width, config.flow_width, config.flow_depth, config.flow_times)
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """The backbone and the head begin as they do by themselves; tables and learned vectors N(0, 0.02)."""
        for parameter in (self.begin, self.voice_begin, None if self.table is None else self.table.weight):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)

    @property
    def takes(self) -> tuple[str, ...]:
        """Text as tokens; a voice; durations of the tokens, or how many latents follow the stop."""
        voice = ("voice",) if self.voice is not None else ()
        return ("tokens", *voice, "after" if self.alignment is None else "durations")

    @property
    def prompt_vocabulary(self) -> int:
        """Different tokens of text."""
        return self.config.vocabulary

    def read_text(self, words: TextTokenizer, texts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
        """See `Generator.read_text`: with durations a text is read whole, else in pieces; a very short one goes on for
        longer behind its stop."""
        if self.alignment is not None:
            return {"tokens": [words.encode(text) for text in texts]}
        cut = [pieces(prepared(text), lambda part: len(words.encode(part)), sampling.piece) for text in texts]
        after = [[SHORT_AFTER if len(part.split()) <= SHORT else sampling.after for part in own] for own in cut]
        return {"tokens": [[words.encode(part) for part in own] for own in cut], "after": after}

    # Training

    def check(self, batch: Batch) -> None:
        """See `Model.check`; `_noised.check` says what a batch holds."""
        check(self.config, batch)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Flow matching, and what else the form has: the stop, durations, jumps; `check` says what a batch holds."""
        noised = self._noised(batch, rng)
        hidden_BND, parts = self._read(batch, noised)
        error_BNMC = self._velocities(noised, hidden_BND).float() - noised.target().float()
        flow = noised.mean(error_BNMC.square().mean((2, 3)))
        share = self.config.distill
        loss = Loss({"flow": flow}, {"flow": 1 - share} if share else {})
        if share:
            off_BNC = residual(lambda x, t, r: self.head(x, hidden_BND, t, r), *noised.jumps())
            loss = loss.plus({"jumps": noised.mean(off_BNC.float().square().mean(-1))}, {"jumps": share})
        for name, (weight, rows_B) in parts.items():
            loss = loss.plus({name: rows_B}, {name: weight})
        return loss

    def predict(self, batch: Batch, rng: Rng) -> Tensor:
        """The velocities [B, N, M, C] that `loss` compares."""
        noised = self._noised(batch, rng)
        return self._velocities(noised, self._read(batch, noised)[0])

    def _noised(self, batch: Batch, rng: Rng) -> Noised:
        self.check(batch)
        return Noised.draw(self.config, (batch["tokens"] - self.shift) / self.scale, batch.get("lengths"), rng)

    def _read(self, batch: Batch, noised: Noised) -> tuple[Tensor, dict[str, tuple[float, Tensor]]]:
        """Hidden states [B, N, D] from which the latents are drawn; other losses by name: weight, and one per row."""
        x0_BNC, rows = noised.x0_BNC, len(noised.x0_BNC)
        read_BNC = x0_BNC if noised.history_BNC is None else x0_BNC + noised.history_BNC
        read_BNC = torch.cat((self.begin.expand(rows, 1, -1).to(read_BNC), read_BNC[:, :-1]), dim=1)
        x_BND, parts = self.latents(read_BNC), dict[str, tuple[float, Tensor]]()
        before: list[tuple[Tensor, Tensor]] = []  # what stands before the latents, and which of it is there
        if self.voice is not None and "voice" in batch:
            x_BVD = self._voiced(batch["voice"])
            before.append((x_BVD, torch.ones(x_BVD.shape[:2], dtype=torch.bool, device=x_BVD.device)))
        if self.alignment is not None:
            ids_BP, durations_BP = batch["text"].long(), batch["durations"].long()
            vectors_BPW = self.alignment.encode(ids_BP)
            told_BND = self.alignment.steps(vectors_BPW, durations_BP, x0_BNC.shape[1])
            x_BND = x_BND + torch.where(noised.dropped_B[:, None, None], self.alignment.none, told_BND)
            error_B = self.alignment.loss(vectors_BPW, durations_BP, (ids_BP >= 0) & (durations_BP > 0))
            parts["durations"] = self.alignment.config.weight, error_B
        elif self.table is not None and "text" in batch:
            ids_BP = batch["text"].long()
            before.append((self.table(ids_BP.clamp_min(0)), (ids_BP >= 0) & ~noised.dropped_B[:, None]))
        hidden_BND = run_behind(self.backbone, before, x_BND, self.config.window)
        if self.stop is not None:
            there_BN = noised.there_BN
            ends_BN = there_BN & ~F.pad(there_BN[:, 1:], (0, 1))
            logits_BN = self.stop(hidden_BND).squeeze(-1).float()
            each_BN = F.binary_cross_entropy_with_logits(logits_BN, ends_BN.float(), reduction="none")
            parts["stop"] = self.config.stop_weight, noised.mean(each_BN)
        return hidden_BND, parts

    def _velocities(self, noised: Noised, hidden_BND: Tensor) -> Tensor:
        return self.head(noised.mixed(), hidden_BND[:, :, None], *[noised.t_BNM] * self.config.flow_times)

    def _voiced(self, voice_BVC: Tensor) -> Tensor:
        """Latents of a recording, as its tokenizer has them -> what the backbone reads, [B, V or V + 1, D]."""
        assert self.voice is not None
        x_BVD = self.voice(voice_BVC)
        if self.voice_begin is None:
            return x_BVD
        return torch.cat((self.voice_begin.expand(len(x_BVD), 1, -1).to(x_BVD), x_BVD), dim=1)

    # Sampling

    @property
    def backend(self) -> str:
        """The attention backend of sampling on this device: one latent against all before it."""
        return choose_backend(self.backbone.backend, continued(1, [1]), self.device)

    @inferring
    def start(self, condition: Condition, rng: Rng, sampling: Any = None, known: Known | None = None) -> State:
        """Begin len(rng) rows of speech; condition, each part of it by choice:

        `tokens`: the text of each row as ids, or as a list of such pieces, which the row speaks one after another, each
        as if it began with it; `voice`: latents [V, C] of a recording as the codec's encoder gives them, one for all or
        one per row, or the State of a start with nothing but a voice, which costs nothing to read; `durations`: units
        of each phoneme; `after`: latents from the stop on, per row or piece.
        ValueError in one line for what doesn't fit.
        """
        settings: Sampling = sampling or self.config.sampling
        given, rows, device = taken(condition, *self.takes), len(rng), self.device
        if known is not None:
            raise ValueError("known: got known tokens, accepted: none, what is known of speech is its voice")
        queue = pieces_of(given.get("tokens"), given.get("after"), rows, settings.after, self.config.vocabulary)
        voices, mute_B = self._voices(given.get("voice"), rows)
        told_QTD = durations_BP = ids_BP = None
        if self.alignment is not None:
            texts = [
                torch.tensor([i for _, *ids in row for i in ids], dtype=torch.long, device=device) for row in queue
            ]
            ids_BP = padded(texts, -1, least=1)
            told_QTD, durations_BP, most = self._told(texts, ids_BP, given.get("durations"), settings)
        else:
            most = [min(settings.tokens, sum(self._longest(piece, settings) for piece in row)) for row in queue]
        state = State(
            data=self.shift.new_zeros(rows, 0, self.config.channels),
            finished=0,
            total=max(most),
            most_B=torch.tensor(most, device=device),
            lengths_B=torch.zeros(rows, dtype=torch.long, device=device),
            ended_B=torch.zeros(rows, dtype=torch.bool, device=device),
            stopped_B=torch.zeros(rows, dtype=torch.bool, device=device),
            stops_BN=self.shift.new_zeros(rows, 0),
            rows_R=torch.arange(rows, device=device),
            last_RC=self.begin.detach().repeat(rows, 1),
            left_R=torch.zeros(rows, dtype=torch.long, device=device),
            after_R=torch.zeros(rows, dtype=torch.long, device=device),
            empty_Q=mute_B,
            told_QTD=told_QTD,
            durations_BP=durations_BP,
            ids_BP=ids_BP,
            queue=queue,
            voices=voices,
            mute_B=mute_B,
            cache=voices,
            rng=rng,
            sampling=settings,
        )
        return self._begin(state, list(range(rows)))

    def _begin(self, state: State, places: list[int]) -> State:
        """Let these of the rows under way begin the next piece of their text, behind their voice."""
        if not places:
            return state
        settings, guided = state.sampling, 2 if state.sampling.cfg != 1.0 else 1
        rows = [int(state.rows_R[place]) for place in places]
        begun = [state.queue[row][0] for row in rows]
        state.queue = [queue[1:] if row in rows else queue for row, queue in enumerate(state.queue)]
        nothing = self.latents.weight.new_empty(0, self.config.width)
        ids = [torch.tensor(piece[1:], dtype=torch.long, device=self.device) for piece in begun]
        prefixes = [nothing if self.table is None else self.table(each) for each in ids]
        prefixes += [nothing] * len(rows) * (guided - 1)
        chosen_Q, mute = torch.tensor(rows * guided, device=self.device), state.mute_B.tolist()
        room = state.voices.length + max(map(len, prefixes)) + min(ROOM, state.total)
        own = self.backbone.cache(len(chosen_Q), room, like=self.latents.weight, window=self.config.window)
        past = state.voices.select(chosen_Q)
        _, empty_Q = read_prefixes(self.backbone, prefixes, own, past, [mute[row] for row in chosen_Q.tolist()])
        count = len(state.rows_R)
        if len(places) == count:
            state.cache, state.empty_Q = own, empty_Q
        else:  # the others go on where they are; all rows end at the same slot
            places_Q = torch.tensor([place + count * half for half in range(guided) for place in places])
            spare = int(state.empty_Q.min()) - state.cache.dropped
            more = max(own.length - (state.cache.length - spare), 0) - spare
            state.cache.shift(more)
            state.empty_Q = state.empty_Q + more
            state.cache.place(places_Q, own)
            state.empty_Q[places_Q] = empty_Q + state.cache.length - own.length + state.cache.dropped
        for place, row, piece in zip(places, rows, begun):
            state.last_RC[place], state.left_R[place], state.after_R[place] = self.begin.detach(), -1, piece[0]
            if self.alignment is None:
                least = int(state.lengths_B[row]) + self._longest(piece, settings)
                state.most_B[row] = min(least, settings.tokens)
        return state

    def _longest(self, piece: list[int], settings: Sampling) -> int:
        """How many latents a piece of text may have at the slowest pace."""
        ids, rate = len(piece) - 1, self.config.rate
        return math.ceil(min((ids / settings.pace + 2) * rate, settings.tokens)) if ids else settings.tokens

    def step(self, state: State) -> State:
        """One more latent of every row that has not ended."""
        settings, rows_R = state.sampling, state.rows_R
        guided = settings.cfg != 1.0
        x_RD = self.latents(state.last_RC)
        x_QD = torch.cat((x_RD, x_RD)) if guided else x_RD
        if state.told_QTD is not None:
            x_QD = x_QD + state.told_QTD[:, state.finished]
        hidden_QD = take_in(self.backbone, x_QD[:, None], state.cache, state.empty_Q)[:, 0]
        state.calls += 1
        logits_R = self._stops(hidden_QD[: len(rows_R)])
        rng, like = state.rng.of(rows_R.tolist()), self.latents.weight
        noise_RC = bounded_noise(rng, self.config.channels, settings.temperature, settings.clamp, like)
        jumps = self.config.distill > 0
        state.last_RC = self.head.sample(hidden_QD, noise_RC, settings.steps, jumps, settings.cfg)
        column_B1C = state.data.new_zeros(len(state.data), 1, state.data.shape[2])
        column_B1C[rows_R, 0] = (state.last_RC * self.scale + self.shift).to(column_B1C.dtype)
        state.data = torch.cat((state.data, column_B1C), dim=1)
        stops_B1 = state.stops_BN.new_zeros(len(state.data), 1)
        stops_B1[rows_R, 0] = logits_R.to(stops_B1.dtype)
        state.stops_BN = torch.cat((state.stops_BN, stops_B1), dim=1)
        state.left_R = torch.where((state.left_R < 0) & (logits_R > settings.stop_logit), state.after_R, state.left_R)
        state.left_R = torch.where(state.left_R > 0, state.left_R - 1, state.left_R)
        state.lengths_B[rows_R] += 1
        state.finished += 1
        full_R = state.lengths_B[rows_R] >= state.most_B[rows_R]
        whole_R = full_R & (state.most_B[rows_R] < settings.tokens)
        by_itself_R = whole_R if state.durations_BP is not None else state.left_R == 0
        state.stopped_B[rows_R] = by_itself_R
        over_R = full_R | by_itself_R
        on = [row for row in rows_R[over_R].tolist() if state.queue[row] and state.lengths_B[row] < settings.tokens]
        state = self.end(
            state, torch.tensor([row for row in rows_R[over_R].tolist() if row not in on], dtype=torch.long)
        )
        return (
            self._begin(state, [place for place, row in enumerate(state.rows_R.tolist()) if row in on]) if on else state
        )

    def remarks(self, state: State, words: TextTokenizer | None) -> list[dict[str, Any]]:
        """See `Generator.remarks`: `ended` is "stop" or "length"; with durations `phonemes` and `words` are
        (what, begins, ends), in seconds."""
        rows = [{"ended": "stop" if stopped else "length"} for stopped in state.stopped_B.tolist()]
        if state.durations_BP is None or state.ids_BP is None or words is None or self.alignment is None:
            return rows
        unit = 1 / (self.config.rate * self.alignment.config.per_latent)
        own = zip(rows, state.ids_BP, state.durations_BP)
        return [row | spoken(ids_P, durations_P, words, unit) for row, ids_P, durations_P in own]

    def end(self, state: State, rows: Tensor) -> State:
        """Let rows end here: they leave the batch, and nothing changes for the others."""
        state.ended_B[rows] = True
        stay_R = (~state.ended_B[state.rows_R]).nonzero().squeeze(1)
        if not len(rows) or not len(stay_R):
            return state
        stay_Q = torch.cat((stay_R, stay_R + len(state.rows_R))) if state.sampling.cfg != 1.0 else stay_R
        for name in ("rows_R", "last_RC", "left_R", "after_R"):
            setattr(state, name, getattr(state, name)[stay_R])
        state.empty_Q, state.cache = state.empty_Q[stay_Q], state.cache.select(stay_Q)
        state.told_QTD = None if state.told_QTD is None else state.told_QTD[stay_Q]
        return state

    def _stops(self, hidden_RD: Tensor) -> Tensor:
        """Logits of the end, [R]; where durations decide, it is never near."""
        if self.stop is None:
            return hidden_RD.new_full((len(hidden_RD),), -math.inf)
        return self.stop(hidden_RD).squeeze(-1)

    def _told(
        self, texts: list[Tensor], ids_BP: Tensor, given: Any, settings: Sampling
    ) -> tuple[Tensor, Tensor, list[int]]:
        """What the steps of each row are told (with guidance those without text behind), durations, and lengths."""
        assert self.alignment is not None
        vectors_BPW = self.alignment.encode(ids_BP)
        if given is None:
            durations_BP = self.alignment.durations(vectors_BPW, ids_BP, settings.speed)
        else:
            durations = [torch.as_tensor(row, device=self.device) for row in given]
            for text, row in zip(texts, durations):
                if row.shape != text.shape or row.is_floating_point() or bool((row < 0).any()):
                    raise ValueError(
                        f"durations: got {tuple(row.shape)} of {row.dtype}, accepted: whole units per token"
                    )
            durations_BP = padded(durations, least=1).long()
        latents = self.alignment.latents(durations_BP).tolist()
        most = [min(n, settings.tokens) if len(text) else settings.tokens for n, text in zip(latents, texts)]
        told_BTD = self.alignment.steps(vectors_BPW, durations_BP, max(most))
        silent_B = torch.tensor([not len(text) for text in texts], device=self.device)
        none = self.alignment.none.detach()
        told_BTD = torch.where(silent_B[:, None, None], none, told_BTD)
        told_QTD = torch.cat((told_BTD, none.expand_as(told_BTD))) if settings.cfg != 1.0 else told_BTD
        return told_QTD, durations_BP, [max(each, 1) for each in most]

    def _voices(self, given: Any, rows: int) -> tuple[KVCache, Tensor]:
        """What each row has heard of its voice, and how many slots are empty before that; one for all is read once."""
        if isinstance(given, State) or (isinstance(given, Tensor) and given.dim() < 3):
            given = [given]
        each: list[Any] = [] if given is None else list(given)
        if given is not None and len(each) not in (1, rows):
            raise ValueError(f"voice: got {len(each)} voices, accepted: one, or one for each of {rows} texts")
        heard = [self._heard(voice) for voice in each]
        longest = max((voice.length for voice in heard), default=0)
        cache = self.backbone.cache(rows, longest, like=self.latents.weight, window=self.config.window)
        cache.commit(longest)
        for row, voice in enumerate(heard * rows if len(heard) == 1 else heard):
            cache.place(torch.tensor([row]), voice)
        lengths = [voice.length for voice in heard] or [0]
        mute = [longest - length for length in (lengths * rows if len(lengths) == 1 else lengths)]
        return cache, torch.tensor(mute, device=self.device)

    def _heard(self, voice: Any) -> KVCache:
        """A cache of one row that has read a voice, or that of a State that has."""
        if isinstance(voice, State):
            shape = self.backbone.cache(1, 0, like=self.latents.weight).keys.shape
            keys = voice.voices.keys.shape
            if voice.finished or len(voice.data) != 1 or (*keys[:3], keys[4]) != (*shape[:3], shape[4]):
                raise ValueError(
                    "voice: got a state that speaks or is another model's, accepted: one that heard a voice"
                )
            return voice.voices
        voice_VC = torch.as_tensor(voice, device=self.device, dtype=self.latents.weight.dtype)
        channels = self.config.channels
        if voice_VC.dim() != 2 or voice_VC.shape[1] != channels or not len(voice_VC) or not voice_VC.isfinite().all():
            accepted = f"finite latents [1 or more, {channels}]"
            raise ValueError(f"voice: got shape {tuple(voice_VC.shape)}, accepted: {accepted}")
        x_VD = self._voiced(voice_VC[None])[0]
        cache = self.backbone.cache(1, len(x_VD), like=self.latents.weight, window=self.config.window)
        read_prefixes(self.backbone, [x_VD], cache)
        return cache

    def example(self, n: int, rng: Rng) -> Batch:
        """Random latents of several lengths, with text, and what else the form has."""
        channels, tokens, latents = self.config.channels, 6, 10
        batch = {"tokens": rng.normal(latents, channels), "text": rng.integers(self.config.vocabulary, tokens)}
        shorter = rng.integers(3)
        batch["text"] = torch.where(torch.arange(tokens) < tokens - shorter[:, None], batch["text"], -1)
        if self.voice is not None:
            batch["voice"] = rng.normal(3, channels)
        if self.alignment is None:
            return {**batch, "lengths": latents - shorter}
        durations_BP = (rng.integers(4, tokens) + 1) * (batch["text"] >= 0)
        return {**batch, "durations": durations_BP, "lengths": self.alignment.latents(durations_BP).clamp_max(latents)}
