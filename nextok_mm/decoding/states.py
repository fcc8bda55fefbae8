"""A generation under way as tensors and numbers: saved, loaded, copied, and gone on with.

What a `State` carries is tensors, numbers, its settings, its rows' random streams and a cache; nothing of it is code,
so a long prompt, a voice or a chat can be read once and kept in a file.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..config import Config
from ..contracts import Generator, State
from ..files import write_whole
from ..rng import Rng
from ..sequence.cache import KVCache
from ..weights import read_weights

S = TypeVar("S", bound=State)


def pack(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state by name, and its numbers; TypeError for a field that is neither."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for field in fields(state):
        name, value = field.name, getattr(state, field.name)
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, KVCache):
            tensors |= {f"{name}.{part}": tensor for part, tensor in value.tensors().items()}
            numbers[name] = {"window": value.window, "dropped": value.dropped}
        elif isinstance(value, Rng):
            tensors[name] = value.state()
        elif isinstance(value, Config):
            numbers[name] = value.model_dump(mode="json")
        elif value is None or isinstance(value, int | float | str | list):
            numbers[name] = value
        else:
            raise TypeError(f"{type(state).__name__}.{name} is a {type(value).__name__}, neither a tensor nor a number")
    return tensors, numbers


def unpack(kind: type[S], tensors: dict[str, Tensor], numbers: dict[str, Any], device: torch.device | str) -> S:
    """The state of a class that `pack` took apart; ValueError where something is missing."""
    hints, values = get_type_hints(kind), dict[str, Any]()
    for field in fields(kind):
        name, hint = field.name, hints[field.name]
        try:
            if f"{name}.keys" in tensors:
                keys, stored = (tensors[f"{name}.{part}"].to(device) for part in ("keys", "values"))
                values[name] = KVCache.of(keys, stored, **numbers[name])
            elif name in tensors:
                values[name] = Rng.of_state(tensors[name]) if hint is Rng else tensors[name].to(device)
            else:
                value = numbers[name]
                values[name] = hint.parse(value, name) if isinstance(hint, type) and issubclass(hint, Config) else value
        except (KeyError, TypeError, RuntimeError):
            raise ValueError(f"state: {name} is missing or damaged, this is no state of {kind.__module__}") from None
    return kind(**values)


def copied(state: S) -> S:
    """A state that goes on by itself: what one does changes nothing about the other."""
    tensors, numbers = pack(state)
    device = state.data.device
    return unpack(type(state), {name: tensor.clone() for name, tensor in tensors.items()}, numbers, device)


def save_state(state: State, path: str | Path, force: bool = False) -> Path:
    """Write a state as one .safetensors file; an existing one is kept unless `force`."""
    tensors, numbers = pack(state)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(numbers)
    payload = save(tensors, metadata={"numbers": text, "sha256": _digest(tensors, text)})
    return write_whole(path, lambda file: file.write(payload), force)


def load_state(generator: Generator[Any, Any], path: str | Path) -> Any:
    """The state of a generator that `save_state` wrote, on the generator's device; ValueError where it is none."""
    tensors = read_weights(path)
    opened: Any = safe_open(path, "pt")
    with opened as file:
        about: dict[str, str] = file.metadata() or {}
    text = about.get("numbers", "")
    try:
        numbers = json.loads(text)
    except ValueError:
        raise ValueError(f"state {path}: this file holds no state of a generation") from None
    if about.get("sha256") != _digest(tensors, text):
        raise ValueError(f"state {path}: its sum (SHA-256) is missing or damaged, nothing of it can be used")
    state = unpack(generator.state, tensors, numbers, generator.device)
    _check_cache(generator, state, path)
    return state


def _digest(tensors: dict[str, Tensor], numbers: str) -> str:
    """The sum over all that a state is."""
    digest = hashlib.sha256(numbers.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_cache(generator: Generator[Any, Any], state: State, path: str | Path) -> None:
    """ValueError in one line where the keys and values are those of a model of another shape."""
    cache, backbone = getattr(state, "cache", None), getattr(generator, "backbone", None)
    if not isinstance(cache, KVCache) or backbone is None:
        return
    own = backbone.cache(1, 1, like=next(backbone.parameters()))
    (layers, _, heads, _, width), expected = cache.tensors()["keys"].shape, own.tensors()["keys"].shape
    if (layers, heads, width) != (expected[0], expected[2], expected[4]):
        got = f"keys of {layers} layers, {heads} heads, {width} channels"
        raise ValueError(
            f"state {path}: got {got}, accepted: {expected[0]}, {expected[2]} and {expected[4]}, as this model has"
        )
