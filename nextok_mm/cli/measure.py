"""Commands that measure: evaluation of a checkpoint, benchmarks, and a paper's analysis."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .base import Force, Name, Sets, app, numbers

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("eval", epilog="Example: nextok eval xar-fashion --n 10000 --out figures.json")
def evaluate(
    name: Name,
    n: Annotated[
        int | None,
        typer.Option(
            help="How many samples of a generator, pictures for a tokenizer (by default 10,000; clips: 200), or "
            "documents for a language model (by default all)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of the samples, by default 0.")] = None,
    setting: Sets = None,
    tokens: Annotated[
        str, typer.Option(help="Numbers of leading tokens to decode from, such as 1,4,16 (ordered tokenizers).")
    ] = "",
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="A field of other data to measure on, as name=value; repeatable: kind=image_folder, path=FOLDER. A "
            "folder of text by itself, for a language model.",
        ),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="A feature space to measure in; repeatable. By default all that fit the data."),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="How many tokens a language model sees at a time. By default its context, up to 1,024."),
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Measure the baselines as well.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file as well.")] = None,
    force: Force = False,
) -> None:
    """Measure the quality of a checkpoint.

    Generators get the Frechet distance, precision, recall and class agreement; tokenizers get PSNR and SSIM; language
    models get perplexity and bits per byte. Each figure is printed with its protocol.
    """
    from ..checkpoint import read_card, resolve
    from ..config import override
    from ..eval import quality
    from ..files import check_out, write_json
    from ..pipeline.core import MAX_ROWS

    if n is not None and not 0 < n <= MAX_ROWS:
        raise ValueError(f"n: got {n}, accepted: a whole number from 1 to {MAX_ROWS}")
    if out is not None:
        check_out(out, force)
    options: dict[str, Any] = {"judges": judge} if judge else {}
    if given:
        fields = [f"path={field}" if "=" not in field or Path(field).exists() else field for field in given]
        options["data"] = override({}, fields)
    named = {"n": n, "seed": seed, "window": window, "sampling": override({}, setting or []) or None}
    options |= {field: value for field, value in named.items() if value is not None}
    role = read_card(resolve(name)).role
    if tokens and role != "tokenizer":
        raise ValueError(f"tokens: got {tokens!r}, accepted: for a tokenizer with an order, {name} is a {role}")
    if not baselines:
        options["baselines"] = False
    if tokens:
        options["tokens"] = numbers(tokens)
    result = quality.evaluate(name, **options)
    print(quality.report(result))
    if out is not None:
        write_json(out, result)


@app.command(context_settings=PASSED_ON, epilog="Example: nextok bench machine")
def bench(context: typer.Context) -> None:
    """Measure speed and check claims, side by side in one run.

    Without a name, the benchmarks are listed. Each of them has a --help of its own.
    """
    from ..bench import BENCHES, main

    _run_or_list(context, BENCHES, main)


@app.command(context_settings=PASSED_ON, epilog="Example: nextok study elm --parts entropy,locality --out runs/study")
def study(context: typer.Context) -> None:
    """Repeat the analysis of a paper at small scale.

    The results are one JSON file and plots. Without a name, the studies are listed. Each of them has a --help of its
    own.
    """
    from ..study import STUDIES, main

    _run_or_list(context, STUDIES, main)


def _run_or_list(context: typer.Context, names: dict[str, str], run: Callable[[list[str]], None]) -> None:
    """Pass the arguments on to one of several commands with options of their own; without a name, list them."""
    if context.args and context.args[0] not in ("-h", "--help"):
        run(context.args)
        return
    for name, what in names.items():
        print(f"nextok {context.info_name} {name:10s} {what}")
