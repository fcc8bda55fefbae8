"""Commands before and during a training: a text tokenizer, the cache of tokens, and the training itself."""

from pathlib import Path
from typing import Annotated

import typer

from .base import TokenizerName, app


@app.command(epilog="Example: nextok train configs/generators/xar-fashion.yaml train.steps=1000")
def train(
    config: Annotated[str, typer.Argument(help="A YAML file: your own, or a bundled one (configs/...).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Fields to replace, each as group.field=value.")] = None,
) -> None:
    """Train any registered model.

    The same command resumes a run that was stopped. To train with several processes, use `accelerate launch -m
    nextok_mm.train`.
    """
    from .. import bundled
    from ..train import load
    from ..train import train as run

    raise typer.Exit(run(load(bundled.config(config), overrides or []), progress=True).exit_code)


@app.command(epilog="Example: nextok words runs/python-docs runs/python-words --size 2048")
def words(
    data: Annotated[str, typer.Argument(help="The file or the folder of the text.")],
    folder: Annotated[Path, typer.Argument(help="The folder that the text tokenizer is written to.")],
    size: Annotated[int, typer.Option(help="How many tokens there are.")] = 2048,
    given: Annotated[
        list[str] | None,
        typer.Option("--data", help="A field of the data, as name=value; repeatable: held_out=0, field=body."),
    ] = None,
) -> None:
    """Learn a text tokenizer, for a language model of your own.

    The documents that the data holds out for the test split are not looked at. Train with `data.words=FOLDER`.
    """
    from ..config import override
    from ..data.text import Config, documents
    from ..files import check_out, write_files
    from ..media.own_words import learn

    check_out(folder, force=False)
    config = Config.parse({"kind": "text", "path": data, **override({}, given or [])}, "data")
    learned = learn((text for _, text in documents(config)), size)
    write_files(folder, learned.files())
    print(f"{learned.size} tokens in {folder}")


@app.command(epilog="Example: nextok cache vae-fashion runs/cache/fashion")
def cache(
    tokenizer: TokenizerName,
    folder: Annotated[Path, typer.Argument(help="The folder that the tokens are written to.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A field of the data, as name=value; repeatable. By default Fashion-MNIST."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Keep captions as well, encoded by this text encoder: minilm, a folder or a hub id."),
    ] = None,
    text_length: Annotated[int, typer.Option(help="The largest number of tokens per caption.")] = 16,
    batch: Annotated[int, typer.Option(help="How many pictures are encoded at a time.")] = 64,
) -> None:
    """Encode a data set once, so that no training waits for it.

    By default the training split of Fashion-MNIST is encoded.
    """
    from .. import data as sources
    from ..checkpoint import from_pretrained
    from ..config import override
    from ..data.latents import build_cache
    from ..features.text import Text, load_text

    fields = override({}, data or [])
    plain = {"kind": "fashion_mnist", "split": "train"}
    config = sources.parse(fields if "kind" in fields else plain | fields)
    reads = None
    if text is not None:
        reads = Text.parse({"encoder": text, "width": load_text(text).width, "length": text_length}, "text")
    print(build_cache(from_pretrained(tokenizer, role="tokenizer")[0], config, folder, batch=batch, text=reads))
