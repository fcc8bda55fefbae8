"""`nextok`: everything the package does, from a terminal. A mistake is one line and exit code 2 (NEXTOK_DEBUG=1: all).

Heavy imports stay inside the commands, so that `nextok --help` answers at once.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer(
    help="Next-X generation of images: tokenizers and autoregressive generators.",
    no_args_is_help=True,
    rich_markup_mode=None,  # else [demo] in a help text is taken for a style and dropped
)
SHOWN = ["xar-fashion", "elm-fashion", "elm-emoji", "next-block-moving"]
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

Name = Annotated[
    str, typer.Argument(help="A shipped model (nextok list), a checkpoint folder, or owner/name of a hub.")
]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Speaks = Annotated[str | None, typer.Option("--tokenizer", help="Another tokenizer than the checkpoint names.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps ...; else a GPU where there is one.")]
Fps = Annotated[float, typer.Option(help="Frames a second of a written clip.")]
Fitting = Annotated[
    str | None,
    typer.Option("--fit", help="Of another aspect: crop (default) to the middle, pad with white, or exact: refuse."),
]
Crop = Annotated[bool, typer.Option("--crop", help="The same as --fit crop.")]
FITS = ("crop", "pad", "exact")
Sets = Annotated[list[str] | None, typer.Option("--set", help="A sampling setting, name=value; repeatable.")]


@app.command("list")
def list_() -> None:
    """The shipped checkpoints, the kinds that can be trained or converted, and the kinds of data to train on."""
    from . import data, registry
    from .zoo import list_models

    for name, card in list_models().items():
        print(f"{name:16s} {card.role} ({card.kind})  {card.about.get('summary', '')}")
    for role in registry.ROLES:
        print(f"{role} kinds: {', '.join(registry.kinds(role))}")
    print("data kinds (own pictures and clips: docs/own-data.md, configs/tokenizers/vae-own.yaml):")
    for kind, what in data.kinds().items():
        print(f"  {kind:14s} {what}")


@app.command()
def info(name: Name) -> None:
    """A checkpoint: what it is, its size, licence, tokenizer, training and figures."""
    from .checkpoint import from_pretrained, resolve

    folder = resolve(name)
    model, card = from_pretrained(folder)
    weights = sum(parameter.numel() for parameter in model.parameters())
    rows: dict[str, Any] = {"name": card.name, "role": card.role, "kind": card.kind, "parameters": f"{weights:,}"}
    rows |= {"licence": card.license or "not stated", "tokenizer": card.tokenizer, "folder": str(folder)}
    rows |= {"labels": ", ".join(f"{i} {label}" for i, label in enumerate(card.labels or ()))}
    rows |= {f"config.{key}": value for key, value in model.config.model_dump(mode="json").items()}
    rows |= {f"about.{key}": value for key, value in card.about.items()}
    for key, value in rows.items():
        if value not in (None, ""):
            print(f"{key:24s} {value if isinstance(value, str) else json.dumps(value)}")


@app.command()
def generate(
    name: Name,
    out: Out = Path("out.png"),
    labels: Annotated[str, typer.Option(help="Classes by number or name, taken in turn: 7,3 or bag,sneaker.")] = "",
    text: Annotated[list[str] | None, typer.Option(help="A caption; repeatable, taken in turn.")] = None,
    n: Annotated[int, typer.Option(help="How many pictures.")] = 16,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pictures.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Solver steps an entity.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance weight; 1 is none.")] = None,
    solver: Annotated[str | None, typer.Option(help="euler_maruyama, euler, heun or ab2.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Stop after so many tokens (coarse-to-fine tokenizers).")] = None,
    setting: Sets = None,
    columns: Annotated[int | None, typer.Option(help="Pictures side by side.")] = None,
    fps: Fps = 8.0,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 64,
    tokenizer: Speaks = None,
    device: Device = None,
    force: Force = False,
) -> None:
    """Draw pictures into one PNG, or clips into .mp4, .gif, .webp or .png; the file keeps the settings."""
    from .files import refuse_existing
    from .media import Saving
    from .pipeline import load
    from .pipeline.conditions import listed
    from .pipeline.core import MAX_ROWS
    from .pipeline.inputs import whole

    refuse_existing(out, force)
    pipeline = load(name, tokenizer, device)
    pipeline.medium.check_out(out, force, Saving(columns, None, fps))
    pipeline.medium.check_sheet(whole("n", n, 1, MAX_ROWS), columns and whole("columns", columns, 1, MAX_ROWS))
    flags = {"steps": steps, "cfg": cfg, "solver": solver, "tokens": tokens}
    given = {flag: value for flag, value in flags.items() if value is not None}
    settings = _settings(pipeline.generator, setting) | given
    with _bar("entity") as show:
        result = pipeline.generate(listed(labels), n, seed, text=text, batch=batch, progress=show, **settings)
    path = result.save(out, force, columns, fps=fps)
    made, took = pipeline.medium.words(n), sum(result.seconds.values())
    print(f"{path}: {made}, seed {seed}, {result.calls} network calls a batch, {took:.1f} s, {result.backend}")


@app.command()
def reconstruct(
    name: Name,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    out: Out = Path("both.png"),
    tokens: Annotated[str, typer.Option(help="Use the first 1,4,16 ... tokens in turn, where they are ordered.")] = "",
    seed: Annotated[int, typer.Option(help="Of the noise that --tokens starts from.")] = 0,
    setting: Sets = None,
    fit: Fitting = None,
    crop: Crop = False,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 64,
    device: Device = None,
    force: Force = False,
) -> None:
    """Pictures (or clips) through a tokenizer and back: each beside what came back, in one file."""
    import torch

    from .files import refuse_existing
    from .media import Saving
    from .pipeline import load

    refuse_existing(out, force)
    how = _fit(fit, crop)
    pipeline = load(name, device=device)
    pipeline.medium.check_out(out, force)
    images = torch.cat([_fitted(pipeline, picture, how, pipeline.read) for picture in pictures])
    settings = _settings(pipeline.tokenizer, setting)
    if settings and not tokens:
        raise ValueError("set: got a setting, accepted: beside --tokens, of ordered tokens")
    if tokens:
        with _bar("step") as show:
            options = {"seed": seed, "batch": batch, "progress": show, **settings}
            ladder: Any = pipeline.reconstruct(images, tokens=_numbers(tokens), **options)
        path = ladder.save(out, force)
        found = ", ".join(f"{k}: {psnr:.1f}" for k, psnr in zip(ladder.numbers, ladder.psnr()))
        print(f"{path}: {len(images)} pictures, left as given, then from their first tokens, PSNR in dB {found}")
        return
    both = torch.stack((images, pipeline.reconstruct(images).data), dim=1).flatten(0, 1)
    error = (both[0::2] - both[1::2]).square().mean().clamp_min(1e-12)
    path = pipeline.medium.save(both, out, {"nextok.model": pipeline.card.name}, force, Saving(columns=2))
    print(
        f"{path}: {pipeline.medium.words(len(images))}, each as given and then as it came back, "
        f"PSNR {-10 * error.log10():.1f} dB"
    )


@app.command()
def predict(
    name: Name,
    clips: Annotated[list[Path], typer.Argument(help="Video files; their first frames are given.")],
    out: Out = Path("out.mp4"),
    given: Annotated[int | None, typer.Option(help="Frames of each file that are given (None: two fifths).")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames in the end; beyond the trained length it slides on.")
    ] = None,
    labels: Annotated[str, typer.Option(help="What it shows, taken in turn; else no condition.")] = "",
    fit: Fitting = None,
    crop: Crop = False,
    seed: Annotated[int, typer.Option(help="The same seed draws the same clips.")] = 0,
    setting: Sets = None,
    fps: Fps = 8.0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Go on from the first frames of clips."""
    import torch

    from .files import refuse_existing
    from .media import Saving
    from .pipeline import load, prediction
    from .pipeline.conditions import listed

    refuse_existing(out, force)
    how = _fit(fit, crop)
    pipeline = load(name, device=device)
    pipeline.medium.check_out(out, force, Saving(fps=fps))
    settings = _settings(pipeline.generator, setting)

    def read(clip: Path, fit: Any) -> Any:
        return prediction.read_given(pipeline, clip, given, fit)

    start = torch.cat([_fitted(pipeline, clip, how, read) for clip in clips])
    result = prediction.predict(pipeline, start, frames, seed, listed(labels), **settings)
    path = result.save(out, force, fps=fps)
    went_on = f"{len(clips)} {pipeline.medium.plural}"
    print(f"{path}: {went_on}, {start.shape[2]} frames given of {result.data.shape[2]}, seed {seed}")


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or a bundled one (configs/...).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="group.field=value ...")] = None,
) -> None:
    """Train any registered model; the same command resumes a stopped run. More processes: accelerate launch."""
    from . import bundled
    from .train import load
    from .train import train as run

    raise typer.Exit(run(load(bundled.config(config), overrides or []), progress=True).exit_code)


@app.command("eval")
def evaluate(
    name: Name,
    n: Annotated[
        int | None, typer.Option(help="Samples of a generator, pictures of a tokenizer. Default: 10,000, clips 200.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    setting: Sets = None,
    tokens: Annotated[str, typer.Option(help="A tokenizer with an order: how many tokens, 1,4,16.")] = "",
    given: Annotated[
        list[str] | None,
        typer.Option("--data", help="Other data, name=value: kind=image_folder, path=FOLDER."),
    ] = None,
    judge: Annotated[list[str] | None, typer.Option(help="Feature space; repeatable. Default: both.")] = None,
    baselines: Annotated[bool, typer.Option(help="Measure the baselines beside it.")] = True,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
    force: Force = False,
) -> None:
    """Frechet distance, precision, recall, class agreement (generators); PSNR, SSIM (tokenizers); with the protocol."""
    from .checkpoint import read_card, resolve
    from .config import override
    from .eval import quality
    from .files import check_out, write_json
    from .pipeline.core import MAX_ROWS

    if n is not None and not 0 < n <= MAX_ROWS:
        raise ValueError(f"n: got {n}, accepted: a whole number from 1 to {MAX_ROWS}")
    if out is not None:
        check_out(out, force)
    options: dict[str, Any] = {"judges": judge} if judge else {}
    if given:
        options["data"] = override({}, given)
    if (role := read_card(resolve(name)).role) != "judge":
        options |= {"seed": seed, "sampling": override({}, setting or [])} | ({"n": n} if n is not None else {})
    if tokens and role != "tokenizer":
        raise ValueError(f"tokens: got {tokens!r}, accepted: for a tokenizer with an order, {name} is a {role}")
    if role == "generator":
        options["baselines"] = baselines
    if tokens:
        options["tokens"] = _numbers(tokens)
    result = quality.evaluate(name, **options)
    print(quality.report(result))
    if out is not None:
        write_json(out, result)


@app.command()
def cache(
    tokenizer: Name,
    folder: Annotated[Path, typer.Argument(help="Where the tokens go.")],
    data: Annotated[list[str] | None, typer.Option("--data", help="A field of the data, name=value.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Keep captions too, by this encoder: minilm, a folder, a hub id.")
    ] = None,
    text_length: Annotated[int, typer.Option(help="Most tokens of a caption.")] = 16,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 64,
) -> None:
    """Encode a data set once, so that training never waits for it. Default: Fashion-MNIST, training split."""
    from . import data as sources
    from .checkpoint import from_pretrained
    from .config import override
    from .data.latents import build_cache
    from .features.text import Text, load_text

    given = override({}, data or [])
    plain = {"kind": "fashion_mnist", "split": "train"}
    config = sources.parse(given if "kind" in given else plain | given)
    reads = None
    if text is not None:
        reads = Text.parse({"encoder": text, "width": load_text(text).width, "length": text_length}, "text")
    print(build_cache(from_pretrained(tokenizer, role="tokenizer")[0], config, folder, batch=batch, text=reads))


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="The family that it belongs to.")],
    source: Annotated[Path, typer.Argument(help="The published file or folder.")],
    folder: Annotated[Path, typer.Argument(help="Where our checkpoint goes.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="The tokenizer that a generator speaks through; for flextok, the VAE it stands on."),
    ] = None,
    force: Force = False,
) -> None:
    """A published checkpoint as a folder that `load` takes; KIND: bae, elm, flextok, kl_vae, next_block, video_vq, xar.

    Nothing in the source is run.
    """
    import pkgutil
    from importlib import import_module

    from . import adapters, registry
    from .checkpoint import fingerprint, from_pretrained, save_pretrained
    from .contracts import check_speaks
    from .files import check_out

    known = [module.name for module in pkgutil.iter_modules(adapters.__path__)]
    if kind not in known:
        raise ValueError(f"kind: got {kind!r}, accepted: {', '.join(known)}")
    check_out(folder, force)
    adapter = import_module(f"{adapters.__name__}.{kind}")
    inside = tokenizer is not None and getattr(adapter, "HOLDS_TOKENIZER", False)
    role = next(role for role in registry.ROLES if kind in registry.kinds(role))
    speaks = None
    if tokenizer is not None and not inside:
        if role != "generator":
            raise ValueError(f"tokenizer: got {tokenizer!r}, accepted: none, a {kind} is a tokenizer by itself")
        speaks = from_pretrained(tokenizer, role="tokenizer")[0]
    fields, state = adapter.read(source, tokenizer) if inside else adapter.read(source)
    model = registry.build(role, kind, fields)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{kind} checkpoint {source}: {' '.join(str(error).split())[:300]}") from None
    about = {"converted from": source.name} | ({"stands on": Path(tokenizer).name} if tokenizer and inside else {})
    meta: dict[str, Any] = {"name": folder.name, "license": adapter.LICENCE, "about": about}
    if speaks is not None:
        check_speaks(model, speaks, f"{tokenizer}", f"{source}")
        meta |= {"tokenizer": tokenizer, "tokenizer_fingerprint": fingerprint(speaks)}
    print(save_pretrained(model, folder, **meta))
    if said := getattr(adapter, "note", lambda _: None)(fields):
        print(f"note: {said}", file=sys.stderr)


@app.command(context_settings=PASSED_ON)
def bench(context: typer.Context) -> None:
    """Speed and claims, side by side in one run; without a name: which there are (each with --help)."""
    from .bench import BENCHES, main

    _run_or_list(context, BENCHES, main)


@app.command(context_settings=PASSED_ON)
def study(context: typer.Context) -> None:
    """A paper's analysis at small scale, as one JSON and plots: elm (with --help)."""
    from .study import STUDIES, main

    _run_or_list(context, STUDIES, main)


@app.command()
def doctor() -> None:
    """What this installation has: versions, devices, data, optional parts."""
    from .doctor import report

    for row in report():
        print(row)


@app.command()
def demo(
    port: Annotated[int, typer.Option()] = 7860,
    host: Annotated[str, typer.Option(help="127.0.0.1 keeps it on this machine.")] = "127.0.0.1",
    model: Annotated[
        list[str] | None, typer.Option(help="A generator to offer; repeatable. Default: those that ship.")
    ] = None,
) -> None:
    """The Gradio app (pip install 'nextok_mm[demo]')."""
    from . import bundled

    bundled.demo("app").launch(model or SHOWN, host, port)


def _run_or_list(context: typer.Context, names: dict[str, str], run: Callable[[list[str]], None]) -> None:
    """Pass the arguments on to one of several commands with options of their own; without a name, list them."""
    if context.args and context.args[0] not in ("-h", "--help"):
        run(context.args)
        return
    for name, what in names.items():
        print(f"nextok {context.info_name} {name:10s} {what}")


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as the function (done, all) that moves it; none where nobody looks."""
    from tqdm import tqdm

    with tqdm(unit=unit, leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


def _settings(model: Any, given: list[str] | None) -> dict[str, Any]:
    """`--set` options, held against the model's own settings before anything else takes their names."""
    from .config import override
    from .pipeline import settings_of

    settings = override({}, given or [])
    if settings and hasattr(model, "Sampling"):
        settings_of(model, settings)
    elif settings:
        raise ValueError(f"set: got {', '.join(settings)}, accepted: none, this model has no settings")
    return settings


def _fit(fit: str | None, crop: bool) -> str:
    """What --fit and --crop say together."""
    if fit is not None and fit not in FITS:
        raise ValueError(f"fit: got {fit!r}, accepted: {', '.join(FITS)}")
    if crop and fit not in (None, "crop"):
        raise ValueError(f"fit: got {fit!r} and --crop, accepted: one of them")
    return fit or "crop"


def _fitted(pipeline: Any, path: Path, fit: str, read: Callable[[Path, Any], Any]) -> Any:
    """A file, read; said in a line where it was of another aspect."""
    images = read(path, fit)
    if said := pipeline.medium.changed(path, fit):
        print(f"note: {path}: {said} (--fit {', '.join(FITS)})", file=sys.stderr)
    return images


def _numbers(text: str) -> list[int]:
    """`1,4,16` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"tokens: got {text!r}, accepted: whole numbers, such as 1,4,16") from None


def main() -> None:
    """The `nextok` command."""
    sys.exit(console.run(lambda: app(standalone_mode=True)))


if __name__ == "__main__":
    main()
