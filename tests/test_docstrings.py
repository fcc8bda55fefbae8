"""What users call says in whole sentences what it does, takes, gives and refuses, and its examples run."""

import dataclasses
import doctest
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import nextok_mm
from nextok_mm import checkpoint, contracts, data, media, pipeline, train
from nextok_mm.eval import quality
from nextok_mm.pipeline import chat, ladder, prediction, scores

FUNCTIONS: list[Callable[..., Any]] = [
    *(getattr(nextok_mm, name) for name in nextok_mm.__all__ if inspect.isfunction(getattr(nextok_mm, name))),
    *(checkpoint.save_pretrained, checkpoint.from_pretrained, data.parse, prediction.predict),
    *(train.load, train.train, quality.evaluate),
]
CLASSES: list[type] = [
    *(
        pipeline.Pipeline,
        pipeline.Result,
        ladder.Ladder,
        media.Medium,
        media.Pictures,
        media.Clips,
        media.Sounds,
        media.Words,
        media.Saving,
    ),
    *(chat.Chat, scores.Scores),
    *(contracts.Tokens, contracts.Known, contracts.State, contracts.OpenState, contracts.Model),
    *(contracts.Tokenizer, contracts.OrderedTokenizer, contracts.StreamingTokenizer, contracts.ClipTokenizer),
    contracts.Generator,
]


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions, and the public methods that a class of ours writes itself."""
    for function in FUNCTIONS:
        yield f"{function.__module__}.{function.__name__}", function
    for cls in CLASSES:
        for name, member in vars(cls).items():
            method = member.__func__ if isinstance(member, classmethod) else member
            if not name.startswith("_") and inspect.isfunction(method):
                yield f"{cls.__name__}.{name}", method


METHODS = dict(callables())


def sections(doc: str) -> dict[str, str]:
    """The text below each heading of a docstring."""
    parts = re.split(r"^(Args|Returns|Yields|Raises|Attributes|Example):$", inspect.cleandoc(doc), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def test_the_public_names_are_among_them() -> None:
    known = {*METHODS, *(cls.__name__ for cls in CLASSES)}
    assert all(any(key.endswith(name) for key in known) for name in nextok_mm.__all__)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_docstring_is_whole(name: str) -> None:
    method = METHODS[name]
    doc = method.__doc__ or ""
    first = inspect.cleandoc(doc).split("\n")[0]
    assert re.fullmatch(r"[A-Z].*\.", first), f"{first!r} is no sentence"
    if name.startswith(("Pictures.", "Clips.", "Sounds.", "Words.")) or re.search("[Ss]ee `", first):
        return  # the contract tells the rest; what differs from it is said in a sentence
    signature, found = inspect.signature(method), sections(doc)
    names = [parameter for parameter in signature.parameters if parameter not in ("self", "cls")]
    entries = re.findall(r"^    (\w+(?:, \w+)*): \S", found.get("Args", ""), re.MULTILINE)
    told = [part for entry in entries for part in entry.split(", ")]
    assert sorted(told) == sorted(names), f"{told} of {names}"
    gives = "Yields" if inspect.isgeneratorfunction(method) else "Returns"
    assert (signature.return_annotation in (None, "None")) != (gives in found), f"{gives}: {list(found)}"
    for text in found.values():
        assert ">>>" in text or text.strip().endswith("."), text


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_tells_its_attributes(cls: type) -> None:
    doc = inspect.cleandoc(cls.__doc__ or "")
    assert re.fullmatch(r"[A-Z].*\.", doc.split("\n")[0]), doc
    told = re.findall(r"^    (\w+): [A-Z0-9(]", sections(doc).get("Attributes", ""), re.MULTILINE)
    here = vars(cls).get("__annotations__", {})
    fields = (
        [each.name for each in dataclasses.fields(cls) if each.name in here] if dataclasses.is_dataclass(cls) else []
    )
    assert set(told) >= set(fields), f"{sorted(set(fields) - set(told))} are told nowhere"


WITH_EXAMPLE = [part for part in (*FUNCTIONS, *CLASSES, *METHODS.values()) if ">>>" in (part.__doc__ or "")]


def test_what_users_call_has_an_example() -> None:
    """But for what takes minutes: a training, an evaluation, clips."""
    without = {part.__name__ for part in FUNCTIONS} - {part.__name__ for part in WITH_EXAMPLE}
    assert without == {"train", "evaluate", "predict"}


@pytest.mark.parametrize("part", dict.fromkeys(WITH_EXAMPLE), ids=lambda part: part.__qualname__)
def test_examples_run(part: Any, tmp_path, monkeypatch) -> None:
    """As they stand, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(part.__doc__, {}, part.__qualname__, None, 0)
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert outcome.attempted and not outcome.failed, "".join(said)
