"""What benches and studies share: a results file that is gone on with, trainings, the common options, plots."""

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_files, write_whole

if TYPE_CHECKING:
    from ..train import Summary


class Results:
    """A JSON file of figures by name, written whole after each of them: a killed run goes on where it stopped.

    figures: name -> what was measured; with parts (a study's) part -> name -> what was measured. Where a plot is made
    of it at the end (`plotted`), ValueError at once, before hours of work, for a missing matplotlib; for a broken file
    always.
    """

    def __init__(self, path: Path, plotted: bool = True):
        if plotted and importlib.util.find_spec("matplotlib") is None:
            raise ValueError("plots: matplotlib is not installed; pip install 'nextok_mm[eval]'")
        self.path = path
        self.figures: dict[str, Any] = self._read()

    def fill(self, name: str, measure: Callable[[], Any], part: str | None = None) -> Any:
        """The figures of this name: those that are in the file, or what `measure` returns, which is then written.

        The file is read anew each time, so several processes may fill different names of one file.
        """
        self.figures = self._read()
        if name not in self._rows(part):
            found = measure()
            self.figures = self._read()
            self._rows(part)[name] = found
            self.write()
        return self._rows(part)[name]

    def write(self) -> None:
        """Put `figures` into the file."""
        write_json(self.path, self.figures)

    def _rows(self, part: str | None) -> dict[str, Any]:
        return self.figures if part is None else self.figures.setdefault(part, {})

    def _read(self) -> dict[str, Any]:
        return read_json(self.path) if self.path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """The figures in a file; ValueError in one line where it holds none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"results: {str(path)!r} can't be read as JSON ({error}); move it away to begin anew"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"results: {str(path)!r} holds a {type(found).__name__}, accepted: figures by name")
    return found


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all."""
    write_files(path.parent, {path.name: (json.dumps(figures, indent=2) + "\n").encode()})


def options(
    command: str, about: str | None, out: str | None = None, repeats: int | None = None, against: bool = False
) -> argparse.ArgumentParser:
    """The parser of `nextok COMMAND`, whose help is the module's text, with the common options that are asked for.

    out: default folder of figures and plots; repeats: default number of timings; against: beside the official code.
    """
    parser = argparse.ArgumentParser(
        prog=f"nextok {command}", formatter_class=argparse.RawDescriptionHelpFormatter, description=about
    )
    if against:
        parser.add_argument("--against", metavar="CHECKOUT", help="a checkout of the official code")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats)
    if out is not None:
        parser.add_argument("--out", type=Path, default=Path(out), help=f"folder of the figures (default {out})")
    return parser


def trained(config: str, overrides: Sequence[str], folder: Path) -> str:
    """The checkpoint of a training (see `finished`)."""
    finished(config, overrides, folder)
    return str(folder / "final")


def finished(config: str, overrides: Sequence[str], folder: Path) -> "Summary":
    """A training that goes on where it stopped; another stop ends the program with its exit code.

    config: a YAML file, or the name of a bundled one. The checkpoint is FOLDER/final.
    """
    from .. import bundled
    from ..train import load, train

    summary = train(load(bundled.config(config), [*overrides, f"train.out={folder}", "train.sample_every=0"]))
    if summary.status != "finished":
        raise SystemExit(summary.exit_code)
    return summary


def slug(name: str) -> str:
    """The name of a variant as the name of a folder."""
    return "".join(c if c.isalnum() else "-" for c in name)


def by_name(result: dict[str, Any], row: str = "") -> dict[str, float]:
    """The figures of one set of pictures, else of the checkpoint itself, as `figure (feature space)`."""
    spaces = result["figures"][row or result["name"]]
    return {f"{figure} ({space})": value for space, found in spaces.items() for figure, value in found.items()}


def shown(figures: Any) -> str:
    """Figures in one line, four digits each."""
    if isinstance(figures, list):
        return "; ".join(shown(row) for row in figures)
    if isinstance(figures, dict):
        return "  ".join(f"{name} {shown(value)}" for name, value in figures.items())
    return f"{figures:.4g}" if isinstance(figures, float) else str(figures)


@contextmanager
def plot(path: Path, size: tuple[float, float], columns: int = 1) -> Iterator[list[Any]]:
    """Axes side by side to draw on; the picture is written whole when all is drawn. size: inches of all together."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=size, squeeze=False)
    try:
        yield list(axes[0])
        figure.tight_layout()
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120), force=True)
    finally:
        pyplot.close(figure)
