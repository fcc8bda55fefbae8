"""What every registered generator keeps whose rows end when they end."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.decoding.states import copied, load_state, save_state
from nextok_mm.rng import Rng

from .conftest import example

PROMPTS = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), min_size=2, max_size=4)


def run(model, prompts, seeds, **sampling):
    chosen = model.Sampling.parse({**model.config.sampling.model_dump(), "tokens": 12, **sampling})
    last: Any = list(decode(model, model.start({"tokens": prompts}, Rng(seeds), chosen)))[-1]
    return [last.data[row, : last.lengths_B[row]] for row in range(len(prompts))]


def same(some, others, rounding=1e-9):
    """Codes to the bit, latents but for rounding."""
    for one, other in zip(some, others, strict=True):
        within = rounding if one.is_floating_point() else 0
        torch.testing.assert_close(one, other, rtol=within, atol=within)


def test_a_row_is_the_same_alone_whatever_its_neighbours_are(open_ended):
    """In fp64, where the rounding of another batch size has nothing to tip over."""
    model = open_ended.double()

    @settings(deadline=None, max_examples=15, derandomize=True, phases=[Phase.generate])
    @given(PROMPTS, st.integers(0, 1 << 40))
    def check(prompts, seed):
        seeds = [seed + row for row in range(len(prompts))]
        same(run(model, prompts, seeds), [run(model, [p], [s])[0] for p, s in zip(prompts, seeds)])

    check()


def test_the_room_of_a_row_is_its_own(open_ended):
    """A neighbour that nearly fills the context takes nothing from the others."""
    context = getattr(open_ended.config, "context", None)
    if context is None:
        pytest.skip("a row may be of any length")
    prompts, greedy = [[5], [6] * (context - 2)], {"temperature": 0, "tokens": 20}
    both = run(open_ended, prompts, [0, 1], **greedy)
    assert torch.equal(both[0], run(open_ended, prompts[:1], [0], **greedy)[0]) and len(both[1]) <= 2


def test_every_step_adds_to_what_is_there(open_ended):
    states = [
        state.data.clone() for state in decode(open_ended, open_ended.start({"tokens": [[5], [6, 7]]}, Rng([1, 2])))
    ]
    for before, after in pairwise(states):
        assert torch.equal(after[:, : before.shape[1]], before)


def test_a_state_is_tensors_and_numbers(open_ended, tmp_path):
    chosen = open_ended.Sampling.parse({**open_ended.config.sampling.model_dump(), "tokens": 9})
    state = open_ended.start({"tokens": [[5], [6, 7]]}, Rng([1, 2]), chosen)
    state = open_ended.step(state)
    path = save_state(state, tmp_path / "state.safetensors")
    ends = [list(decode(open_ended, each))[-1].data for each in (copied(state), load_state(open_ended, path), state)]
    same(ends[:2], ends[1:], rounding=1e-5)


def test_nothing_leaks_from_later_tokens(open_ended):
    batch = example(open_ended, [1, 2])
    with torch.no_grad():
        before = open_ended.predict(batch, Rng([1, 2]))
        for place in range(batch["tokens"].shape[1]):
            tokens = batch["tokens"].clone()
            tokens[:, place] = tokens[:, place] + 1
            tokens = tokens if open_ended.num_codes is None else tokens % open_ended.num_codes
            after = open_ended.predict({**batch, "tokens": tokens}, Rng([1, 2]))
            assert torch.equal(after[:, :place], before[:, :place])
            assert not torch.equal(after[:, place:], before[:, place:])


def test_what_it_does_not_take_is_refused(open_ended):
    with pytest.raises(ValueError, match="labels: got a condition, accepted: .*tokens"):
        open_ended.start({"labels": torch.tensor([1])}, Rng([0]))
    with pytest.raises(ValueError, match="known: got known tokens"):
        open_ended.start(None, Rng([0]), None, Known(torch.zeros(1, 4).long(), torch.ones(4).bool()))
    wrongs = [torch.rand(2, 5), torch.zeros(2, 1).long(), torch.full((2, 5), open_ended.num_codes or 0)]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="tokens: got"):
            open_ended.loss({"tokens": wrong}, Rng([0, 1]))
