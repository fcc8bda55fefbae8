"""Every config field says in a sentence what it means, once, where it stands."""

import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, Field

from nextok_mm import data, registry
from nextok_mm.config import Config, described
from nextok_mm.data.latents import Manifest
from nextok_mm.sequence import BackboneConfig
from nextok_mm.train.config import TrainConfig


def groups(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A config class, and those of the groups in it, as deep as they go."""
    yield cls
    for field in cls.model_fields.values():
        parts = [field.annotation]
        while parts:
            part = parts.pop()
            parts += getattr(part, "__args__", ())
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from groups(part)


def found() -> dict[str, type[BaseModel]]:
    """Every config that a user can write: of models, their sampling, sources, trainings; and of the files we write."""
    classes: list[type[BaseModel]] = [TrainConfig, BackboneConfig, Manifest]
    for role in registry.ROLES:
        for kind in registry.kinds(role):
            model = registry.get(role, kind)
            classes += [model.Config, *([model.Sampling] if hasattr(model, "Sampling") else [])]
    classes += [data.config_class(kind) for kind in data.KINDS]
    reached = [part for cls in classes for part in groups(cls) if part.model_fields]
    return {f"{cls.__module__}.{cls.__qualname__}": cls for cls in reached}


CONFIGS = found()


def test_the_walk_reaches_groups_in_groups() -> None:
    for name in ("train.config.Optim", "features.text.Text", "_losses.Adversarial", "fsq.FSQConfig", "elm.Sampling"):
        assert any(key.endswith(name) for key in CONFIGS), name


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_field_has_a_description(name: str) -> None:
    fields = CONFIGS[name].model_fields
    for field, info in fields.items():
        text = info.description or ""
        assert re.fullmatch(r"[A-Z].*\.", text, re.DOTALL), f"{field}: {text!r} is no sentence"
        assert len(re.findall(r"[\w'-]{2,}", text.split(". ")[0])) >= 3, f"{field}: {text!r} says too little"
        assert "  " not in text and "\n" not in text, f"{field}: {text!r}"
    assert len({info.description for info in fields.values()}) == len(fields), "two fields are described alike"


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_field_is_described_twice(name: str) -> None:
    """A docstring says what a config is, and how fields go together; it is no second list of them."""
    doc = CONFIGS[name].__doc__ or ""
    again = [field for field in CONFIGS[name].model_fields if re.search(rf"(^|[\s;,`(]){field}`?(, \w+)*: ", doc)]
    assert not again


def test_descriptions_are_no_part_of_a_config() -> None:
    """What is stored and hashed is names and values alone."""
    config = registry.get("generator", "xar").Config.parse({"size": "tiny"})
    assert "solver steps" not in config.model_dump_json()
    rows = {name: (value, text) for name, value, text in described(config)}
    assert rows["sampling.steps"] == (40, type(config.sampling).model_fields["steps"].description)
    assert rows["grid"][0] == [4, 4] and "sampling" not in rows


def test_a_mistake_is_told_with_what_the_nearest_fields_mean() -> None:
    class Two(Config):
        steps: int = 1
        depth: int = Field(default=1, description="Number of blocks; at least one.")

    with pytest.raises(ValueError, match=r"dept: unknown key; did you mean 'depth' \(number of blocks\)\?"):
        Two.parse({"dept": 3})
    with pytest.raises(ValueError, match=r"step: unknown key; did you mean 'steps'\? \(accepted: depth, steps\)"):
        Two.parse({"step": 3})
