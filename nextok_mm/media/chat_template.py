"""Chat templates: how a conversation is written down for a model, in Jinja. They come from a checkpoint, so nothing in
one is trusted: no attribute of Python's is reached, and neither time nor memory is spent without a limit.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import wraps
from types import FrameType
from typing import Any

MAX_TEMPLATE = 256 << 10
MAX_TEXT = 16 << 20
SECONDS = 2.0
_FILTERS = (
    "trim tojson length count join upper lower capitalize title replace default d first last list items dictsort sort "
    "unique reverse map select reject selectattr rejectattr string int float safe escape e sum max min"
).split()
_METHODS = {  # of texts, numbers, lists and mappings; others (translate, to_bytes, center) make any length at once
    *("strip lstrip rstrip split rsplit splitlines partition rpartition removeprefix removesuffix startswith".split()),
    *("endswith replace join upper lower title capitalize find rfind index count casefold swapcase".split()),
    *("isdigit isnumeric isdecimal isalpha isalnum isspace isupper islower istitle items keys values get copy".split()),
}
_PLAIN = (str, bytes, int, float, list, tuple, dict, range)
_PART = 128
"""Letters that a part of a list or a mapping counts for, at least."""


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
    except (JinjaError, RecursionError, TypeError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
        raise TemplateError(f"chat template: {_line(error) or type(error).__name__}") from None
    except SyntaxError as error:  # of the Python that it is compiled to, such as blocks in a hundred blocks
        raise TemplateError(f"chat template: {_line(error.msg)}") from None


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
        from jinja2 import nodes, pass_context
        from jinja2.exceptions import SecurityError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from jinja2.visitor import NodeTransformer
    except ImportError:
        raise TemplateError("chat templates need a package: pip install 'nextok_mm[language]'") from None

    def held(node: Any) -> Any:
        return nodes.Filter(node, "held", [], [], None, None)

    @pass_context  # which also says that no constant is computed while a template is compiled, without a clock
    def finalize(context: Any, value: Any) -> Any:
        return _held(value)

    class Joins(NodeTransformer):  # a ~ b is [a, b] | join, which asks for the length first
        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            return nodes.Filter(nodes.List(node.nodes), "join", [], [], None, None)

        def visit_Compare(self, node: Any) -> Any:  # lists of lists take as long as they are when written out
            self.generic_visit(node)
            node.expr = held(node.expr)
            for operand in node.ops:
                operand.expr = held(operand.expr)
            return node

        def visit_Pair(self, node: Any) -> Any:  # a key's hash does too
            self.generic_visit(node)
            node.key = held(node.key)
            return node

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
                return _replace(owner, *args)
            if isinstance(owner, str) and name == "join":
                return _join(args[0], owner)
            _held((owner if isinstance(owner, _PLAIN) else None, args, named))
            return super().call(context, obj, *args, **named)

        def wrap_str_format(self, value: Any) -> Any:
            return None  # then `is_safe_attribute` refuses it

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            known = not isinstance(obj, _PLAIN) or attr in _METHODS
            return known and super().is_safe_attribute(obj, attr, value)

        def getitem(self, obj: Any, argument: Any) -> Any:
            return super().getitem(obj, _held(argument))

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
        optimized=False,
        finalize=finalize,
    )
    filters = {name: used for name, used in environment.filters.items() if name in _FILTERS}
    filters |= {"tojson": _to_json, "replace": _replace}
    environment.filters = {name: _careful(used) for name, used in filters.items()} | {"join": _join, "held": _held}
    environment.tests = {name: _careful(used) for name, used in environment.tests.items()}
    environment.globals = {
        name: environment.globals[name] for name in ("range", "dict", "namespace", "cycler", "joiner")
    } | {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form[:100])}
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(f"chat template: {_line(message)}")


def _line(message: Any) -> str:
    """What a template says, in one line that does nothing to a terminal."""
    line = " ".join(str(_held(message)).split())[:200]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _held(value: Any) -> Any:
    """The value; TemplateError where it would be too long if it were written out.

    A list may hold another one twice, and that one a third: 40 of them are small in memory, and endless as text, in a
    comparison and in a hash. Those run in C, where no clock is asked, so they begin only with what has been counted.
    """
    todo, letters = [value], 0
    while todo:
        part = todo.pop()
        part = getattr(part, "_Namespace__attrs", part) if type(part).__name__ == "Namespace" else part
        if isinstance(part, Mapping):
            todo += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple | set | frozenset):
            todo += part
        letters += max(len(part), _PART) if isinstance(part, str | bytes) else _PART
        _check_length(letters)
    return value


def _careful(used: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test that is given nothing that would be too long if it were written out."""

    @wraps(used)
    def careful(*given: Any, **named: Any) -> Any:
        given = tuple([*part] if isinstance(part, Iterator) else part for part in given)
        _held((given, named))
        return used(*given, **named)

    return careful


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 16))


def _join(values: Any, between: str = "", attribute: str | None = None) -> str:
    parts, size, between = [], 0, str(_held(between))
    for value in values:
        parts.append(str(_held(value if attribute is None else value[attribute])))
        size += len(parts[-1]) + len(between)
        _check_length(size)
    return between.join(parts)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, count = str(_held(text)), -1 if count is None else count
    times = text.count(old) if count < 0 else min(count, text.count(old))
    _check_length(len(text) + times * len(new))
    return text.replace(old, new, count)


def _check_length(letters: int) -> None:
    if letters > MAX_TEXT:
        raise TemplateError(f"chat template: it makes a text of more than {MAX_TEXT} letters")


def _within(run: Callable[[], str]) -> str:
    """What `run` gives, unless it takes longer than SECONDS: every line of the template's code asks the clock of this
    thread, which stands still while a busy machine does other things."""
    deadline, before = time.thread_time() + SECONDS, sys.gettrace()

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() > deadline:
            raise _TooLong
        return watch

    sys.settrace(watch)
    try:
        return run()
    finally:
        sys.settrace(before)
