"""A row's result depends on its seed, its condition and what it keeps: not on its batch, its neighbours, or modes."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from nextok_mm.contracts import Generator, Known
from nextok_mm.decoding import decode
from nextok_mm.rng import Rng

from .conftest import example, tokenizer_output

KNOWN = ("nothing", "all", "some entities", "the first half", "some tokens")


def masks(model: Generator, kinds, seed: int) -> torch.Tensor:
    """bool [n, N]: what each row knows, one of `KNOWN`."""
    gen = torch.Generator().manual_seed(seed)
    tokens = example(model, [0])["tokens"].shape[1]
    layout, rows = model.layout, []
    for kind in kinds:
        some = torch.rand(tokens, generator=gen) < 0.5
        if kind == "some entities" and layout.kind != "scale":
            entities = layout.entity_ids[layout.inverse]
            some = (torch.rand(layout.entities, generator=gen) < 0.5)[entities]
        half = torch.arange(tokens) < tokens // 2
        rows.append({"nothing": some & False, "all": some | True, "the first half": half}.get(kind, some))
    return torch.stack(rows)


def sample(model: Generator, seeds, condition=None, known=None, **sampling) -> torch.Tensor:
    few = {"steps": 3} if "steps" in model.Sampling.model_fields else {}
    chosen = model.Sampling.parse({**model.config.sampling.model_dump(), **few, **sampling})
    *_, last = decode(model, model.start(condition, Rng(seeds), chosen, known))
    return last.data


def check_rows(model: Generator, seeds, condition, mask, **sampling) -> None:
    """Each row of a batch is that row alone: codes exactly, latents but for rounding.

    Codes are drawn in float64, where the rounding of another batch size has nothing to tip over.
    """
    model = model if model.num_codes is None else model.double()
    known = example(model, [1000 + seed for seed in seeds])["tokens"]
    together = sample(model, seeds, condition, Known(known, mask), **sampling)
    for row, seed in enumerate(seeds):
        mine = slice(row, row + 1)
        own = {name: part[mine] for name, part in (condition or {}).items()}
        alone = sample(model, [seed], own, Known(known[mine], mask[mine]), **sampling)
        if model.num_codes is None:
            torch.testing.assert_close(together[mine], alone, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(together[mine], alone), (row, mask.int().tolist())


def conditions(model: Generator, seeds):
    """Labels of so many rows, where it takes any."""
    return {"labels": example(model, seeds).get("labels")} if "labels" in model.takes else None


def rows(most: int = 3):
    """Seeds and what each row knows."""
    return st.lists(st.tuples(st.integers(0, 1 << 40), st.sampled_from(KNOWN)), min_size=2, max_size=most)


def refuses_keep(model: Generator) -> bool:
    known = example(model, [0])["tokens"]
    try:
        model.start(conditions(model, [0]), Rng([0]), None, Known(known, torch.ones(known.shape[1], dtype=torch.bool)))
    except ValueError:
        return True
    return False


def test_a_row_is_the_same_alone_whatever_its_neighbours_keep(generator):
    if refuses_keep(generator):
        pytest.skip("keeps nothing")

    @settings(deadline=None, max_examples=8, derandomize=True, phases=[Phase.generate])
    @given(rows(), st.integers(0, 1 << 20))
    def check(rows, seed):
        seeds, kinds = zip(*rows)
        check_rows(generator, seeds, conditions(generator, seeds), masks(generator, kinds, seed))

    check()


def test_what_all_rows_know_may_be_said_once_or_row_by_row(generator):
    """And a batch in which every row knows the same is that of one shared mask, to the bit."""
    if refuses_keep(generator):
        pytest.skip("keeps nothing")
    known, mask = example(generator, [9])["tokens"], masks(generator, ["some tokens"], 3)
    shared, each = (
        sample(generator, [1, 2], None, Known(known, where)) for where in (mask[0], mask.expand(2, -1).contiguous())
    )
    assert torch.equal(shared, each)


def dropping(model: nn.Module) -> nn.Module:
    """The model with dropout behind its first linear layer or convolution, where its own may be 0."""
    layer = next(module for module in model.modules() if type(module) in (nn.Linear, nn.Conv2d, nn.Conv3d))
    layer.dropout = nn.Dropout(0.5).eval()
    layer.register_forward_hook(lambda layer, given, out: layer.dropout(out))
    return model


def test_train_mode_changes_no_sample_and_is_left_on(generator):
    dropping(generator)
    seeds = [1, 2]
    expected = sample(generator, seeds, conditions(generator, seeds))
    generator.train()
    generator.frozen = nn.Linear(1, 1).eval()  # a part that its owner left in eval mode stays in it
    assert torch.equal(sample(generator, seeds, conditions(generator, seeds)), expected)
    modes = {module.training for module in generator.modules() if module is not generator.frozen}
    assert modes == {True} and not generator.frozen.training


def test_starting_needs_no_gradients(generator):
    seeds = [1, 2]
    state = generator.train().start(conditions(generator, seeds), Rng(seeds))
    tensors = [value for value in vars(state).values() if isinstance(value, torch.Tensor)]
    assert tensors and not any(tensor.requires_grad for tensor in tensors) and torch.is_grad_enabled()


@pytest.mark.parametrize("begins, goes_on", [(True, False), (False, True), (True, True)])
def test_inference_mode_comes_and_goes(generator, begins, goes_on):
    """A sampling begun inside torch.inference_mode may go on outside, and the other way round."""
    seeds = [1, 2]
    expected = sample(generator, seeds, conditions(generator, seeds))
    few = {"steps": 3} if "steps" in generator.Sampling.model_fields else {}
    chosen = generator.Sampling.parse({**generator.config.sampling.model_dump(), **few})
    with torch.inference_mode(begins):
        states = decode(generator, generator.start(conditions(generator, seeds), Rng(seeds), chosen))
        next(states)
    with torch.inference_mode(goes_on):
        *_, last = states
    assert torch.equal(last.data, expected)


def test_a_tokenizer_reads_and_draws_the_same_in_train_mode(tokenizer):
    from nextok_mm.checkpoint import Card
    from nextok_mm.pipeline import Pipeline

    dropping(tokenizer)
    speaks = Pipeline(tokenizer, None, Card(role="tokenizer", kind=tokenizer.kind, name="t"))
    images = example(tokenizer, range(2))["images"]
    with torch.no_grad():
        expected = tokenizer_output(tokenizer, {"images": images})
    tokenizer.train()
    tokens = speaks.tokenize(images)
    assert torch.equal(speaks.detokenize(tokens).images, expected) and torch.equal(
        speaks.reconstruct(images).images, expected
    )
    assert all(module.training for module in tokenizer.modules())
