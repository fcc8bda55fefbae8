"""Commands that make pictures and clips: drawn, decoded from codes, sent through a tokenizer, gone on with."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import reserve_stdout
from .base import (
    Batch,
    Crop,
    Device,
    Fitting,
    Force,
    Fps,
    GeneratorName,
    Out,
    PipelineName,
    Sets,
    Speaks,
    Stop,
    TextFile,
    app,
    bar,
    fitted,
    fitting,
    numbers,
    opened,
    settings,
)
from .texts import STDOUT, prompts, written


@app.command(epilog="Example: nextok generate xar-fashion --labels bag,sneaker --n 8 --out bags.png")
def generate(
    name: GeneratorName,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write. By default out.png, out.wav for sounds, and for texts standard output, which is "
            "also written as -."
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="The classes to draw, by number or name, cycled over the samples: 7,3 or bag,sneaker.")
    ] = "",
    text: Annotated[
        list[str] | None,
        typer.Option(help="A caption to draw, or the beginning of a text; repeatable. Several are cycled."),
    ] = None,
    text_file: TextFile = None,
    voice: Annotated[
        list[str] | None,
        typer.Option(help="A recording to speak like, or a .safetensors file of a heard voice; repeatable."),
    ] = None,
    stop: Stop = None,
    n: Annotated[
        int | None, typer.Option(help="How many samples to make. By default 16, and of texts one per beginning.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed. The same seed draws the same samples.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Solver steps per entity.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance weight; 1 means no guidance.")] = None,
    solver: Annotated[str | None, typer.Option(help="The solver: euler_maruyama, euler, heun or ab2.")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Stop after this many tokens (texts, and tokenizers with ordered tokens).")
    ] = None,
    setting: Sets = None,
    columns: Annotated[int | None, typer.Option(help="How many pictures are side by side.")] = None,
    fps: Fps = 8.0,
    batch: Batch = 64,
    tokenizer: Speaks = None,
    device: Device = None,
    force: Force = False,
) -> None:
    """Draw pictures or clips, go on with texts, or speak.

    Pictures and clips are drawn from class labels or captions. Pictures are saved as one .png, .jpg or .webp file,
    clips as .mp4, .gif, .webp or .png, texts as .txt, .md or .jsonl, sounds as .wav or .flac. The file keeps the
    settings that it was made with, where its format has room for them. On standard output a text appears word by word,
    a sound as a WAV stream while it is made, and nothing else does.
    """
    from ..pipeline.conditions import count, listed
    from ..pipeline.inputs import whole

    pipeline = opened(name, out, force, device, tokenizer, columns, fps)
    out = out or Path(pipeline.medium.out)
    data = str(out) == STDOUT
    texts = prompts(text, text_file)
    n = count(pipeline.generator, n, texts, 16)
    pipeline.medium.check_sheet(n, columns and whole("columns", columns, 1))
    flags = {"steps": steps, "cfg": cfg, "solver": solver, "tokens": tokens}
    named = {flag: value for flag, value in flags.items() if value is not None}
    options: dict[str, Any] = (
        {"text": texts, "voice": voice, "stop": stop} | settings(pipeline.generator, setting) | named
    )
    if data:
        reserve_stdout()
        result = written(pipeline.stream(listed(labels), n, seed, **options), pipeline.medium)
    else:
        with bar("entity") as show:
            result = pipeline.generate(listed(labels), n, seed, batch=batch, progress=show, **options)
        result.save(out, force, columns, fps=fps)
    made, took = pipeline.medium.words(n), sum(result.seconds.values())
    said = f"{made}, seed {seed}, {result.calls} network calls per batch, {took:.1f} s, {result.backend}"
    print(said if data else f"{out}: {said}", file=sys.stderr if data else sys.stdout)


@app.command(epilog="Example: nextok decode flextok-fashion --codes 12,7,900 --out codes.png")
def decode(
    name: PipelineName,
    codes: Annotated[
        list[str],
        typer.Option(
            help="The codes of one sample, such as 12,7,900; repeatable. A .json file holds a list of codes per sample."
        ),
    ],
    out: Out = Path("out.png"),
    seed: Annotated[int, typer.Option(help="The seed of the noise that decoding starts from, if it draws any.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Solver steps (tokenizers that decode with a solver).")] = None,
    setting: Sets = None,
    columns: Annotated[int | None, typer.Option(help="How many pictures are side by side.")] = None,
    fps: Fps = 8.0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Decode codes into pictures or clips, without a generator.

    Ordered tokenizers (FlexTok) take any number of leading codes; others take all codes of their grid, row by row.
    """
    rows = _codes(codes)
    pipeline = opened(name, out, force, device, columns=columns, fps=fps)
    pipeline.medium.check_sheet(len(rows), columns)
    assert pipeline.tokenizer is not None
    if pipeline.tokenizer.num_codes is None:
        raise ValueError(f"codes: {pipeline.tokenizer.kind} makes continuous latents, accepted: a tokenizer of codes")
    sampling = settings(pipeline.tokenizer, setting) | ({} if steps is None else {"steps": steps})
    with bar("step") as show:
        result = pipeline.detokenize(rows, seed, show, **sampling)
    path = result.save(out, force, columns, fps=fps)
    count = f"{len(rows[0])} code{'s' * (len(rows[0]) > 1)}"
    print(f"{path}: {pipeline.medium.words(len(rows))} from {count} each, {result.seconds['decode']:.1f} s")


def _codes(given: list[str]) -> list[list[int]]:
    """Equally many codes per sample, from the command line or JSON files. ValueError in one line for anything else."""
    rows: list[Any] = []
    for text in given:
        if not text.endswith(".json"):
            rows.append(numbers(text, "codes"))
            continue
        found = _json(Path(text))
        rows += found if isinstance(found, list) and found and isinstance(found[0], list) else [found]
    for row in rows:
        if not isinstance(row, list) or not row or any(type(code) is not int for code in row):
            raise ValueError(f"codes: got {row!r:.80}, accepted: a list of whole numbers per sample")
        if len(row) != len(rows[0]):
            raise ValueError(f"codes: got {len(rows[0])} and {len(row)}, accepted: equally many for each sample")
    return rows


def _json(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"codes: no file {str(path)!r}")
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"codes: {path} is not JSON ({' '.join(str(error).split()):.200})") from None


@app.command(epilog="Example: nextok reconstruct vae-fashion picture.png --out both.png")
def reconstruct(
    name: PipelineName,
    pictures: Annotated[list[Path], typer.Argument(help="The picture or video files.")],
    out: Out = Path("both.png"),
    tokens: Annotated[
        str, typer.Option(help="Numbers of leading tokens to decode from, such as 1,4,16 (ordered tokenizers).")
    ] = "",
    seed: Annotated[int, typer.Option(help="The seed of the noise that decoding with --tokens starts from.")] = 0,
    setting: Sets = None,
    fit: Fitting = None,
    crop: Crop = False,
    batch: Batch = 64,
    device: Device = None,
    force: Force = False,
) -> None:
    """Send pictures or clips through a tokenizer and back.

    Each of them is saved beside what comes back.
    """
    import torch

    from ..media import Saving

    how: Any = fitting(fit, crop)
    pipeline = opened(name, out, force, device)
    images = pipeline.medium.take([fitted(pipeline, picture, how, pipeline.read) for picture in pictures], how)
    sampling = settings(pipeline.tokenizer, setting)
    if sampling and not tokens:
        raise ValueError("set: got a setting, accepted: beside --tokens, and for tokenizers with ordered tokens")
    made = pipeline.medium.words(len(images))
    if tokens:
        with bar("step") as show:
            options = {"seed": seed, "batch": batch, "progress": show, **sampling}
            ladder: Any = pipeline.reconstruct(images, tokens=numbers(tokens), **options)
        path = ladder.save(out, force)
        found = ", ".join(f"{k}: {psnr:.1f}" for k, psnr in zip(ladder.numbers, ladder.psnr()))
        print(f"{path}: {made}, as given (left) and from their first tokens; PSNR in dB by number of tokens: {found}")
        return
    both = torch.stack((images, pipeline.reconstruct(images).data), dim=1).flatten(0, 1)
    error = ((both[0::2] - both[1::2]) / (1 - pipeline.medium.low)).square().mean().clamp_min(1e-12)
    path = pipeline.medium.save(both, out, {"nextok.model": pipeline.card.name}, force, Saving(columns=2))
    print(f"{path}: {made}, each as given and then as it came back; PSNR {-10 * error.log10():.1f} dB")


@app.command(epilog="Example: nextok predict next-block-moving clip.mp4 --frames 33 --out on.mp4")
def predict(
    name: GeneratorName,
    clips: Annotated[list[Path], typer.Argument(help="The video files whose first frames are given.")],
    out: Out = Path("out.mp4"),
    given: Annotated[
        int | None,
        typer.Option(help="How many frames of each file are given. By default two fifths of the trained length."),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="How many frames the clips have in the end. By default as many as the model was trained on."),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="What the clips show, by number or name, cycled. By default there is no condition.")
    ] = "",
    fit: Fitting = None,
    crop: Crop = False,
    seed: Annotated[int, typer.Option(help="The seed. The same seed draws the same clips.")] = 0,
    setting: Sets = None,
    fps: Fps = 8.0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Continue clips from their first frames."""
    import torch

    from ..pipeline import prediction
    from ..pipeline.conditions import listed

    how = fitting(fit, crop)
    pipeline = opened(name, out, force, device, fps=fps)
    sampling = settings(pipeline.generator, setting)

    def read(clip: Path, fit: Any) -> Any:
        return prediction.read_given(pipeline, clip, given, fit)

    start = torch.cat([fitted(pipeline, clip, how, read) for clip in clips])
    result = prediction.predict(pipeline, start, frames, seed, listed(labels), **sampling)
    path = result.save(out, force, fps=fps)
    made, known, length = pipeline.medium.words(len(clips)), start.shape[2], result.data.shape[2]
    print(f"{path}: {made}, {known} frames given of {length}, seed {seed}")
