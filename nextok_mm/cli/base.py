"""What all commands share: the app itself, the options that several of them have, and how their values are read."""

import difflib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .. import __version__, borrowed
from .texts import STDOUT

if TYPE_CHECKING:
    from ..pipeline import Pipeline

ZOO = Path(__file__).parents[1] / "zoo"
FITS = ("crop", "pad", "exact")
_ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])
"""Of click, or of the copy of it inside newer typers."""

app = typer.Typer(
    help="Next-X generation of images, video and text: tokenizers, generators, training and evaluation.",
    epilog="Example: nextok generate xar-fashion --labels bag,sneaker --out bags.png",
    rich_markup_mode=None,  # else [demo] in a help text is taken for a style and dropped
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """Show the version, or the help text where no command is given."""
    if version:
        print(f"nextok_mm {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())


def run() -> int:
    """Run the command that sys.argv names. ValueError in one line for an option or a value that isn't accepted."""
    try:
        return app(prog_name="nextok", standalone_mode=False) or 0
    except typer.Abort:
        return 130
    except _ClickException as error:
        raise ValueError(_refusal(error)) from None


def _refusal(error: Any) -> str:
    """A mistake on the command line, in one line, with the name that another library's option has here."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "nextok"
    see = f"`{command} --help` shows what is accepted"
    option = getattr(error, "option_name", None)
    if option is None or context is None or type(error).__name__ != "NoSuchOption":
        message = error.format_message().rstrip(".")
        return message if message.endswith("?") else f"{message}; {see}"
    known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    meant = borrowed.meaning(option.lstrip("-").replace("-", "_"), {name[2:].replace("-", "_") for name in known})
    near = difflib.get_close_matches(option, known, n=1, cutoff=borrowed.NEAR)
    if meant:
        hint = f"accepted: {meant.as_option()}"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = see
    return f"{option}: {command} has no such option; {hint}"


def shipped(*roles: str) -> Callable[[str], list[str]]:
    """The shipped checkpoints of these roles (all without any) that begin with what has been typed, for completion."""

    def complete(incomplete: str) -> list[str]:
        cards = {path.parent.name: json.loads(path.read_bytes()) for path in sorted(ZOO.glob("*/config.json"))}
        names = [name for name, card in cards.items() if not roles or card["role"] in roles]
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _name(*roles: str) -> Any:
    help = "A shipped model (`nextok list` shows them), a checkpoint folder, or a hub id (owner/name)."
    return typer.Argument(help=help, autocompletion=shipped(*roles))


Name = Annotated[str, _name()]
GeneratorName = Annotated[str, _name("generator")]
PipelineName = Annotated[str, _name("generator", "tokenizer")]
TokenizerName = Annotated[str, _name("tokenizer")]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Speaks = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Use this tokenizer instead of the one named in the checkpoint.",
        autocompletion=shipped("tokenizer"),
    ),
]
Device = Annotated[
    str | None, typer.Option(help="The device to run on: cpu, cuda, mps or another. By default a GPU if there is one.")
]
Fps = Annotated[float, typer.Option(help="Frame rate of the saved clip, in frames per second.")]
Batch = Annotated[int, typer.Option(help="How many pictures are computed at a time.")]
Stop = Annotated[
    list[str] | None, typer.Option(help="A text before which an answer ends where it would write it; repeatable.")
]
TextFile = Annotated[
    Path | None, typer.Option(help="A file that holds the text, in UTF-8; - reads standard input, as --text - does.")
]
Fitting = Annotated[
    str | None,
    typer.Option(
        "--fit",
        help="What to do with a picture of another aspect ratio: crop its middle (the default), pad it with white, "
        "or refuse it (exact).",
    ),
]
Crop = Annotated[bool, typer.Option("--crop", help="Short for --fit crop.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A sampling setting, as name=value; repeatable. `nextok info NAME` shows all of a model."
    ),
]


@contextmanager
def bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as the function (done, all) that moves it; none where nobody looks."""
    from tqdm import tqdm

    with tqdm(unit=unit, leave=False, disable=None) as shown:

        def show(done: int, total: int) -> None:
            shown.total, shown.n = total, done
            shown.refresh()

        yield show


def opened(
    name: str,
    out: Path | None,
    force: bool,
    device: str | None,
    tokenizer: str | None = None,
    columns: int | None = None,
    fps: float | None = None,
) -> "Pipeline":
    """The pipeline of a command that writes to `out`, which is refused here, before the work: an existing file before
    anything is loaded, what its medium can't write once that is known. out: None means the medium's own name."""
    from ..files import refuse_existing
    from ..media import Saving
    from ..pipeline import load

    if out is not None and str(out) != STDOUT:
        refuse_existing(out, force)
    pipeline = load(name, tokenizer, device)
    how = Saving(columns) if fps is None else Saving(columns, fps=fps)
    pipeline.medium.check_out(out or pipeline.medium.out, force, how)
    return pipeline


def settings(model: Any, assignments: list[str] | None) -> dict[str, Any]:
    """`--set` options, held against the model's own settings before anything else takes their names."""
    from ..config import override
    from ..pipeline import settings_of

    found = override({}, assignments or [])
    if found and hasattr(model, "Sampling"):
        settings_of(model, found)
    elif found:
        raise ValueError(f"set: got {', '.join(found)}, accepted: none, this model has no settings")
    return found


def fitting(fit: str | None, crop: bool) -> str:
    """What --fit and --crop say together."""
    if fit is not None and fit not in FITS:
        raise ValueError(f"fit: got {fit!r}, accepted: {', '.join(FITS)}")
    if crop and fit not in (None, "crop"):
        raise ValueError(f"fit: got {fit!r} and --crop, accepted: one of them")
    return fit or "crop"


def fitted(pipeline: Any, path: Path, fit: str, read: Callable[[Path, Any], Any]) -> Any:
    """A file, read; where it has another aspect ratio, a note says what was done about it."""
    images = read(path, fit)
    if said := pipeline.medium.changed(path, fit):
        print(f"note: {path}: {said} (--fit {', '.join(FITS)})", file=sys.stderr)
    return images


def numbers(text: str, option: str = "tokens") -> list[int]:
    """`1,4,16` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: got {text!r}, accepted: whole numbers, such as 1,4,16") from None
