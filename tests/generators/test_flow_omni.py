"""Flow-Omni: the stop, voices, durations, guidance and noise; what training shows and asks; bad input in one line."""

import math

import pytest
import torch

from nextok_mm import registry
from nextok_mm.decoding import decode
from nextok_mm.rng import Rng

TEXTS = ([5, 6, 7], [8], [9, 10, 11, 12, 13, 14])


def made(size: str, **fields):
    torch.manual_seed(0)
    model = registry.build("generator", "flow_omni", {"size": size, **fields}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def speak(model, texts, seeds=None, sampling=None, **condition):
    settings = model.Sampling.parse({"tokens": 12, **(sampling or {})})
    start = model.start({"tokens": texts, **condition}, Rng(seeds or range(len(texts))), settings)
    return list(decode(model, start))[-1]


def rows(state):
    return [state.data[row, : state.lengths_B[row]] for row in range(len(state.data))]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("size, fields", [("tiny", {}), ("tiny-aligned", {}), ("tiny-aligned", {"voice": True})])
def test_a_row_is_what_it_is_alone(size, fields, cfg):
    """With a window that slides over rows of different lengths too."""
    model = made(size, **fields).double()
    voices = {"voice": [torch.randn(n, 4).double() for n in (2, 5, 3)]} if model.voice is not None else {}
    settings = {"cfg": cfg, "stop_logit": 0.3, "tokens": 40}
    together = speak(model, TEXTS, [4, 5, 6], settings, **voices)
    assert len(set(together.lengths_B.tolist())) > 1
    for row, text in enumerate(TEXTS):
        own = {"voice": [voices["voice"][row]]} if voices else {}
        alone = speak(model, [text], [4 + row], settings, **own)
        torch.testing.assert_close(rows(together)[row], rows(alone)[0])


def test_each_condition_counts():
    model = made("tiny")
    voice = torch.randn(3, 4)
    plain = speak(model, TEXTS[:1], voice=voice).data
    others = [
        speak(model, [[5, 6, 8]], voice=voice),
        speak(model, TEXTS[:1], voice=voice.flip(0)),
        speak(model, TEXTS[:1]),
        speak(model, TEXTS[:1], voice=voice, sampling={"cfg": 2}),
        speak(model, TEXTS[:1], [9], voice=voice),
    ]
    assert all(not torch.allclose(other.data[:, :1], plain[:, :1]) for other in others)


@pytest.mark.parametrize("after", [1, 3])
def test_a_row_goes_on_for_a_little_from_its_stop(after):
    model = made("tiny")
    free = speak(model, TEXTS[:1], sampling={"stop_logit": 100})
    assert free.lengths_B.tolist() == [12] and not free.stopped_B.any()
    middle = float(free.stops_BN[0].sort().values[-3])
    first = int((free.stops_BN[0] > middle).nonzero()[0])
    for asked in (
        {"sampling": {"stop_logit": middle, "after": after}},
        {"sampling": {"stop_logit": middle}, "after": [after]},
    ):
        stopped = speak(model, TEXTS[:1], **asked)
        assert stopped.lengths_B.tolist() == [min(first + after, 12)]
        assert torch.equal(stopped.data, free.data[:, : first + after])
        assert bool(stopped.stopped_B) == (first + after <= 12)


def test_what_never_stops_is_ended_by_its_text():
    state = speak(made("tiny", rate=2.0), TEXTS, sampling={"stop_logit": 100, "tokens": 100, "pace": 1.5})
    assert state.lengths_B.tolist() == [math.ceil((len(text) / 1.5 + 2) * 2) for text in TEXTS]


@pytest.mark.parametrize("size", ["tiny", "tiny-aligned"])
def test_without_a_text_it_speaks_until_it_is_told_to_end(size):
    model = made(size)
    state = list(decode(model, model.start(None, Rng([0, 1]), model.Sampling(tokens=5, stop_logit=100))))[-1]
    assert state.lengths_B.tolist() == [5, 5] and not torch.allclose(state.data[0], state.data[1])


def test_durations_decide_where_speech_ends():
    model = made("tiny-aligned")
    state = speak(model, TEXTS, durations=[[2, 3, 2], [5], [1] * 6])
    assert state.lengths_B.tolist() == [4, 3, 3] and state.stopped_B.all()
    slow, fast = (speak(model, TEXTS, sampling={"speed": speed, "tokens": 200}).lengths_B for speed in (0.4, 4.0))
    assert (slow > fast).all() and fast.tolist() == [2, 1, 3]


def test_a_step_is_told_its_phonemes_and_the_next():
    """Phonemes of one, two and three units; a latent covers two units."""
    alignment = made("tiny-aligned").alignment
    vectors = torch.randn(1, 3, 16)
    told = alignment.steps(vectors, torch.tensor([[1, 2, 3]]), 4)
    assert alignment.latents(torch.tensor([[1, 2, 3]])).tolist() == [3]
    sees = [[0, 1], [1, 2], [2], []]  # of latent 0: units of 0 and 1, then comes 2
    sees = [sorted({*here, *({max(here) + 1} & {0, 1, 2} if here else ())}) for here in sees]
    for phoneme in range(3):
        changed = vectors.clone()
        changed[:, phoneme] += 1
        differs = (alignment.steps(changed, torch.tensor([[1, 2, 3]]), 4) - told).abs().amax(-1)[0] > 1e-6
        assert differs.tolist() == [phoneme in here for here in sees]


def test_a_long_text_is_spoken_piece_by_piece():
    """Each as if its row began with it, whatever the neighbors do, and without keeping what came before."""
    model = made("tiny").double()
    voice, settings = torch.randn(3, 4).double(), model.Sampling(stop_logit=0.3, pace=0.7, steps=2)
    texts = [[[5, 6], [7, 8, 9], [3]], [8, 9], [[1, 2, 3, 4], [5]]]

    def run(texts, seeds, after=None):
        start = model.start({"tokens": texts, "voice": voice, "after": after}, Rng(seeds), settings)
        return list(decode(model, start))[-1]

    together = run(texts, [0, 1, 2])
    for row, text in enumerate(texts):
        torch.testing.assert_close(rows(together)[row], rows(run([text], [row]))[0])
    rng, parts = Rng([0]), []
    for piece in texts[0]:
        *_, last = decode(model, model.start({"tokens": [piece], "voice": voice}, rng, settings))
        parts.append(last.data[0])
    torch.testing.assert_close(rows(together)[0], torch.cat(parts))
    alone = run(texts[:1], [0])
    assert alone.cache.length < 4 + 3 + 1 + max(map(len, parts))
    more = run(texts[:1], [0], [[1, 3, 1]])
    assert more.lengths_B[0] >= alone.lengths_B[0] and together.stopped_B.all()
    few = list(
        decode(model, model.start({"tokens": texts[:1]}, Rng([0]), model.Sampling(stop_logit=99, tokens=2, pace=9)))
    )[-1]
    assert few.lengths_B.tolist() == [2] and not few.stopped_B.any()


def test_a_rows_loss_does_not_depend_on_what_fills_it_up():
    for size in ("tiny", "tiny-aligned"):
        model = made(size, history_noise=0.3, condition_dropout=0.0)
        batch = model.example(2, Rng([1, 2]))
        alone = model.loss(batch, Rng([3, 4]))
        longer = {
            **batch,
            "tokens": torch.nn.functional.pad(batch["tokens"], (0, 0, 0, 4), value=9.0),
            "text": torch.nn.functional.pad(batch["text"], (0, 3), value=-1),
        }
        if "durations" in batch:
            longer["durations"] = torch.nn.functional.pad(batch["durations"], (0, 3))
        padded = model.loss(longer, Rng([3, 4]))
        torch.testing.assert_close(padded.total, alone.total, rtol=1e-4, atol=1e-5)


def test_noise_on_the_history_reaches_only_what_is_read_back():
    quiet, loud = made("tiny", history_noise=0.0), made("tiny", history_noise=5.0)
    loud.load_state_dict(quiet.state_dict())
    batch = quiet.example(2, Rng([1, 2]))
    some, others = (model._noised(batch, Rng([3, 4])) for model in (quiet, loud))
    assert torch.equal(some.eps_BNMC, others.eps_BNMC) and torch.equal(some.mixed(), others.mixed())
    assert torch.equal(quiet._read(batch, some)[0][:, 0], loud._read(batch, others)[0][:, 0])
    assert not torch.allclose(quiet._read(batch, some)[0][:, 1:], loud._read(batch, others)[0][:, 1:])


def test_jumps_are_learned_as_a_later_stage():
    """The same weights under `distill`: the loss has one more part, and its gradient reaches the second time."""
    first = made("tiny", flow_times=2)
    second = made("tiny", flow_times=2, distill=0.25)
    second.load_state_dict(first.state_dict())
    loss = second.loss(second.example(3, Rng(range(3))), Rng(range(3)))
    assert set(loss.parts) == {"flow", "jumps", "stop"} and loss.parts["jumps"] > 0
    loss.total.backward()
    assert second.head.times[1].up.weight.grad.any()


@pytest.mark.parametrize(
    "condition, words",
    [
        ({"tokens": "hello"}, "text: got str"),
        ({"tokens": [[]]}, "text: got a text of shape"),
        ({"tokens": [[1.5]]}, "text: got torch.float32"),
        ({"tokens": [[61]]}, "text: got 61, accepted: 0 to 60"),
        ({"tokens": [[1], [2]]}, "text: got list, accepted: the tokens of 1 texts"),
        ({"tokens": [[1]], "voice": torch.zeros(3, 5)}, r"voice: got shape \(3, 5\)"),
        ({"tokens": [[1]], "voice": torch.full((3, 4), math.nan)}, "voice: got shape .*finite"),
        ({"tokens": [[1]], "voice": torch.zeros(0, 4)}, r"voice: got shape \(0, 4\)"),
        ({"tokens": [[1]], "voice": torch.zeros(2, 3, 4)}, "voice: got 2 voices"),
        ({"tokens": [[1]], "after": [0]}, "after: got"),
        ({"tokens": [[1]], "after": [1, 2]}, "after: got 2 numbers"),
        ({"tokens": [[[1], [2]]], "after": [[1]]}, "after: got"),
        ({"tokens": [[[1], []]]}, "text: got a text of shape"),
        ({"durations": [[1]]}, "durations: got a condition"),
    ],
)
def test_a_mistake_is_one_line(condition, words):
    with pytest.raises(ValueError, match=words) as error:
        made("tiny").start(condition, Rng([0]))
    assert "\n" not in str(error.value)


def test_a_state_that_speaks_is_no_voice():
    model = made("tiny")
    speaking = speak(model, TEXTS[:1])
    with pytest.raises(ValueError, match="voice: got a state that speaks"):
        model.start({"tokens": [[1]], "voice": speaking}, Rng([0]))
    other = made("tiny", depth=3)
    with pytest.raises(ValueError, match="another model's"):
        model.start({"tokens": [[1]], "voice": other.start({"voice": torch.zeros(3, 4)}, Rng([0]))}, Rng([0]))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"tokens": torch.zeros(2, 10, 5)}, "tokens: got"),
        ({"text": torch.full((2, 6), 61)}, "text: got 61"),
        ({"text": torch.zeros(3, 6).long()}, "text: got"),
        ({"durations": torch.zeros(2, 5).long()}, "durations: got"),
        ({"lengths": torch.zeros(3).long()}, "lengths: got shape"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change, words):
    model = made("tiny-aligned")
    with pytest.raises(ValueError, match=words):
        model.loss({**model.example(2, Rng([0, 1])), **change}, Rng([0, 1]))


@pytest.mark.parametrize(
    "fields, words",
    [({"distill": 0.2}, "distill: got 0.2 with flow_times 1"), ({"alignment": {"kernel": 4}}, "kernel: got 4")],
)
def test_fields_that_do_not_go_together(fields, words):
    with pytest.raises(ValueError, match=words):
        registry.build("generator", "flow_omni", {"size": "tiny", **fields})
