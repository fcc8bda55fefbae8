"""Typed, frozen configs: strict loading, one clear line for a mistake, `a.b=value` overrides.

Every config is a pydantic model that forbids unknown keys. YAML is read with the safe loader, and nothing in a config
names code: methods are named by their registered kind. A number is finite, in range and of its field's own type: true
is no 1, text is no number, and a field without an upper bound of its own has its class's.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from .borrowed import FORMER, NEAR

C = TypeVar("C", bound="Config")
M = TypeVar("M", bound="ModelConfig")
Channels = Annotated[int, Field(gt=0, le=1 << 16)]
"""Of one convolution."""
MAX_BYTES = 1 << 20
MAX_NODES = 1 << 18
"""Values of a YAML file, those counted again that an alias repeats."""
MAX_LENGTH = 1 << 12
"""Numbers of one field."""
MAX_LINES = 5
"""Mistakes that are told at once."""
MAX_FLOAT = 3e38
"""What still is finite in single precision."""


class Config(BaseModel):
    """Base of every config: frozen, strict about names, and about what is a number.

    Each field says what it means in its `description`, which `nextok info` and the messages of mistakes show.

    LARGEST: the bound, on both sides, of whole numbers whose field has no upper bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)
    LARGEST: ClassVar[int] = (1 << 63) - 1

    @model_validator(mode="before")
    @classmethod
    def _own_types(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        fields = dict(cast(Mapping[Any, Any], given))
        for name, field in cls.model_fields.items():
            if name in fields:
                try:
                    bounded = any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in field.metadata)
                    largest = Config.LARGEST if bounded else cls.LARGEST
                    fields[name] = _plain(fields[name], _types(field.annotation), largest)
                except ValueError as error:
                    found = {"field": name, "given": shown(fields[name]), "reason": str(error)}
                    raise PydanticCustomError("own_type", "{field}: {reason}", found) from None
        return fields

    @classmethod
    def parse(cls: type[C], fields: Mapping[str, Any], where: str = "") -> C:
        """Validate plain data; ValueError in one line: which field, what was given, what is accepted.

        where: what stands before a field's name: the group that it is in (`optim`), or an introduction (`file x: `).
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            lines = [_line(cls, item, where) for item in error.errors()[:MAX_LINES]]
            raise ValueError("; ".join(lines)) from None
        except RecursionError:
            raise ValueError(f"{where or cls.__name__}: nested too deeply") from None


class ModelConfig(Config):
    """Base of the config of a tokenizer, generator or judge. `SIZES` names presets that `size:` expands to.

    LARGEST: no width, count or side of a model is over a million; a field that may be says so (`Field(le=...)`).
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}
    LARGEST: ClassVar[int] = 1 << 20

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
    if item["type"] == "own_type":
        found = item["ctx"]
        return f"{_name(where, (*item['loc'], found['field']))}: got {found['given']}; {found['reason']}"
    path = _name(where, item["loc"])
    reason = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if item["type"] == "extra_forbidden":
        known = _fields_at(cls, item["loc"][:-1])
        name = str(item["loc"][-1])
        if today := next((today for today in FORMER.get(name, ()) if today in known), None):
            return f"{path}: unknown key, which is called {_explained(today, known[today])} now"
        near = difflib.get_close_matches(name, known, n=2, cutoff=NEAR)
        hint = f"; did you mean {' or '.join(_explained(each, known[each]) for each in near)}?" if near else ""
        return f"{path}: unknown key{hint} (accepted: {', '.join(sorted(known))})"
    if item["type"] == "missing":
        return f"{path}: required, and not given"
    if isinstance(item["input"], Mapping | BaseModel) and item["type"] in ("value_error", "assertion_error"):
        return f"{path}: {reason}" if path else reason  # fields that don't go together: the reason names them
    return f"{path}: got {shown(item['input'])}; {reason}"


def shown(value: Any) -> str:
    """What was given, as at most 80 letters in one line of a message."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of over 4300 digits
        text = f"a {type(value).__name__} that is too long to write"
    return text if len(text) < 80 else text[:77] + "..."


def _types(annotation: Any) -> frozenset[Any]:
    """The types of the single values that a field's annotation allows: `tuple[int, ...] | None` -> int, NoneType."""
    if get_origin(annotation) is Literal:
        return frozenset(cast(Any, type(value)) for value in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple, list):
        return frozenset[Any]().union(*(_types(part) for part in get_args(annotation) if part is not Ellipsis))
    return frozenset([annotation])


def _plain(value: Any, types: frozenset[Any], largest: int) -> Any:
    """A field's value, its numbers checked against the field's types; ValueError for one that isn't of its type."""
    numeric = bool(types & {int, float})
    if Any in types:
        return value
    if isinstance(value, list | tuple):
        parts = list(cast(Iterable[Any], value))
        if numeric and len(parts) > MAX_LENGTH:
            raise ValueError(f"Input should have at most {MAX_LENGTH} numbers, not {len(parts)}")
        return [_plain(part, types, largest) for part in parts]
    if isinstance(value, Written):
        value = value if numeric or str not in types else value.text
    if isinstance(value, bool | str) and numeric and type(value) not in types:
        if isinstance(value, str) and Written.FORM.fullmatch(value):
            return _plain(float(value), types, largest)
        raise ValueError(f"Input should be a number, not {'text' if isinstance(value, str) else 'true or false'}")
    if bool in types and not numeric and not isinstance(value, bool) and value is not None:
        raise ValueError("Input should be true or false")
    if numeric and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("Input should be a finite number")
        bound = MAX_FLOAT if float in types else largest
        if abs(value) > bound:
            raise ValueError(f"Input should be at most {bound} in size")
    return value


class Written(float):
    """A number as `3e-4`, which YAML 1.1 reads as text: a number where a field wants one, its `text` elsewhere."""

    FORM = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    text: str

    def __new__(cls, text: str) -> "Written":
        """The number that `text` is, in Python's way of writing it."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def _name(where: str, loc: Iterable[Any]) -> str:
    """`optim`, (`lr`,) -> `optim.lr`; `file x: `, (`lr`,) -> `file x: lr`."""
    field = ".".join(map(str, loc))
    if where.endswith(": "):
        return where + field if field else where.removesuffix(": ")
    return ".".join(part for part in (where, field) if part)


def _explained(name: str, field: FieldInfo) -> str:
    """A field for a message, with the first clause of its description: `'steps' (solver steps per entity)`."""
    clause = re.split(r"[,;:(.]( |$)", field.description or "")[0].strip()
    if clause[1:2].islower():  # no abbreviation
        clause = clause[0].lower() + clause[1:]
    return f"{name!r} ({clause})" if clause else repr(name)


def described(config: "Config", group: str = "") -> Iterator[tuple[str, Any, str]]:
    """The fields of a config and of the groups in it: name (`sampling.steps`), value as plain data, description."""
    plain = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from described(value, f"{group}{name}.")
        else:
            yield group + name, plain[name], field.description or ""


def _fields_at(cls: Any, loc: Iterable[Any]) -> dict[str, FieldInfo]:
    """The fields of the (nested) config at `loc`, by name."""
    for part in loc:
        field = getattr(cls, "model_fields", {}).get(part)
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        cls = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), cls)
    return dict(getattr(cls, "model_fields", {}))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from disk (safe loader, at most 1 MiB); ValueError in one line where it isn't one."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config: no file {str(path)!r}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"config {path}: {path.stat().st_size} bytes, at most {MAX_BYTES} accepted")
    try:
        data = _yaml(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"config {path}: not YAML: {' '.join(str(error).split())[:200]}") from None
    if not _is_named(data):
        raise ValueError(f"config {path}: a mapping of names to values is accepted, got {type(data).__name__}")
    return data


def _is_named(data: Any) -> bool:
    """Whether it is a mapping whose keys are text."""
    return isinstance(data, dict) and all(isinstance(key, str) for key in cast(dict[Any, Any], data))


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b.c=value` assignments applied, the last one of a name counts; values are read as YAML
    scalars or flow lists."""
    result: dict[str, Any] = _copy(data)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ValueError(f"override: got {assignment!r}, accepted: name.of.field=value")
        try:
            value = _copy(_yaml(text)) if text else None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = f" ({error})" if isinstance(error, _Refused) else ""
            raise ValueError(f"override {name}: the value {shown(text)} is not YAML{reason}") from None
        *folders, leaf = name.split(".")
        node = result
        for folder in folders:
            inner: Any = node.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise ValueError(f"override {name}: {folder!r} holds a single value, not a group of fields")
            node = cast(dict[str, Any], inner)
        node[leaf] = value
    return result


class _Loader(yaml.SafeLoader):
    """Whole numbers as YAML 1.2 has them: in 1.1, which PyYAML reads, 010 is eight, and 1:30 is ninety."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {  # pyright: ignore
        first: [(tag, form) for tag, form in known if not tag.endswith(":int")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        """As in the base class, but 1:30.5 is text."""
        return node.value if ":" in node.value else super().construct_yaml_float(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Decimal, or with 0x, 0o or 0b before it."""
        text = node.value.replace("_", "")
        return int(text, 10 if text.lstrip("+-").isdigit() else 0)


_loader: Any = _Loader  # PyYAML's types are known in part
_loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)$"),
    list("-+0123456789"),
)
_loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


class _Refused(ValueError):
    """YAML that would be read, and isn't accepted."""


def _yaml(text: str) -> Any:
    """The data of a YAML text, by the safe loader; `_Refused` where a name is given twice, or aliases make it huge."""
    loader: Any = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except (AttributeError, KeyError, TypeError):  # `!!bool x`
        raise _Refused("it isn't what its tag (!!) says") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node is, those of aliases each time; before anything is made of it.

    known: what has been counted, None for those that are being counted.
    """
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise _Refused("an alias (*name) stands inside what it repeats")
        return found
    known[id(node)] = None
    count, seen = 1, set[Any]()
    for part in node.value if isinstance(node, yaml.CollectionNode) else ():
        if isinstance(node, yaml.MappingNode):
            key = (part[0].tag, part[0].value) if isinstance(part[0], yaml.ScalarNode) else None
            if key in seen and key is not None:
                where = f"line {part[0].start_mark.line + 1}"
                raise _Refused(f"{where}: {shown(part[0].value)} is given twice in one group, accepted: once")
            seen.add(key)
        count += sum(_count(inner, known) for inner in (part if isinstance(node, yaml.MappingNode) else (part,)))
        if count > MAX_NODES:
            raise _Refused(f"over {MAX_NODES} values, those counted that aliases (*name) repeat")
    known[id(node)] = count
    return count


def _copy(node: Any) -> Any:
    """A deep copy in which `3e-4` is a number too (see `Written`)."""
    if isinstance(node, dict):
        return {key: _copy(value) for key, value in cast(dict[Any, Any], node).items()}
    if isinstance(node, list):
        return [_copy(value) for value in cast(list[Any], node)]
    return Written(node) if isinstance(node, str) and Written.FORM.fullmatch(node) else node
