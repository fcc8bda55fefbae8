"""Finding a method by its name: `build("generator", "xar", {...})`, with nothing imported before it is asked for.

A kind is the name of its module: the generator `xar` lives in `generators/xar.py` and is imported the first time
somebody asks for it. Other people's packages join through the entry-point groups `nextok_mm.tokenizer`,
`nextok_mm.generator` and `nextok_mm.judge`; a config or a checkpoint can name only a registered kind, never a module.

The packages with our methods lie beside nextok_mm, and have general names. Where a user's own `generators` comes first
on the path, ours are imported under a name of our own, and the user's stays what `import generators` finds.
"""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

ROLES: dict[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizers_visual", "tokenizers_speech"),
    "generator": ("generators",),
    "judge": ("nextok_mm.eval.judges",),
}
BESIDE = Path(__file__).resolve().parent.parent
"""Where our packages lie, installed or in a checkout."""
_CLASSES: dict[tuple[str, str], type] = {}
T = TypeVar("T", bound=type)


def register(role: str, kind: str) -> Callable[[T], T]:
    """Class decorator that makes a model known as `kind` of `role`, and writes both onto the class."""
    assert role in ROLES, role

    def decorate(cls: T) -> T:
        other = _CLASSES.setdefault((role, kind), cls)
        assert other.__qualname__ == cls.__qualname__, f"{role} {kind!r} is registered twice: {other} and {cls}"
        cls.role, cls.kind = role, kind
        return cls

    return decorate


def kinds(role: str) -> dict[str, str]:
    """Every kind of a role that is installed -> the module that holds it. Imports none of them."""
    found: dict[str, str] = {}
    for package in map(_ours, ROLES[role]):
        spec = find_spec(package)
        for module in pkgutil.iter_modules(spec.submodule_search_locations if spec else []):
            if not module.name.startswith("_"):
                found[module.name] = f"{package}.{module.name}"
    for point in entry_points(group=f"nextok_mm.{role}"):
        found.setdefault(point.name, point.value.partition(":")[0].partition("[")[0].strip())
    return dict(sorted(found.items()))


def _ours(package: str) -> str:
    """The name under which a package of ours can be imported: its own, or `nextok_<name>` where a stranger has that."""
    init = BESIDE / package / "__init__.py"
    if "." in package or not init.is_file() or _is(package, init):
        return package
    name = f"nextok_{package}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return name


def _is(package: str, init: Path) -> bool:
    """Whether `import package` finds this file."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # a half-made module of that name
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == init


def get(role: str, kind: str) -> type:
    """The class of a kind; ValueError names the nearest kind where there is none of that name."""
    if role not in ROLES:
        raise ValueError(f"role: got {role!r}, accepted: {', '.join(ROLES)}")
    if (role, kind) not in _CLASSES:
        known = kinds(role)
        if kind not in known:
            near = difflib.get_close_matches(str(kind), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{role} kind: got {kind!r}, accepted: {', '.join(known)}{hint}")
        try:
            importlib.import_module(known[kind])
        except (ImportError, TypeError, ValueError) as error:  # of the name: `.name` and `` are none
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{role} kind {kind!r}: its module {known[kind]!r} can't be imported ({reason})"
            ) from error
        if (role, kind) not in _CLASSES:
            raise ValueError(f"{role} kind: module {known[kind]} registers no {role} named {kind!r}")
    return _CLASSES[role, kind]


def build(role: str, kind: str, fields: Mapping[str, Any] | None = None) -> Any:
    """A model with fresh weights from its config's fields (`size` picks a named preset, other fields override it)."""
    cls: Any = get(role, kind)
    return cls(cls.Config.parse(fields or {}, where=f"{role}.{kind}"))
