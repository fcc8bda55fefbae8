"""Typed, frozen configs: strict loading, one clear line for a mistake, `a.b=value` overrides.

Every config is a pydantic model that forbids unknown keys. YAML is read with the safe loader, and nothing in a config
names code: methods are named by their registered kind.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

C = TypeVar("C", bound="Config")
M = TypeVar("M", bound="ModelConfig")
MAX_BYTES = 1 << 20


class Config(BaseModel):
    """Base of every config: frozen, strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def parse(cls: type[C], fields: Mapping[str, Any], where: str = "") -> C:
        """Validate plain data; ValueError in one line: which field, what was given, what is accepted.

        where: what stands before a field's name: the group that it is in (`optim`), or an introduction (`file x: `).
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise ValueError("; ".join(_line(cls, item, where) for item in error.errors())) from None


class ModelConfig(Config):
    """Base of the config of a tokenizer, generator or judge. `SIZES` names presets that `size:` expands to."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}

    @classmethod
    def parse(cls: type[M], fields: Mapping[str, Any], where: str = "") -> M:
        """As `Config.parse`, after `size: NAME` has been replaced by that preset's fields."""
        fields = dict(fields)
        size = fields.pop("size", None)
        if size is None:
            return super().parse(fields, where)
        if not isinstance(size, str) or size not in cls.SIZES:
            raise ValueError(f"{where or cls.__name__}.size: got {size!r:.80}, accepted: {', '.join(cls.SIZES)}")
        return super().parse({**cls.SIZES[size], **fields}, where)


def _line(cls: type[BaseModel], item: Any, where: str) -> str:
    """One mistake as `group.field: got this, accepted: that`."""
    path = _name(where, item["loc"])
    reason = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if item["type"] == "extra_forbidden":
        known = _fields_at(cls, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{path}: unknown key{hint} (accepted: {', '.join(known)})"
    if item["type"] == "missing":
        return f"{path}: required, and not given"
    if isinstance(item["input"], Mapping | BaseModel) and item["type"] in ("value_error", "assertion_error"):
        return f"{path}: {reason}" if path else reason  # fields that don't go together: the reason names them
    given = repr(item["input"])
    return f"{path}: got {given if len(given) < 80 else given[:77] + '...'}; {reason}"


def _name(where: str, loc: Iterable[Any]) -> str:
    """`optim`, (`lr`,) -> `optim.lr`; `file x: `, (`lr`,) -> `file x: lr`."""
    field = ".".join(map(str, loc))
    if where.endswith(": "):
        return where + field if field else where.removesuffix(": ")
    return ".".join(part for part in (where, field) if part)


def _fields_at(cls: Any, loc: Iterable[Any]) -> list[str]:
    """The field names of the (nested) config at `loc`."""
    for part in loc:
        field = getattr(cls, "model_fields", {}).get(part)
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        cls = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), cls)
    return sorted(getattr(cls, "model_fields", {}))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from disk (safe loader, at most 1 MiB); ValueError in one line where it isn't one."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config: no file {str(path)!r}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"config {path}: {path.stat().st_size} bytes, at most {MAX_BYTES} accepted")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"config {path}: not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError(f"config {path}: a mapping of names to values is accepted, got {type(data).__name__}")
    return data


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b.c=value` assignments applied; values are read as YAML scalars or flow lists."""
    result = _copy(data)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ValueError(f"override: got {assignment!r}, accepted: name.of.field=value")
        try:
            value = _number(yaml.safe_load(text)) if text else None
        except yaml.YAMLError:
            raise ValueError(f"override {name}: the value {text!r} is not YAML") from None
        *folders, leaf = name.split(".")
        node = result
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise ValueError(f"override {name}: {folder!r} holds a single value, not a group of fields")
        node[leaf] = value
    return result


def _number(value: Any) -> Any:
    """YAML 1.1 reads `3e-4` as a string; people mean a number."""
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _copy(node: Any) -> Any:
    """A deep copy that also mends `3e-4` strings (see `_number`)."""
    if isinstance(node, dict):
        return {key: _copy(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_copy(value) for value in node]
    return _number(node)
