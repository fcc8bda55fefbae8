"""Whatever stands in a config: it is finite and in range, or refused in one line, and quickly; and so is its model."""

import copy
import math
import operator
import time
from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextok_mm import data, registry
from nextok_mm.building import without_weights
from nextok_mm.config import Config
from nextok_mm.train import TrainConfig

MODELS = [(role, kind) for role in registry.ROLES for kind in registry.kinds(role)]
SMALL = (100, 20_000)
"""Tensors and numbers of a tiny model's file."""
NUMBER = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 7, 64, 512, 4096, 65_536, 10**5, 10**6, 10**8, 10**9, 2**31, 2**63, 10**400]),
    st.sampled_from([0.5, -0.0, 1e-320, 1e300, -1e300, math.nan, math.inf, -math.inf, True, False]),
    st.sampled_from(["1", "1e5", "1e400", "nan", "", None]),
    st.integers(),
    st.floats(),
)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What is imported with the first model doesn't count."""
    for role, kind in MODELS:
        registry.build(role, kind, {"size": "tiny"})


VALUE = st.one_of(NUMBER, st.lists(NUMBER, max_size=4), st.lists(st.just(10**9), min_size=1, max_size=3))


def leaves(fields: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of all single values."""
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def changed(fields: dict[str, Any], values: list[tuple[int, Any]]) -> dict[str, Any]:
    """A copy with some values replaced, each by the number of its place."""
    fields, places = copy.deepcopy(fields), list(leaves(fields))
    for place, value in values:
        node, path = fields, places[place % len(places)]
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = value
    return fields


def finite(value: Any) -> bool:
    """Whether no number in it is infinite or none."""
    if isinstance(value, dict | list | tuple):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or abs(value) <= 3e38


def parsed(cls: type[Config], fields: dict[str, Any]) -> Config | None:
    """The config, where it is one; else the refusal is one line."""
    began = time.process_time()
    try:
        config = cls.parse(fields, "x")
    except ValueError as error:
        assert "\n" not in str(error) and type(error) is ValueError
        config = None
    assert time.process_time() - began < 1
    assert config is None or finite(config.model_dump())
    return config


CHANGES = st.lists(st.tuples(st.integers(0, 999), VALUE), min_size=1, max_size=3)


@pytest.mark.parametrize("role, kind", MODELS)
@settings(max_examples=60, deadline=None)
@given(values=CHANGES)
def test_any_numbers_in_a_model(role: str, kind: str, values: list[tuple[int, Any]]) -> None:
    cls: Any = registry.get(role, kind)
    base = cls.Config.parse({"size": "tiny"}).model_dump(mode="json")
    config = parsed(cls.Config, changed(base, values))
    if config is None:
        return
    began = time.process_time()
    try:
        with without_weights(SMALL):
            cls(config)
    except (ValueError, RuntimeError, ArithmeticError, MemoryError):  # `from_pretrained` makes one line of these
        pass
    assert time.process_time() - began < 2


@pytest.mark.parametrize("role, kind", MODELS)
def test_the_largest_of_every_number_in_a_model(role: str, kind: str) -> None:
    """Each field alone at every power of two: what its bound lets pass is refused while it is built, or built."""
    cls: Any = registry.get(role, kind)
    base = cls.Config.parse({"size": "tiny"}).model_dump(mode="json")
    for place, path in enumerate(leaves(base)):
        for power in (10, 16, 17, 20, 30):
            value = reduce(operator.getitem, path, base)
            large = [1 << power] * len(value) if isinstance(value, list) else 1 << power
            fields = changed(base, [(place, large)])
            began = time.process_time()
            try:
                with without_weights(SMALL):
                    cls(cls.Config.parse(fields, "x"))
            except (ValueError, RuntimeError, ArithmeticError, MemoryError):
                pass
            assert time.process_time() - began < 2, (path, power)


@settings(max_examples=150, deadline=None)
@given(values=CHANGES)
def test_any_numbers_in_a_training(values: list[tuple[int, Any]]) -> None:
    fields = {
        "model": {"role": "generator", "kind": "xar", "size": "tiny"},
        "data": {"kind": "tensors", "path": "x.safetensors"},
        "train": {"out": "run", "steps": 200, "batch": 8},
    }
    parsed(TrainConfig, changed(TrainConfig.parse(fields).plain(), values))


SOURCES = {
    "clips": {"path": "x", "size": [5, 8, 8]},
    "image_folder": {"path": "x", "size": [8, 8]},
    "latents": {"folder": "x"},
    "tensors": {"path": "x"},
}


@pytest.mark.parametrize("kind", ["clips", "emoji", "fashion_mnist", "image_folder", "latents", "moving", "tensors"])
@settings(max_examples=40, deadline=None)
@given(values=CHANGES)
def test_any_numbers_in_a_source(kind: str, values: list[tuple[int, Any]]) -> None:
    base = data.parse({"kind": kind, **SOURCES.get(kind, {})})
    parsed(type(base), changed(base.model_dump(mode="json"), values))
