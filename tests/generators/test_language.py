"""Language models: rows that end by themselves, prompts of any length, windows, and states that are kept in files."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.decoding import decode
from nextok_mm.decoding.states import copied, load_state, save_state
from nextok_mm.rng import Rng

PROMPTS = ([5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16, 17])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = registry.build("generator", "language", {"size": "tiny", "ends": list(range(2, 12))}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def run(model, prompts, seeds, **settings):
    settings = model.Sampling.parse({"tokens": 30, **settings})
    *_, last = decode(model, model.start({"tokens": [torch.tensor(p) for p in prompts]}, Rng(seeds), settings))
    return last


def texts(state):
    return [state.data[row, : state.lengths_B[row]].tolist() for row in range(len(state.data))]


@pytest.mark.parametrize("window", [None, 4])
def test_a_row_is_what_it_is_alone(model, window):
    """Whatever its neighbours' lengths are, and whenever they end."""
    if window:
        model = registry.build("generator", "language", {"size": "tiny", "ends": [3], "window": window}).eval()
    together = run(model, PROMPTS, [4, 5, 6, 7])
    assert texts(together) == [texts(run(model, [p], [s]))[0] for p, s in zip(PROMPTS, [4, 5, 6, 7])]
    assert len({len(text) for text in texts(together)}) > 1


def test_rows_that_have_ended_cost_nothing(model):
    state = model.start({"tokens": [torch.tensor(p) for p in PROMPTS]}, Rng(range(4)), model.Sampling(tokens=60))
    while not state.done:
        state = model.step(state)
        live = len(PROMPTS) - int(state.ended_B.sum())
        assert len(state.rows_R) == state.cache.keys.shape[1] == (live or len(state.rows_R))
    assert bool(state.ended_B.any()) and state.lengths_B.max() == state.finished


@pytest.mark.parametrize("window", [3, 7])
def test_a_window_keeps_memory_constant_and_changes_nothing(window):
    torch.manual_seed(0)
    model = registry.build("generator", "language", {"size": "tiny", "context": 600, "window": window}).eval()
    state = model.start({"tokens": [[5, 6], [7]]}, Rng([0, 1]), model.Sampling(tokens=500, temperature=0))
    before = state.cache.capacity
    *_, last = decode(model, state)
    assert last.cache.capacity == before and last.cache.dropped > 0
    text = [7, *texts(last)[1]]
    with torch.no_grad():
        logits = model.logits(torch.tensor([text]))
    assert logits[0, :-1].argmax(-1).tolist() == text[1:]


def test_a_state_goes_on_from_a_file(model, tmp_path):
    state = model.start({"tokens": [torch.tensor(p) for p in PROMPTS]}, Rng(range(4)), model.Sampling(tokens=20))
    for _ in range(3):
        state = model.step(state)
    path = save_state(state, tmp_path / "state.safetensors")
    twin, loaded = copied(state), load_state(model, path)
    ends = [texts(list(decode(model, each))[-1]) for each in (state, twin, loaded)]
    assert ends[0] == ends[1] == ends[2] and max(map(len, ends[0])) > 3
    with pytest.raises(ValueError, match="exists"):
        save_state(state, path)


def test_a_damaged_state_is_one_line(model, tmp_path):
    from safetensors.torch import save_file

    save_file({"data": torch.zeros(1, 1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="holds no state"):
        load_state(model, tmp_path / "a.safetensors")
    save_file({"data": torch.zeros(1, 1)}, tmp_path / "b.safetensors", {"numbers": "{}"})
    with pytest.raises(ValueError, match="is missing or damaged"):
        load_state(model, tmp_path / "b.safetensors")
    state = model.step(model.start({"tokens": [[20, 21]]}, Rng([0]), model.Sampling(tokens=5)))
    whole = save_state(state, tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "d.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="is missing or damaged"):
        load_state(model, tmp_path / "d.safetensors")


def test_a_state_of_a_model_of_another_shape_is_one_line(model, tmp_path):
    state = model.step(model.start({"tokens": [[20, 21]]}, Rng([0]), model.Sampling(tokens=5)))
    path = save_state(state, tmp_path / "state.safetensors")
    fields = model.config.model_dump() | {"depth": model.config.depth + 1}
    other = type(model)(type(model.config).parse(fields))
    with pytest.raises(ValueError, match=r"got keys of \d+ layers.*, accepted: \d+, \d+ and \d+, as this model has"):
        load_state(other, path)


@pytest.mark.parametrize("cold", [1e-300, 1e-30, 1e-7])
def test_a_temperature_that_fp32_cannot_hold_is_greedy(model, cold):
    ends = []
    for temperature in (0, cold):
        settings = model.Sampling(tokens=6, temperature=temperature, top_p=0.9)
        *_, state = decode(model, model.start({"tokens": [[20, 21, 22]]}, Rng([0]), settings))
        ends.append(texts(state))
    assert ends[0] == ends[1]
    with pytest.raises(ValueError, match="repetition: got"):
        model.Sampling.parse({"repetition": 1e-300})


def test_tokens_out_of_range_have_no_probability(model):
    with pytest.raises(ValueError, match="tokens: got"):
        model.logprobs(torch.tensor([[1, model.config.vocabulary]]))


def test_a_chat_reads_only_what_is_new(model):
    settings = model.Sampling(tokens=6, temperature=0)
    *_, state = decode(model, model.start({"tokens": [[20, 21, 22]]}, Rng([0]), settings))
    text = [20, 21, 22, *texts(state)[0], 30, 31]
    *_, fresh = decode(model, model.start({"tokens": [text]}, Rng([0]), settings))
    passed = []
    handle = model.table.register_forward_hook(lambda module, args, out: passed.append(args[0].shape[1]))
    *_, state = decode(model, model.extend(state, text))
    handle.remove()
    assert texts(state) == texts(fresh) and passed[0] <= 4
    *_, other = decode(model, model.extend(state, [20, 40]))  # another text: what is shared stays
    *_, fresh = decode(model, model.start({"tokens": [[20, 40]]}, Rng([0]), settings))
    assert texts(other) == texts(fresh)


def test_repetition_costs(model):
    loud = run(model, [[5, 6, 7]], [0], temperature=0, repetition=10.0)
    assert len(set(texts(loud)[0])) == len(texts(loud)[0])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[]], "one or more whole numbers"),
        ([[1, 61]], "got tokens 1 to 61, accepted: 0 to 60"),
        ([[-1]], "got tokens -1 to -1"),
        ([[5] * 64], "a prompt of 64 tokens, accepted: at most 63"),
        ([[0.5]], "whole numbers"),
        ("no", "the tokens of 1 prompts"),
        ([[1], [2]], "the tokens of 1 prompts"),
    ],
)
def test_bad_prompts_are_one_line(model, prompts, message):
    with pytest.raises(ValueError, match=message):
        model.start({"tokens": prompts}, Rng([0]))
