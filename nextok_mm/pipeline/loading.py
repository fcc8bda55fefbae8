"""From a name to a pipeline: the checkpoint, its tokenizers, the device that they go to."""

import inspect
from pathlib import Path
from typing import Any

import torch

from .. import borrowed, registry
from ..checkpoint import fingerprint, from_pretrained, read_card, read_words, resolve, tokenizer_folder
from ..contracts import check_speaks, check_words
from ..media import Medium
from ..references import WORDS
from . import folder as folders
from . import inputs
from .core import Pipeline


def load(
    name: str | Path,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    **others: Any,
) -> Pipeline:
    """Load a checkpoint as a pipeline.

    Args:
        name: Name of a shipped model (see `list_models`), a checkpoint folder, or a hub id (owner/name); of a language
            model also a folder in transformers' form, a GGUF file, or a folder with one.
        tokenizer: A tokenizer that replaces the one that a generator's checkpoint names; of a language model the
            folder of a text tokenizer.
        device: The device to run on; None takes a GPU where there is one, and the CPU elsewhere.
        revision: Branch, tag or commit of a hub id.
        dtype: Number format of the generator: "float32", "bfloat16" or "float16". A tokenizer stays in float32: in
            another precision it would make other tokens than those that carry its name.
        others: None is accepted; what another library calls an argument is answered with what does its work here.

    Returns:
        The pipeline, ready to generate or to tokenize.

    Raises:
        ValueError: There is no such checkpoint, it is damaged, or its tokenizer is missing or is not the one that the
            generator was trained with.

    Example:
        >>> import nextok_mm as nx
        >>> nx.load("vae-fashion", device="cpu").tasks
        ('tokenize', 'detokenize', 'reconstruct')
    """
    borrowed.refuse(others, inspect.signature(load).parameters)
    for other in others:
        raise TypeError(f"load() got an unexpected keyword argument {other!r}")
    folder = resolve(name, revision)
    card = read_card(folder)
    if card.role == "judge":
        raise ValueError(f"load: {card.name} is a judge, accepted: a generator or a tokenizer (judges: nextok eval)")
    kind, target = folders.precision(card, dtype), inputs.device(device)
    model, card = from_pretrained(folder, dtype=kind)
    if card.role == "tokenizer":
        return Pipeline(model, None, card).to(target)
    if model.medium is not None:
        words = read_words(folder if tokenizer is None else resolve(tokenizer))
        check_words(model, words, "" if tokenizer is not None else card.tokenizer_fingerprint, card.name)
        return Pipeline(None, model, card, words=words).to(target)
    words = read_words(folder) if "tokens" in model.takes and any((folder / name).is_file() for name in WORDS) else None
    if words is not None:
        check_words(model, words, "", card.name)
    place = tokenizer_folder(card, folder) if tokenizer is None else resolve(tokenizer)
    speaks, speaks_card = (None, None) if place is None else from_pretrained(place, role="tokenizer")
    if speaks is not None:
        known = "" if tokenizer is not None else card.tokenizer_fingerprint
        if known and fingerprint(speaks) != known:
            raise ValueError(
                f"tokenizer: {place} is {fingerprint(speaks)}, accepted: {known}, with which {card.name} was trained; "
                "tokenizer=... (--tokenizer) takes another one all the same"
            )
        check_speaks(model, speaks, f"{tokenizer or card.tokenizer}", card.name)
    return Pipeline(speaks, model, card, speaks_card, words).to(target)


def medium_of(name: str | Path) -> Medium | None:
    """What a checkpoint takes in and gives back, where it is no judge; loads no weights. None where nobody knows."""
    folder = resolve(name)
    card = read_card(folder)
    if card.role == "generator":
        own: Any = registry.get("generator", card.kind)
        if own.medium is not None:
            return own.medium
    if card.role == "generator" and (place := tokenizer_folder(card, folder)) is not None:
        card = read_card(place)
    if card.role != "tokenizer":
        return None
    cls: Any = registry.get("tokenizer", card.kind)
    return cls.medium_of(cls.Config.parse(card.fields, where=card.kind))
