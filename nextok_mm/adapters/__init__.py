"""Published checkpoint families, one file each: key maps from their names to ours, and nothing else.

A family's name is its file's, unless that begins with `_`; `Adapter` says what a file has to offer. Here: how any of
them becomes a checkpoint folder of ours (`convert`), and what all of them ask of a published file first.
"""

import json
import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from safetensors import safe_open
from torch import Tensor

from .. import registry
from ..building import without_weights
from ..checkpoint import Card, fingerprint, from_pretrained, save_pretrained
from ..contracts import check_speaks
from ..files import check_out, write_files
from ..media.words import words_of

Converted = tuple[dict[str, Any], dict[str, Tensor]]
"""(fields of our config, our state dict)."""


@runtime_checkable
class Adapter(Protocol):
    """What the module of a family offers.

    ROLE, KIND: what `registry.build` takes to make a model of its fields; LICENSE: of the published weights.
    """

    ROLE: Literal["tokenizer", "generator"]
    KIND: str
    LICENSE: str

    def read(self, source: Path) -> Converted:
        """A published file or folder in our form; ValueError in one line where it isn't one. Nothing in it is run."""
        ...


@runtime_checkable
class HoldingAdapter(Adapter, Protocol):
    """The adapter of models that have another tokenizer inside, which may come from elsewhere than their file."""

    HOLDS_TOKENIZER: Literal[True]

    def read(self, source: Path, tokenizer: str | Path | None = None) -> Converted:
        """As above; tokenizer: what takes the place of the file's own."""
        ...

    def note(self, fields: Mapping[str, Any]) -> str | None:
        """What is to be said about a converted model, in one line; None: nothing."""
        ...


@runtime_checkable
class ReadingAdapter(Adapter, Protocol):
    """The adapter of models that read text by a text tokenizer of their own."""

    def files(self, source: Path) -> dict[str, bytes]:
        """What belongs beside the weights, by name; ValueError where it can't be read."""
        ...


@runtime_checkable
class WordsAdapter(ReadingAdapter, Protocol):
    """The adapter of models that write texts too, and that `load` reads as they are."""

    def recognizes(self, source: Path) -> bool:
        """Whether a folder or file has the published form of this family."""
        ...

    def fields(self, source: Path) -> dict[str, Any]:
        """The fields that `read` gives, before any weight is read."""
        ...


def kinds() -> list[str]:
    """The families that can be converted."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def adapter(kind: str) -> Adapter:
    """The module of a family; ValueError in one line where there is none of that name."""
    if kind not in kinds():
        raise ValueError(f"kind: got {kind!r}, accepted: {', '.join(kinds())}")
    return cast(Adapter, import_module(f"{__name__}.{kind}"))


def convert(
    kind: str, source: str | Path, folder: str | Path, tokenizer: str | None = None, force: bool = False
) -> str | None:
    """Write a published checkpoint of a family as a folder that `load` takes; what is to be said about it, if anything.

    tokenizer: what a generator speaks through, or, for a model with a tokenizer inside, what takes that one's place.
    ValueError in one line for what doesn't fit, before the source is read where that can be known.
    """
    source, folder, family = Path(source), Path(folder), adapter(kind)
    check_out(folder, force)
    holding = family if isinstance(family, HoldingAdapter) else None
    about, meta = {"converted from": source.name}, dict[str, Any]()
    if tokenizer is None or holding is None:
        if tokenizer is not None and family.ROLE != "generator":
            raise ValueError(f"tokenizer: got {tokenizer!r}, accepted: none, a {kind} is a tokenizer by itself")
        spoken = None if tokenizer is None else from_pretrained(tokenizer, role="tokenizer")[0]
        fields, state = family.read(source)
        model = _filled(family, fields, state, f"{kind} checkpoint {source}")
        if spoken is not None:
            check_speaks(model, spoken, f"{tokenizer}", f"{source}")
            meta = {"tokenizer": tokenizer, "tokenizer_fingerprint": fingerprint(spoken)}
    else:
        fields, state = holding.read(source, tokenizer)
        model = _filled(family, fields, state, f"{kind} checkpoint {source}")
        about["stands on"] = Path(tokenizer).name
    beside = family.files(source) if isinstance(family, ReadingAdapter) else {}
    if beside:  # what can't be read is said before anything is written
        words = words_of(beside, f"{kind} checkpoint {source}")
        meta |= {"tokenizer_fingerprint": words.fingerprint} if isinstance(family, WordsAdapter) else {}
    save_pretrained(model, folder, name=folder.name, license=family.LICENSE, about=about, **meta)
    write_files(folder, beside)
    return None if holding is None else holding.note(fields)


def published(source: Path) -> WordsAdapter | None:
    """The family whose published form a folder or file has, of those that can be used without converting."""
    families = (adapter(kind) for kind in kinds())
    return next((family for family in families if isinstance(family, WordsAdapter) and family.recognizes(source)), None)


def card_of(family: WordsAdapter, source: Path) -> Card:
    """What would stand in the config.json of a published checkpoint; ValueError in one line as of its `read`."""
    about = {"family": family.__name__.rpartition(".")[2], "form": "published"}  # type: ignore[attr-defined]
    named = {"role": family.ROLE, "kind": family.KIND, "name": source.stem, "license": family.LICENSE, "about": about}
    return Card.parse({**named, "fields": family.fields(source)}, where=f"checkpoint {source}: ")


def opened(family: WordsAdapter, source: Path, dtype: torch.dtype | None = None) -> tuple[Any, Card]:
    """A published checkpoint as a model in eval mode, without a folder of ours in between, and its card."""
    card = card_of(family, source)
    fields, state = family.read(source)
    return _filled(family, fields, state, f"checkpoint {source}", dtype).eval(), card


@torch.inference_mode(False)
def _filled(
    family: Adapter,
    fields: Mapping[str, Any],
    state: dict[str, Tensor],
    where: str,
    dtype: torch.dtype | None = None,
) -> Any:
    """A model of these fields that takes over the tensors of `state`, which is empty afterwards: none is held twice.

    Nothing is drawn for it first. dtype: of floating weights (None: as the model has them). ValueError in one line
    where the tensors don't fit.
    """
    with without_weights((len(state), sum(tensor.numel() for tensor in state.values()))):
        model = registry.build(family.ROLE, family.KIND, fields)
    expected, used, weights = model.state_dict(), set[int](), dict[str, Tensor]()
    for name in list(state):
        tensor = state.pop(name)
        if name in expected:
            own = expected[name]
            tensor = tensor.to(dtype if dtype is not None and own.is_floating_point() else own.dtype)
        place = tensor.untyped_storage().data_ptr()
        weights[name] = tensor.clone() if place in used else tensor  # parts of one tensor, which no file can share
        used.add(place)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())[:300]}") from None
    return model if dtype is None else model.to(dtype)  # buffers that no file holds


def tensors(where: str, found: Any) -> dict[str, Tensor]:
    """What a file holds as its weights, by name; ValueError in one line names what is no tensor."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{where}: weights: got {type(found).__name__}, accepted: tensors by name")
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{where}: weight {str(name)!r}: got {type(value).__name__}, accepted: a tensor")
    return {str(name): value for name, value in found.items()}


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without what torch.compile (`_orig_mod.`) and DDP (`module.`) put before, or into, their names."""
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        plain = name.replace("_orig_mod.", "")
        while plain.startswith("module."):
            plain = plain.removeprefix("module.")
        if plain in named:
            raise ValueError(f"weights: {plain!r} is there twice, once as {name!r}")
        named[plain] = tensor
    return named


def described(source: Path) -> Any:
    """What a .safetensors file says of itself under `config`, as data; nothing where it, or another file, doesn't."""
    if source.suffix != ".safetensors":
        return {}
    with safe_open(source, "pt") as file:
        return json.loads((file.metadata() or {}).get("config", "{}"))


def numbered(names: Iterable[str], prefix: str) -> int:
    """One more than the highest number behind `prefix` (`layers.`); ValueError names a key that has none there."""
    highest = -1
    for name in names:
        if name.startswith(prefix):
            number = name.removeprefix(prefix).partition(".")[0]
            if not number.isdecimal():
                raise ValueError(f"unknown key {name!r}, accepted: a number behind {prefix!r}")
            highest = max(highest, int(number))
    if highest < 0:
        raise ValueError(f"no key begins with {prefix!r}")
    return highest + 1
