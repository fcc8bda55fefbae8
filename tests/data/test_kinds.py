"""Kinds of data of other people's packages, which join by entry points."""

from importlib.metadata import EntryPoint

import pytest

from nextok_mm import data


def joined(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    points = [EntryPoint(name, value, data.GROUP)]
    monkeypatch.setattr(data, "entry_points", lambda group: points if group == data.GROUP else [])


@pytest.mark.parametrize("value", ["nextok_mm.data.tensors", "nextok_mm.data.tensors:Config"])
def test_a_kind_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    joined(monkeypatch, "mine", value)
    assert data.kinds()["mine"] == f"from {value}"
    assert data.config_class("mine") is data.config_class("tensors")


@pytest.mark.parametrize(
    "value, words",
    [
        ("no_such_module", "can't be imported"),
        ("nextok_mm.data.tensors:Nothing", "can't be imported"),
        ("nextok_mm.data.tensors:Tensors", "is no SourceConfig"),
        ("nextok_mm.rng", "is no SourceConfig"),
        ("", "can't be imported"),
        ("with space", "can't be imported"),
    ],
)
def test_an_entry_point_to_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    joined(monkeypatch, "mine", value)
    with pytest.raises(ValueError) as error:
        data.parse({"kind": "mine"})
    assert "data.kind 'mine'" in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


def test_ours_stay_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    joined(monkeypatch, "tensors", "nextok_mm.rng")
    assert data.kinds() == data.KINDS and data.config_class("tensors").__module__ == "nextok_mm.data.tensors"
    with pytest.raises(ValueError, match="did you mean 'tensors'"):
        data.parse({"kind": "tensor"})
