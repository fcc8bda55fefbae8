"""Next-block at small scale: tokens against rows and frames, same model, training steps and data.

    nextok bench blocks [--steps 350] [--n 200] --cache runs/cache/moving --out runs/blocks

Every variant is the config of --config with the same small backbone, steps and batch, drawn at temperature 1; only the
block differs. Each is trained by the one loop (a killed run goes on where it stopped) and measured on the test split
(see nextok_mm.eval.clips); then one clip of each is timed, in turn. Figures go to OUT/blocks.json, the curve over block
sizes to OUT/blocks.png; a finished bench that is run again times anew.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ..machine import alternate, describe, ratio

SMALL = ("model.width=128", "model.heads=4", "model.depth=4", "model.sampling.temperature=1.0")
BLOCKS = {"token": (1, 1, 1), "row": (1, 1, 8), "frame": (1, 8, 8)}


def main(arguments: list[str]) -> None:
    """Train what is missing, measure what is missing, print the table."""
    parser = argparse.ArgumentParser(
        prog="nextok bench blocks", formatter_class=argparse.RawDescriptionHelpFormatter, description=str(__doc__)
    )
    parser.add_argument("--config", default="configs/generators/next-block-moving.yaml")
    parser.add_argument("--cache", default="runs/cache/moving", help="codes that `nextok cache` made")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--n", type=int, default=200, help="clips a variant")
    parser.add_argument("--out", type=Path, default=Path("runs/blocks"))
    parser.add_argument("--only", choices=BLOCKS, help="train and measure one of them now")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "blocks.json"
    print(f"{given.steps} steps of each, {given.n} clips; {describe()}")
    for name in [given.only] if given.only else BLOCKS:
        figures: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
        if name not in figures:
            figures[name] = _measure(given, name)
            path.write_text(json.dumps(figures, indent=2) + "\n")
            print(f"{name}: trained and measured", flush=True)
    figures = json.loads(path.read_text())
    if set(figures) == set(BLOCKS):
        _time(figures, given.out)
        path.write_text(json.dumps(figures, indent=2) + "\n")
        _plot(figures, given.out / "blocks.png")
    for name, found in figures.items():
        print(f"{name:6s}", *(f"{figure} {value:.4g}" for figure, value in found.items()), sep="  ", flush=True)


def _measure(given: argparse.Namespace, name: str) -> dict[str, float]:
    from .. import bundled
    from ..eval import clips
    from ..pipeline import load
    from ..train import load as read
    from ..train import train

    folder = given.out / name
    own = (f"model.block={list(BLOCKS[name])}", f"train.out={folder}", f"train.steps={given.steps}")
    data = (f"data.folder={given.cache}", "train.sample_every=0")
    summary = train(read(bundled.config(given.config), [*SMALL, *own, *data]))
    if summary.status != "finished":
        raise SystemExit(summary.exit_code)
    pipeline = load(folder / "final")
    result = clips.evaluate(pipeline, given.n, baselines=False)
    found = {"nats": float(summary.loss or 0.0)}
    for row, spaces in result["figures"].items():
        where = "predicted " if "frames" in row else ""
        found |= {f"{where}{figure}": value for space in spaces.values() for figure, value in space.items()}
    return found


def _time(figures: dict[str, dict[str, float]], out: Path) -> None:
    """One clip of each, A B C A B C: seconds, frames a second, and how often faster than token by token."""
    from ..pipeline import load

    pipelines = [load(out / name / "final") for name in BLOCKS]
    first = [pipeline.generate(None, 1, 0) for pipeline in pipelines]
    times = alternate([lambda one=one: one.generate(None, 1, 0) for one in pipelines], warmup=0)
    for name, result, took in zip(BLOCKS, first, times):
        best = min(took)
        speed = {"steps a clip": result.calls, "seconds a clip": best, "frames a second": result.images.shape[2] / best}
        figures[name] |= {**speed, "times as fast as token": ratio(times[0], took)}


def _plot(figures: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = [rows * columns * frames for frames, rows, columns in BLOCKS.values()]
    shown: list[Any] = ["frechet", "predicted psnr", "seconds a clip"]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4 * len(shown), 3))
    for axis, name in zip(axes, shown):
        axis.plot(sizes, [figures[block][name] for block in BLOCKS], "o-", color="#4a6fa5")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{block} ({size})" for block, size in zip(BLOCKS, sizes)])
        axis.set_title(name, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
