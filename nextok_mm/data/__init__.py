"""Where training rows come from: one file per kind of source, all saying the same two things, `len` and `batch`.

`parse({"kind": "fashion_mnist", "split": "train"}).open()` is a source. A new kind is one file with a `Config` and a
line in `KINDS`; other people's packages join through the entry-point group `nextok_mm.data`.
"""

import difflib
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .source import Source, SourceConfig

__all__ = ["KINDS", "Source", "SourceConfig", "config_class", "kinds", "parse"]

KINDS = {
    "clips": "video files of a folder, every subfolder a class (path, size; fps, start, flip, channels)",
    "emoji": "emoji drawn from the Noto font, with their names as captions (split, size, flip)",
    "fashion_mnist": "70,000 grey pictures of clothes in ten classes, 32 x 32 (split, flip, limit)",
    "image_folder": "picture files of a folder, every subfolder a class (path, size; crop, flip, channels)",
    "latents": "what `nextok cache` made of one of the others (folder)",
    "mazes": "mazes and the paths through them, as tokens (side, rows, shortest, longest)",
    "moving": "clips of two items of Fashion-MNIST that move (split, frames, rows)",
    "recall": "pairs of keys and values to be remembered, as tokens (pairs, queries, keys, values)",
    "speech": "sound files of a folder, with their text where it has any (path, size; rate, crop, rows)",
    "speech_latents": "sentences that a tokenizer of sounds encoded, with phonemes and their lengths (path; length)",
    "tensors": "a .safetensors file of images, tokens and labels (path)",
    "text": "text files of a folder: .txt, .md, .jsonl, .parquet (path; words, length, field, held_out)",
}
"""What each kind of ours is, and the fields that matter most; all are in the Config of its file."""
GROUP = "nextok_mm.data"
"""The entry points of other packages: a kind's name, and its module, or the config class in it (`module:Config`)."""


def kinds() -> dict[str, str]:
    """Every kind that is installed, and what it is. Imports none of them."""
    others = {point.name: f"from {point.value}" for point in entry_points(group=GROUP)}
    return {**others, **KINDS}


def parse(fields: Mapping[str, Any], where: str = "data") -> SourceConfig:
    """Validate the config of a source of training rows.

    Args:
        fields: The fields; `kind` says which source they belong to.
        where: What stands before a field's name in a message.

    Returns:
        The config, whose `open` gives the source.

    Raises:
        ValueError: There is no such kind, or a field of it is not accepted.

    Example:
        >>> from nextok_mm import data
        >>> data.parse({"kind": "image_folder", "path": "pictures", "size": 32}).size
        (32, 32)
    """
    return config_class(fields.get("kind"), where).parse(fields, where)


def config_class(kind: Any, where: str = "data") -> type[SourceConfig]:
    """The config class of a kind; ValueError in one line for a kind that there isn't."""
    known = kinds()
    if not isinstance(kind, str) or kind not in known:
        near = difflib.get_close_matches(str(kind), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{where}.kind: got {kind!r}, accepted: {', '.join(known)}{hint}")
    if kind in KINDS:
        return importlib.import_module(f"{__name__}.{kind}").Config
    return _others(next(point for point in entry_points(group=GROUP) if point.name == kind), where)


def _others(point: EntryPoint, where: str) -> type[SourceConfig]:
    """The config class that another package's entry point names; ValueError in one line where there is none."""
    try:
        found = point.load()
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # of the name: `.name` and `` are none
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{where}.kind {point.name!r}: {point.value!r} can't be imported ({reason})") from error
    cls = getattr(found, "Config", found)
    if not (isinstance(cls, type) and issubclass(cls, SourceConfig)):
        raise ValueError(f"{where}.kind {point.name!r}: {point.value!r} is no SourceConfig and holds none as Config")
    return cls
