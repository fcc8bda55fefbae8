"""A checkpoint's card: config.json, which says what the model is, and the README.md that people and hubs read."""

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from .config import Config, shown

FORMAT = 1
CONFIG, README = "config.json", "README.md"
MAX_CONFIG_BYTES = 1 << 20
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "openrail")
"""The hub's names of licenses, as far as checkpoints here have had them."""


class Card(Config):
    """The content of a checkpoint's config.json.

    `role`, `kind` and `fields` are what `registry.build` takes; `reference` says how another checkpoint is named.
    """

    format: Literal[1] = Field(default=FORMAT, description="Version of this file's format.")
    role: Literal["tokenizer", "generator", "judge"] = Field(
        description="Role of the model: tokenizer, generator or judge."
    )
    kind: str = Field(min_length=1, max_length=100, description="Name of the model's kind in the registry.")
    name: str = Field("", max_length=200, description="Name of the checkpoint.")
    fields: dict[str, Any] = Field(default_factory=dict, description="The config of the model, field by field.")
    tokenizer: str | None = Field(
        default=None,
        description="The tokenizer that a generator speaks through: a folder that begins with . or is absolute, "
        "a zoo name, or a hub id.",
    )
    tokenizer_fingerprint: str = Field(
        "", max_length=100, description="Fingerprint of the tokenizer that the generator was trained with."
    )
    base: str | None = Field(
        default=None,
        description="The checkpoint whose weights these are low-rank updates of (LoRA), named as tokenizer is; null: "
        "they are a whole model's.",
    )
    base_fingerprint: str = Field("", max_length=100, description="Fingerprint of the base that was fine-tuned.")
    labels: tuple[str, ...] | None = Field(None, fail_fast=True, description="Names of the classes, by index.")
    license: str = Field(default="", description="License of the weights, such as apache-2.0.")
    about: dict[str, Any] = Field(
        default_factory=dict, description="Free data by name: training command, figures, summary."
    )
    sha256: str = Field(
        default="", description="SHA-256 of model.safetensors, or of the index of several weights files."
    )


def read_card(folder: str | Path) -> Card:
    """The validated config.json of a checkpoint folder."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"checkpoint {folder}: no file {CONFIG}")
    data = read_object(path, MAX_CONFIG_BYTES)
    if "format" not in data and data.keys() & _STRANGERS.keys():
        whose, hint = _STRANGERS[next(iter(data.keys() & _STRANGERS.keys()))]
        raise ValueError(f"checkpoint {folder}: it is {whose}, not one of nextok_mm; {hint}")
    if data.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path}: format {data.get('format')!r}, accepted: {FORMAT}")
    return Card.parse(data, where=f"checkpoint {path}: ")


_STRANGERS = {
    "_class_name": ("a diffusers folder", "nextok convert kl_vae SOURCE FOLDER makes one of an AutoencoderKL"),
    "architectures": ("a transformers folder", "nextok convert makes one of a published model that it knows"),
    "model_type": ("a transformers folder", "nextok convert makes one of a published model that it knows"),
}
"""A key of other libraries' config.json -> whose it is, and what to do."""


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes; ValueError in one line where it is none."""
    if path.stat().st_size > limit:
        raise ValueError(f"checkpoint {path}: {path.stat().st_size} bytes, at most {limit} accepted")
    try:
        data = json.loads(path.read_text(encoding="utf8"), object_pairs_hook=_once)
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"checkpoint {path}: not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"checkpoint {path}: an object is accepted, got {type(data).__name__}")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a name is given twice in it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} is given twice")
    return found


def readme(card: Card, model: Any, parameters: int, address: str) -> str:
    """The model card that people and hubs read: what it is, and the lines that use it.

    address: by what `load` finds it: a folder, or owner/name of a hub.
    """
    lines = ["---", yaml.safe_dump(_front(card, model), sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    lines += [f"# {_line(card.name or card.kind)}", ""]
    what = f" on `{_line(card.base)}`: a LoRA" if card.base else ""
    lines += [f"A {card.role} of kind `{card.kind}`{what} with {parameters:,} parameters."]
    lines += [f"Tokenizer: `{_line(card.tokenizer)}`."] if card.tokenizer else []
    lines += [f"Classes: {', '.join(map(_line, card.labels))}."] if card.labels else []
    lines += [f"License: {_line(card.license)}."] if card.license else []
    lines += ["", "```sh" if card.role == "judge" else "```python", *_usage(card, model, address), "```"]
    if card.tokenizer and card.tokenizer.startswith(("../", "/")):
        lines += ["", "Its tokenizer lies in another folder, which has to move along with it."]
        lines += ["`Pipeline.save_pretrained` writes both into one."]
    if card.base and card.base.startswith(("../", "/")):
        lines += ["", "Its base lies in another folder, which has to move along; `nextok merge` makes them one."]
    lines += ["", *(f"- {_line(key)}: {_line(value)}" for key, value in card.about.items())] if card.about else []
    return "\n".join(lines) + "\n"


def _front(card: Card, model: Any) -> dict[str, Any]:
    """The fields by which a hub sorts it, by the hub's names."""
    license, moves = card.license.partition(" (")[0].lower(), _moves(card, model)
    named = license if license in LICENSES else "other" if license else ""
    front = {"license": "unknown" if license.endswith("stated") else named} if named else {}
    front |= {"library_name": "nextok_mm"}
    if card.base and "/" in card.base and not card.base.startswith((".", "/")):  # the hub's name of another model
        front |= {"base_model": card.base, "base_model_relation": "adapter"}
    takes = model.takes if card.role == "generator" else ()
    if card.role == "generator" and model.medium is not None:
        front |= {"pipeline_tag": "text-generation"}
    elif "tokens" in takes:
        front |= {"pipeline_tag": "text-to-speech"}
    elif card.role == "generator" and "text" in takes:
        front |= {"pipeline_tag": "text-to-video" if moves else "text-to-image"}
    elif card.role == "generator":  # the hub has no task for classes
        front |= {"pipeline_tag": "video-to-video" if moves else "unconditional-image-generation"}
    elif card.role == "tokenizer":
        front |= {"pipeline_tag": "video-to-video" if moves else "image-feature-extraction"}
    conditional = ["class-conditional"] if "labels" in takes else []
    return front | {"tags": ["nextok_mm", card.role, card.kind, *conditional]}


def _usage(card: Card, model: Any, address: str) -> list[str]:
    """What a user types, right for what the checkpoint is."""
    where, out = json.dumps(address, ensure_ascii=False), "out.mp4" if _moves(card, model) else "out.png"
    shown = f'.save("{out}")'
    if card.role == "judge":
        return [f"nextok eval GENERATOR --judge {address}"]
    if card.role == "tokenizer":
        given, ordered = "clip.mp4" if _moves(card, model) else "picture.png", hasattr(model, "Sampling")
        call = f'reconstruct("{given}", fit="crop"' + (", tokens=[1, 4])" if ordered else ")")
    elif model.given:
        call = 'predict("beginning.mp4", seed=0)'
    elif model.medium is not None:
        call, shown = 'generate(text="Once upon a time", tokens=50, seed=0)', ""
    elif "tokens" in model.takes:
        call, shown = 'generate(text="Hello there.", seed=0)', '.save("out.wav")'
    else:
        label = json.dumps(card.labels[0], ensure_ascii=False) if card.labels else "0"
        asked = {"text": 'text="a red heart", ', "labels": f"labels=[{label}], "}
        call = f"generate({''.join(asked[name] for name in model.takes if name in asked)}n=4, seed=0)"
    lacks = card.role == "generator" and not card.tokenizer and model.medium is None
    other = ', tokenizer="TOKENIZER"' if lacks else ""
    line = f"nx.load({where}{other}).{call}{shown}"
    return ["import nextok_mm as nx", "", line if shown else f"print({line})"]


def _moves(card: Card, model: Any) -> bool:
    """Whether it is about clips: what its tokens stand for goes on in time."""
    if card.role == "generator":
        return not model.open_ended and len(model.layout.grid) == 3
    return card.role == "tokenizer" and model.medium.temporal


def _line(text: Any) -> str:
    """Anything as one line of Markdown."""
    return " ".join(str(text).split())
