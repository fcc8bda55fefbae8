"""Checkpoints: a folder of `config.json` (what the model is), `model.safetensors` (its weights) and `README.md`.

A checkpoint holds data only: a registered kind, that kind's config fields and tensors; never a class path, never a
pickle. Every file is written beside its final place, synced and renamed, so that a crash or a full disk in the middle
of a save leaves the old checkpoint as it was; config.json holds the weights' SHA-256, so that files of two checkpoints
never mix unnoticed.

Its parts: the card (card.py), the weights' files (weights.py), how one is named and found (references.py), how a model
is built for weights that are there already (building.py).
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from . import card as cards
from . import lora, references, registry, weights
from .building import without_weights
from .card import CONFIG, FORMAT, MAX_CONFIG_BYTES, README, Card, readme
from .files import check_out, write_files
from .fingerprints import fingerprint
from .references import ZOO, base_folder, is_path, place, reference, resolve, shipped, tokenizer_folder
from .weights import INDEX, MAX_SHARD_SIZE, WEIGHTS, first_line, read_weights

if TYPE_CHECKING:
    from .adapters import WordsAdapter
    from .media.words import TextTokenizer

__all__ = [
    "CONFIG",
    "FORMAT",
    "INDEX",
    "MAX_CONFIG_BYTES",
    "README",
    "WEIGHTS",
    "ZOO",
    "Card",
    "fingerprint",
    "from_pretrained",
    "merge",
    "read_card",
    "read_weights",
    "read_words",
    "reference",
    "resolve",
    "save_pretrained",
    "tokenizer_folder",
]


def save_pretrained(
    model: Any,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    without: Sequence[str] = (),
    max_shard_size: int | str = MAX_SHARD_SIZE,
    address: str | None = None,
    **meta: Any,
) -> Path:
    """Write a model's checkpoint; an older checkpoint in the folder is replaced at the very end.

    Args:
        model: A registered model.
        folder: The folder of the checkpoint.
        dtype: Number format in which floating-point weights are stored; None keeps theirs.
        without: Config fields that are stored as None, and whose modules' weights are left out (a model's
            `training_only`).
        max_shard_size: Weights of more bytes than that are written as several files and an index.
        address: By what people will load it, for its README; None says a path to this folder.
        meta: Fields of `Card`: name, tokenizer and its fingerprint, labels, license, about. A tokenizer on this machine
            needs no fingerprint, a hub id does.

    Returns:
        The folder.

    Raises:
        ValueError: A meta field is unknown, weights are not finite, or the disk can't take them.

    Example:
        >>> from nextok_mm import registry
        >>> from nextok_mm.checkpoint import from_pretrained, save_pretrained
        >>> model = registry.build("tokenizer", "kl_vae", {"size": "tiny"})
        >>> save_pretrained(model, "my-vae", license="mit").name
        'my-vae'
        >>> from_pretrained("my-vae")[1].license
        'mit'
    """
    folder = Path(folder)
    kept = {name: tensor for name, tensor in model.state_dict().items() if name.partition(".")[0] not in without}
    files, digests = weights.contents(kept, dtype, max_shard_size)
    if isinstance(meta.get("tokenizer"), str | Path):
        meta |= _referred(meta["tokenizer"], folder, meta.get("tokenizer_fingerprint") or "")
    card = Card.parse(
        {
            "name": folder.name,
            **meta,
            "role": model.role,
            "kind": model.kind,
            "fields": model.config.model_dump(mode="json") | dict.fromkeys(without),
        },
        where="checkpoint",
    )

    def write_config(path: Path) -> None:
        whole = card.model_copy(update={"sha256": digests[list(files)[-1]]}).model_dump(mode="json")
        path.write_bytes(json.dumps(whole, indent=2, ensure_ascii=False).encode() + b"\n")

    parameters = sum(parameter.numel() for name, parameter in model.named_parameters() if name in kept)
    page = readme(card, model, parameters, address or f"path/to/{folder.name}").encode()
    write_files(folder, {**files, README: page, CONFIG: write_config})
    for path in weights.stale(folder, files):
        with suppress(OSError):  # config.json says which weights are meant
            path.unlink()
    return folder


def _referred(name: str | Path, folder: Path, known: str) -> dict[str, str]:
    """`tokenizer` and `tokenizer_fingerprint` of a Card; the latter by reading one on this machine, if not known."""
    text = reference(name, folder)
    if not known and (shipped(text) or is_path(text)):
        known = fingerprint(
            from_pretrained(references.ZOO / text if shipped(text) else place(folder, text), role="tokenizer")[0]
        )
    return {"tokenizer": text, "tokenizer_fingerprint": known}


@torch.inference_mode(False)  # or the weights could be neither trained nor written to elsewhere
def from_pretrained(
    name: str | Path, revision: str | None = None, role: str | None = None, dtype: torch.dtype | None = None
) -> tuple[Any, Card]:
    """Load a model and its card.

    Args:
        name: A zoo name, a checkpoint folder, or a hub id (owner/name); also of a language model in its published form
            (a folder of transformers' form, or one with a GGUF file).
        revision: Branch, tag or commit of a hub id.
        role: The role that the caller needs; another one is refused.
        dtype: Number format of floating-point weights; None is float32.

    Returns:
        The model, in eval mode and on the CPU; and its `Card`. The weights of a LoRA are those of its base with the
        update added.

    Raises:
        ValueError: Something is missing, truncated, damaged, or of another shape than config.json says.

    Example:
        >>> from nextok_mm.checkpoint import from_pretrained
        >>> model, card = from_pretrained("vae-fashion", role="tokenizer")
        >>> card.kind
        'kl_vae'
    """
    folder = resolve(name, revision)
    card = read_card(folder)
    if role is not None and card.role != role:
        raise ValueError(f"checkpoint {folder}: it holds a {card.role} ({card.kind}), a {role} is accepted here")
    if (family := _published(folder)) is not None:
        from .adapters import opened

        return opened(family, folder, dtype)
    if card.base is not None:
        return _updated(folder, card, dtype), card
    paths = weights.found(folder, card.sha256)
    try:
        with without_weights(weights.held(paths)):
            model = registry.build(card.role, card.kind, card.fields)
    except (TypeError, RuntimeError, ArithmeticError, MemoryError, ValidationError) as error:
        # sizes that pass for numbers, not for torch
        raise ValueError(f"checkpoint {folder}: {CONFIG} describes no possible model ({first_line(error)})") from None
    weights.fill(model, paths, f"checkpoint {folder}", dtype)
    return model.eval(), card


def read_card(folder: str | Path) -> Card:
    """The validated config.json of a checkpoint folder; of a published language model, what would stand in it."""
    family = _published(Path(folder))
    if family is None:
        return cards.read_card(folder)
    from .adapters import card_of

    return card_of(family, Path(folder))


def read_words(folder: str | Path) -> "TextTokenizer":
    """The text tokenizer that lies beside a checkpoint's weights; ValueError in one line where there is none."""
    from .media.words import load_words, words_of

    folder = Path(folder)
    family = _published(folder)
    return load_words(folder) if family is None else words_of(family.files(folder), f"checkpoint {folder}")


def _published(folder: Path) -> "WordsAdapter | None":
    """What reads a folder that is another library's, or a file; None for a checkpoint of ours."""
    config = folder / CONFIG
    if config.is_file():
        try:
            if "format" in json.loads(config.read_bytes()[:MAX_CONFIG_BYTES]):
                return None
        except (ValueError, RecursionError, OSError, TypeError):  # what is wrong with it, its reader says
            return None
    elif folder.is_dir() and not any(folder.glob(f"*{references.GGUF}")):
        return None
    from .adapters import published

    return published(folder)


def _updated(folder: Path, card: Card, dtype: torch.dtype | None) -> Any:
    """The base that a checkpoint of low-rank updates names, with those added; ValueError where it is another one."""
    place = base_folder(card, folder)
    if read_card(place).base is not None:
        raise ValueError(f"base: {place} is a LoRA by itself, accepted: a whole checkpoint (nextok merge makes one)")
    base = from_pretrained(place, role=card.role)[0]
    if fingerprint(base) != card.base_fingerprint:
        raise ValueError(
            f"base: {place} is {fingerprint(base)}, accepted: {card.base_fingerprint}, which {card.name} was trained on"
        )
    lora.add(base, folder, card)
    return base if dtype is None else base.to(dtype)


def merge(name: str | Path, folder: str | Path, *, dtype: torch.dtype | None = None, force: bool = False) -> Path:
    """Write a LoRA and its base as one whole checkpoint, which needs neither of them any more.

    Args:
        name: Folder or hub id of the LoRA.
        folder: The folder of the checkpoint that is made.
        dtype: Number format in which floating-point weights are stored; None is float32.
        force: Replace a checkpoint that is there already.

    Returns:
        The folder.

    Raises:
        ValueError: It is no LoRA, its base is missing or another one, or the folder can't be written.
    """
    from .media.words import FILES

    source, target = resolve(name), Path(folder)
    check_out(target, force)
    if read_card(source).base is None:
        raise ValueError(f"merge: {name} is a whole checkpoint, accepted: a LoRA (train.lora makes one)")
    model, card = from_pretrained(source)
    meta = card.model_dump(include={"labels", "license", "about", "tokenizer_fingerprint"})
    if card.tokenizer is not None:
        meta["tokenizer"] = tokenizer_folder(card, source) if is_path(card.tokenizer) else card.tokenizer
    meta["about"] |= {"merged from": f"{card.name} on {card.base}"}
    save_pretrained(model, target, dtype=dtype, name=target.name, **meta)
    write_files(target, {file: (source / file).read_bytes() for file in FILES if (source / file).is_file()})
    return target
