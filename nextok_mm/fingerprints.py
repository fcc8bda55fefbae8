"""Who made some tokens: a hash of a model's kind, config and weights."""

import hashlib
import weakref
from typing import Any

import torch
from torch import Tensor, nn

_FINGERPRINTS: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]]" = weakref.WeakKeyDictionary()


def fingerprint(model: Any) -> str:
    """16 hexadecimal digits that change with the kind, the config or any weight: says who made some tokens.

    Settings of sampling don't count: they change nothing about the tokens. Remembered until a weight is written to,
    since it reads every weight. A text tokenizer, which has no weights, says it itself.
    """
    named = getattr(model, "fingerprint", None)
    if isinstance(named, str):
        return named
    weights = model.state_dict()
    fields = model.config.model_dump_json(exclude={"sampling"})
    state = (model.config, tuple((id(tensor), _version(tensor), tensor.dtype) for tensor in _tensors(model)))
    if model in _FINGERPRINTS and _FINGERPRINTS[model][0] == state:
        return _FINGERPRINTS[model][1]
    digest = hashlib.sha256(f"{model.role} {model.kind} {fields}".encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta:  # fake and meta tensors hold no numbers
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    _FINGERPRINTS[model] = state, digest.hexdigest()[:16]
    return _FINGERPRINTS[model][1]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
