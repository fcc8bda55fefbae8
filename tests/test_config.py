"""Configs: a mistake is one line that names the field, what was given and what is accepted."""

import time
from typing import Literal

import pytest
from pydantic import Field, model_validator

from nextok_mm import registry
from nextok_mm.config import Config, ModelConfig, override, read_yaml
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


class Numbers(Config):
    """One field of each kind of number."""

    whole: int = 1
    real: float = 1.0
    few: Literal[1, 3] = 1
    truth: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    either: float | tuple[float, ...] | None = None
    name: str = ""
    bounded: int = Field(0, le=10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, True) for name in ("whole", "real", "few", "pair", "either", "bounded")],
        *[(name, "3") for name in ("whole", "real", "few", "either", "truth")],
        *[(name, odd) for name in ("real", "either") for odd in (float("nan"), float("inf"), 1e300, 10**400)],
        *[("pair", [0.0, odd]) for odd in (True, "1", float("nan"), -float("inf"))],
        *[("whole", odd) for odd in (10**30, -(10**30), 1e300, float("nan"), "1e400", 1.5)],
        *[("truth", odd) for odd in (1, 0, "yes", 1.0)],
        ("either", [1.0, float("inf")]),
        ("either", [0.0] * 5000),
        ("name", 3),
    ],
)
def test_a_number_is_finite_in_range_and_of_its_own_type(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}") as error:
        Numbers.parse({field: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_number_too_long_to_write_is_one_line() -> None:
    with pytest.raises(ValueError, match="^whole: got a int that is too long to write; .*at most"):
        Numbers.parse({"whole": 10**5000})


def test_numbers_that_people_write_are_taken() -> None:
    found = Numbers.parse({"whole": 3.0, "real": 3, "pair": [1, 2.5], "either": [1, 2], "truth": True, "few": 3})
    assert (found.whole, found.real, found.pair, found.either, found.few) == (3, 3.0, (1.0, 2.5), (1.0, 2.0), 3)
    told = override({"real": "1e-3"}, ["whole=1e3", "pair=[0, 1e-2]", "either=2E-1", "name=1e5"])
    found = Numbers.parse(told)
    assert (found.whole, found.real, found.pair, found.either) == (1000, 1e-3, (0.0, 0.01), 0.2)
    assert found.name == "1e5"  # a folder may be called so


def test_a_model_without_a_bound_has_one() -> None:
    class Foreign(ModelConfig):
        depth: int = 1
        codes: int = Field(2, le=1 << 40)

    assert Foreign.parse({"depth": 1 << 20, "codes": 1 << 40}).codes == 1 << 40
    with pytest.raises(ValueError, match="depth: got 1000000000; Input should be at most 1048576"):
        Foreign.parse({"depth": 10**9})


@pytest.mark.parametrize(
    ("override_", "message"),
    [
        ("optim.betas=[2,3]", "^optim.betas.0: got 2.*less than 1"),
        ("optim.lr=.nan", "^optim.lr: got nan; Input should be a finite number"),
        ("train.max_minutes=.inf", "^train.max_minutes: got inf"),
        ("train.batch=1e11", "^train.batch: got"),
        ("train.steps=true", "^train.steps: got True; Input should be a number"),
        ("train.cpu=1", "^train.cpu: got 1; Input should be true or false"),
        (f"final.name={'x' * 300}", "^final.name: got 'xxx.*at most 200"),
        (f"final.license={'[' * 3}", "is not YAML"),
        ("train.out=[&a x, *a, *a]", "^train.out: got"),
    ],
)
def test_a_training_with_odd_values_is_refused_at_once(override_: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        TrainConfig.parse(override(FIELDS, [override_]))
    assert "\n" not in str(error.value)


def test_a_folder_called_like_a_number_stays_a_name() -> None:
    assert TrainConfig.parse(override(FIELDS, ["train.out=1e5", "optim.lr=1e-4"])).train.out == "1e5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is given twice"),
        ("train: {steps: 1}\noptim: {lr: 1}\ntrain: {steps: 2}\n", "line 3: 'train' is given twice"),
        ("train:\n  steps: 1\n  batch: 2\n  steps: 3\n", "line 4: 'steps' is given twice"),
        ("a: [{b: 1, b: 2}]\n", "line 1: 'b' is given twice"),
        ("a: &x [*x]\n", "stands inside what it repeats"),
        ("a: &x {b: *x}\n", "stands inside what it repeats"),
    ],
)
def test_yaml_that_says_a_thing_twice_is_refused(tmp_path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["lists", "merges"])
def test_an_alias_bomb_is_refused_quickly(tmp_path, form: str) -> None:
    lines = ["a0: &a0 [x, x]" if form == "lists" else "a0: &a0 {x: 1}"]
    for level in range(1, 30):
        many = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{many}]" if form == "lists" else f"a{level}: &a{level} {{<<: [{many}]}}")
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    began = time.process_time()
    with pytest.raises(ValueError, match="bomb.yaml: not YAML: over 262144 values"):
        read_yaml(tmp_path / "bomb.yaml")
    with pytest.raises(ValueError, match="override a: .*over 262144 values"):
        override({}, [f"a={{{', '.join(lines)}}}"])
    assert time.process_time() - began < 2


def test_aliases_and_merges_that_stay_small_are_taken(tmp_path) -> None:
    (tmp_path / "x.yaml").write_text("base: &b {lr: 1e-3, n: 1}\nown: {<<: *b, n: 2}\nlist: [*b, *b]\n")
    found = read_yaml(tmp_path / "x.yaml")
    assert found["own"] == {"lr": "1e-3", "n": 2} and found["list"] == [found["base"]] * 2
    changed = override(found, ["base.n=5"])
    assert changed["base"]["n"] == 5 and changed["list"][0]["n"] == 1


def test_numbers_are_read_as_they_look() -> None:
    """YAML 1.1 takes 010 for eight and 1:30 for ninety."""
    for text, number in (("010", 10), ("-007", -7), ("1_000", 1000), ("0x10", 16), ("0o17", 15), ("+3", 3), ("08", 8)):
        assert override({}, [f"a={text}"]) == {"a": number}, text
    for text in ("1:30", "1:30.5", "-1:30:00"):
        assert override({}, [f"a={text}"]) == {"a": text}
        with pytest.raises(ValueError, match="train.steps: .*number, not text"):
            TrainConfig.parse(override(FIELDS, [f"train.steps={text}"]))


@pytest.mark.parametrize("value", ["!!timestamp x", "!!bool x", "!!int x", "!!float a", "!!binary 5", "!!set 3", "0x_"])
def test_a_value_that_is_not_what_its_tag_says_is_one_line(tmp_path, value: str) -> None:
    with pytest.raises(ValueError, match="override a: the value .* is not YAML"):
        override({}, [f"a={value}"])
    (tmp_path / "x.yaml").write_text(f"a: {value}")
    with pytest.raises(ValueError, match="x.yaml: not YAML"):
        read_yaml(tmp_path / "x.yaml")
