"""Every registered model, built at its `tiny` size: the suite runs over whatever the registry finds."""

import copy

import pytest
import torch

from nextok_mm import registry
from nextok_mm.contracts import Batch, Model, OrderedTokenizer, Tokenizer
from nextok_mm.rng import Rng


def pytest_generate_tests(metafunc):
    """`model` runs over every tokenizer, generator and trainable judge; `tokenizer` and `generator` over their role (of
    generators those with a layout, `open_ended` over the others); `ordered` over the tokenizers with ordered tokens."""
    for fixture, roles in {
        "model": ("tokenizer", "generator", "judge"),
        "tokenizer": ("tokenizer",),
        "ordered": ("tokenizer",),
        "generator": ("generator",),
        "open_ended": ("generator",),
    }.items():
        if fixture in metafunc.fixturenames:
            names = [(role, kind) for role in roles for kind in registry.kinds(role)]
            names = [name for name in names if "tiny" in registry.get(*name).Config.SIZES]
            names = [
                name for name in names if fixture != "ordered" or issubclass(registry.get(*name), OrderedTokenizer)
            ]
            if fixture in ("generator", "open_ended"):
                names = [name for name in names if registry.get(*name).open_ended == (fixture == "open_ended")]
            metafunc.parametrize(fixture, names, ids=["-".join(name) for name in names], indirect=True)


_BUILT: dict[tuple[str, str], Model] = {}


def _build(request) -> Model:
    """A model of its own for each test, with weights moved off their initial zeros so that nothing hides behind one."""
    if request.param not in _BUILT:
        torch.manual_seed(0)
        model = registry.build(*request.param, {"size": "tiny"})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        _BUILT[request.param] = model
    return copy.deepcopy(_BUILT[request.param]).eval()


model = pytest.fixture(_build, name="model")
tokenizer = pytest.fixture(_build, name="tokenizer")
ordered = pytest.fixture(_build, name="ordered")
generator = pytest.fixture(_build, name="generator")
open_ended = pytest.fixture(_build, name="open_ended")


def example(model: Model, seeds) -> Batch:
    """A batch of random rows."""
    return model.example(len(seeds), Rng(seeds))


def tokenizer_output(tokenizer: Tokenizer, batch: Batch) -> torch.Tensor:
    """There and back."""
    return tokenizer.decode(tokenizer.encode(batch["images"]))
