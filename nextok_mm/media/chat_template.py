"""Chat templates: how a conversation is written down for a model, in Jinja. They come from a checkpoint, so nothing in
one is trusted: no attribute of Python's is reached, and neither time nor memory is spent without a limit.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import FrameType
from typing import Any

MAX_TEMPLATE = 256 << 10
MAX_TEXT = 16 << 20
SECONDS = 2.0
_FILTERS = (
    "trim tojson length count join upper lower capitalize title replace default d first last list items dictsort sort "
    "unique reverse map select reject selectattr rejectattr string int float safe escape e sum max min"
).split()
_WIDE = {"format", "format_map", "center", "ljust", "rjust", "zfill", "expandtabs"}  # methods that make any length


class TemplateError(ValueError):
    """A template that can't be used, or that refuses a conversation; the text says which."""


class _TooLong(Exception):
    """The template ran longer than it may."""


def render(template: str, messages: Sequence[Mapping[str, Any]], answer: bool, special: Mapping[str, str]) -> str:
    """A conversation as text. messages: each a `role` and a `content`; answer: end where the model's answer begins;
    special: the texts of special tokens by name (bos_token, eos_token ...).

    TemplateError in one line for a template that isn't Jinja, reaches for what it may not, takes too long, or refuses.
    """
    if len(template.encode()) > MAX_TEMPLATE:
        raise TemplateError(f"chat template: {len(template)} letters, at most {MAX_TEMPLATE} accepted")
    environment = _environment()
    from jinja2 import TemplateError as JinjaError

    try:
        compiled = environment.from_string(template)
        return _within(lambda: _written(compiled, messages, answer, special))
    except TemplateError:
        raise
    except _TooLong:
        raise TemplateError(f"chat template: it ran for more than {SECONDS:g} seconds") from None
    except (JinjaError, RecursionError, TypeError, ValueError, KeyError, ArithmeticError, MemoryError) as error:
        raise TemplateError(f"chat template: {' '.join(str(error).split())[:200] or type(error).__name__}") from None


def _written(compiled: Any, messages: Any, answer: bool, special: Mapping[str, str]) -> str:
    parts, size = [], 0
    for part in compiled.generate(messages=messages, add_generation_prompt=answer, **special):
        parts.append(part)
        size += len(part)
        _check_length(size)
    return "".join(parts)


def _environment() -> Any:
    """Jinja's sandbox, with operators, filters and methods that could make a text of any length held in check."""
    try:
        from jinja2 import nodes
        from jinja2.exceptions import SecurityError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from jinja2.visitor import NodeTransformer
    except ImportError:
        raise TemplateError("chat templates need a package: pip install 'nextok_mm[language]'") from None

    class Joins(NodeTransformer):  # a ~ b is [a, b] | join, which asks for the length first
        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            return nodes.Filter(nodes.List(node.nodes), "join", [], [], None, None)

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["+", "*", "**", "%"])

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            return Joins().visit(super()._parse(source, name, filename))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sides: tuple[Any, ...] = (left, right)
            numbers = isinstance(left, int | float) and isinstance(right, int | float)
            joined = operator == "+" and all(hasattr(side, "__len__") for side in sides)
            if not (numbers or joined) or (operator == "**" and max(abs(left), abs(right)) > 1000):
                raise SecurityError(f"{operator} of {type(left).__name__} and {type(right).__name__} is not accepted")
            if joined:
                _check_length(sum(len(side) for side in sides))
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, obj: Any, *args: Any, **named: Any) -> Any:  # type: ignore[override]
            owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
            if isinstance(owner, str) and name == "replace":
                return _replace(owner, *args[:2])
            if isinstance(owner, str) and name == "join":
                return _join(args[0], owner)
            return super().call(context, obj, *args, **named)

        def wrap_str_format(self, value: Any) -> Any:
            return None  # then `is_safe_attribute` refuses it

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in _WIDE and super().is_safe_attribute(obj, attr, value)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters = {name: used for name, used in environment.filters.items() if name in _FILTERS}
    environment.filters |= {"tojson": _to_json, "join": _join, "replace": _replace}
    environment.globals = {
        name: environment.globals[name] for name in ("range", "dict", "namespace", "cycler", "joiner")
    } | {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form[:100])}
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(f"chat template: {message}")


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 16))


def _join(values: Any, between: str = "", attribute: str | None = None) -> str:
    parts = [str(value if attribute is None else value[attribute]) for value in values]
    _check_length(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _replace(text: Any, old: str, new: str) -> str:
    text = str(text)
    _check_length(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _check_length(letters: int) -> None:
    if letters > MAX_TEXT:
        raise TemplateError(f"chat template: it makes a text of more than {MAX_TEXT} letters")


def _within(run: Callable[[], str]) -> str:
    """What `run` gives, unless it takes longer than SECONDS: every line of the template's code asks the clock."""
    deadline, before = time.monotonic() + SECONDS, sys.gettrace()

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > deadline:
            raise _TooLong
        return watch

    sys.settrace(watch)
    try:
        return run()
    finally:
        sys.settrace(before)
