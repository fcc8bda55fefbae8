"""Commands about checkpoints: which there are, what one is, and how a published one becomes ours."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .base import Force, Name, app


@app.command("list", epilog="Example: nextok list")
def list_() -> None:
    """List shipped checkpoints, kinds of models and kinds of data."""
    from .. import data, registry
    from ..zoo import list_models

    print("Shipped checkpoints (`nextok info NAME` tells more):")
    for name, card in list_models().items():
        print(f"  {name:18s} {card.role} ({card.kind}): {card.about.get('summary', 'no summary')}")
    print("Kinds of models, which can be trained and loaded:")
    for role in registry.ROLES:
        print(f"  {role} kinds: {', '.join(registry.kinds(role))}")
    print("Kinds of data (docs/own-data.md and configs/tokenizers/vae-own.yaml show how to use your own):")
    for kind, what in data.kinds().items():
        print(f"  {kind:14s} {what}")


@app.command(epilog="Example: nextok info xar-fashion")
def info(name: Name) -> None:
    """Show what a checkpoint is, and how it was made.

    Its size, license, tokenizer, labels, settings, training and figures are printed, one per line.
    """
    from ..checkpoint import resolve
    from ..config import described

    folder = resolve(name)
    model, card, uses = _loaded(folder)
    weights = sum(parameter.numel() for parameter in model.parameters())
    rows: dict[str, Any] = {"name": card.name, "role": card.role, "kind": card.kind, "parameters": f"{weights:,}"}
    rows |= {**uses, "license": card.license or "not stated", "tokenizer": card.tokenizer, "folder": str(folder)}
    rows |= {"labels": ", ".join(f"{i} {label}" for i, label in enumerate(card.labels or ()))}
    rows |= {f"about.{key}": value for key, value in card.about.items()}
    for key, value in rows.items():
        if value not in (None, ""):
            print(f"{key:24s} {_shown(value)}")
    fields = list(described(model.config))
    settings = [
        (key.removeprefix("sampling."), value, what) for key, value, what in fields if key.startswith("sampling.")
    ]
    _print_fields("Fields of its config:", [field for field in fields if not field[0].startswith("sampling.")])
    _print_fields("Sampling settings (config.sampling); --set replaces one:", settings)


def _loaded(folder: Path) -> tuple[Any, Any, dict[str, str]]:
    """A model, its card, and what can be done with both: with their tokenizer, where that is there."""
    from ..checkpoint import from_pretrained, read_card
    from ..pipeline import load

    if read_card(folder).role == "judge":
        return *from_pretrained(folder), {"tasks": "a feature space of nextok eval (--judge)"}
    try:
        pipeline = load(folder, device="cpu")
    except ValueError as error:
        return *from_pretrained(folder), {"tasks": f"none as it is here ({error})"}
    uses = {"tasks": ", ".join(pipeline.tasks) or "none without a tokenizer (--tokenizer)"}
    if pipeline.tasks:
        uses["medium"] = pipeline.medium.plural
    if pipeline.words is not None:
        chat = "no" if pipeline.words.template is None else "a"
        uses["text tokenizer"] = f"{pipeline.words.size:,} tokens, {chat} chat template"
    return pipeline.generator or pipeline.tokenizer, pipeline.card, uses


def _print_fields(title: str, fields: Sequence[tuple[str, Any, str]]) -> None:
    """A field per line: its name, its value in this checkpoint, what it means."""
    if fields:
        print(title)
    for key, value, what in fields:
        print(f"  {key:22s} {_shown(value):18s} {what}".rstrip())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@app.command(epilog="Example: nextok convert xar xAR-B.pth checkpoints/xar-b --tokenizer checkpoints/kl16")
def convert(
    kind: Annotated[str, typer.Argument(help="The family that the checkpoint belongs to.")],
    source: Annotated[Path, typer.Argument(help="The published file or folder.")],
    folder: Annotated[Path, typer.Argument(help="The folder that our checkpoint is written to.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="The tokenizer whose tokens a generator was trained on; for flextok, the VAE below it."),
    ] = None,
    force: Force = False,
) -> None:
    """Convert a published checkpoint into one of ours.

    KIND is one of: bae, elm, flextok, kl_vae, llama, next_block, pocket_codec, pocket_tts, video_vq, xar. Nothing in
    the source is run.
    """
    from .. import adapters

    note = adapters.convert(kind, source, folder, tokenizer, force)
    print(folder)
    if note:
        print(f"note: {note}", file=sys.stderr)


@app.command(epilog="Example: nextok merge runs/smollm2-lora/final checkpoints/smollm2-tuned")
def merge(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="The folder that the whole checkpoint is written to.")],
    force: Force = False,
) -> None:
    """Merge a LoRA into its base.

    The folder holds a whole checkpoint, which needs neither of them any more.
    """
    from ..checkpoint import merge

    print(merge(name, folder, force=force))
