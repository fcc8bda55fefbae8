"""Published checkpoint families, one file each: key maps from their names to ours, and nothing else.

Here: what all of them ask of a file first.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


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
