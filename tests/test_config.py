"""Configs: a mistake is one line that names the field, what was given and what is accepted."""

import pytest
from pydantic import model_validator

from nextok_mm import registry
from nextok_mm.config import Config, override, read_yaml
from nextok_mm.train import TrainConfig

FIELDS = {
    "model": {"role": "generator", "kind": "xar", "size": "tiny"},
    "data": {"kind": "tensors", "path": "x.safetensors"},
    "train": {"out": "run", "steps": 200, "batch": 8},
}


class Inner(Config):
    """Two fields that have to agree."""

    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> "Inner":
        if self.low > self.high:
            raise ValueError(f"low: got {self.low}, accepted: at most high {self.high}")
        return self


class Outer(Config):
    """A group in a group."""

    inner: Inner = Inner()
    name: str


@pytest.mark.parametrize(
    ("fields", "where", "line"),
    [
        ({"name": 3}, "", "name: got 3; Input should be a valid string"),
        ({"name": 3}, "outer", "outer.name: got 3; Input should be a valid string"),
        ({"name": 3}, "file x: ", "file x: name: got 3; Input should be a valid string"),
        ({}, "outer", "outer.name: required, and not given"),
        ({"name": "a", "innner": {}}, "", "innner: unknown key; did you mean 'inner'? (accepted: inner, name)"),
        (
            {"name": "a", "inner": {"lo": 1}},
            "outer",
            "outer.inner.lo: unknown key; did you mean 'low'? (accepted: high, low)",
        ),
        ({"name": "a", "inner": {"low": 4}}, "", "inner: low: got 4, accepted: at most high 1"),
        ({"name": "a", "inner": 4}, "", "inner: got 4; Input should be a valid dictionary or instance of Inner"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(fields: dict, where: str, line: str) -> None:
    with pytest.raises(ValueError) as error:
        Outer.parse(fields, where)
    assert str(error.value) == line


def test_a_mistake_between_fields_of_the_top_level_needs_no_other_name() -> None:
    with pytest.raises(ValueError, match="^low: got 4, accepted: at most high 1$"):
        Inner.parse({"low": 4})
    with pytest.raises(ValueError, match="^group: low: got 4"):
        Inner.parse({"low": 4}, "group")
    with pytest.raises(ValueError, match="^file x: low: got 4"):
        Inner.parse({"low": 4}, "file x: ")


@pytest.mark.parametrize(
    ("override_", "message"),
    [
        ("train.batch=7 train.accumulate=2", "^train.batch: got 7, accepted: a multiple of train.accumulate 2$"),
        ("train.steps=null", "^train.steps: got None"),
        ("model.role=generatr", "^role: got 'generatr', accepted: tokenizer, generator, judge$"),
        ("model.role=[1]", r"^model.role: got \[1\], accepted: a name"),
        ("model.kind=[1]", r"^model.kind: got \[1\], accepted: a name"),
        ("model.kind=xaar", "did you mean 'xar'"),
        ("model.size=[]", r"^model.size: got \[\], accepted: tiny, fashion, B, L, H$"),
        ("data.kind={}", "^data.kind: got {}, accepted: clips, emoji, fashion_mnist"),
        ("train=3", "^train: got 3, accepted: a group of fields$"),
        ("surprise=1", "^surprise: unknown key"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(override_: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        TrainConfig.parse(override(FIELDS, override_.split()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "^heads: got 3 for width 32, accepted: even width / heads$"),
        ({"heads": 16}, "head dim: got 2, accepted: even and at least 4 for 2 axes"),
        ({"entity": "cell", "entity_size": 3}, r"^entity_size: got 3 for a cell, accepted: divisors of the grid"),
        ({"grid": (4,)}, "^generator.xar.grid"),
        ({"grid": (4, 0)}, r"^grid: got \(4, 0\), accepted: one to three positive sides"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        registry.build("generator", "xar", {"size": "tiny", **fields})
    assert "\n" not in str(error.value)


def test_overrides_reach_their_field_and_leave_the_rest() -> None:
    plain = {"a": {"b": 1}, "c": [1]}
    assert override(plain, ["a.b=3e-4", "a.d=[1, 2]", "e=", "f=yes please"]) == {
        "a": {"b": 3e-4, "d": [1, 2]},
        "c": [1],
        "e": None,
        "f": "yes please",
    }
    assert plain == {"a": {"b": 1}, "c": [1]}
    for wrong, words in (
        ("a.b", "name.of.field=value"),
        ("=1", "name.of.field=value"),
        ("c.d=1", "'c' holds"),
        ("a=[", "not YAML"),
    ):
        with pytest.raises(ValueError, match=words):
            override(plain, [wrong])


@pytest.mark.parametrize(
    "text", ["[1, 2]", "a: [", "3: 4", "\x00", "a: !!python/object/apply:os.getcwd []", "- " * 100_000, "a: 2001-99-99"]
)
def test_a_file_that_is_no_config_is_one_line(tmp_path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="x.yaml: ") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


def test_a_config_that_is_missing_or_enormous_is_one_line(tmp_path) -> None:
    with pytest.raises(ValueError, match="no file"):
        read_yaml(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ValueError, match="at most 1048576 accepted"):
        read_yaml(tmp_path / "x.yaml")
