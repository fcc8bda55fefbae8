"""Next-block at small scale: tokens against rows and frames, same model, training steps and data.

    nextok bench blocks [--steps 350] [--n 200] --cache runs/cache/moving --out runs/blocks

Every variant is the config of --config with the same small backbone, steps and batch, drawn at temperature 1; only the
block differs. Each is trained by the one loop (a killed run goes on where it stopped) and measured on the test split
(see nextok_mm.eval.clips); then one clip of each is timed, in turn. Figures go to OUT/blocks.json, the curve over block
sizes to OUT/blocks.png; a finished bench that is run again times anew.
"""

import argparse
from pathlib import Path

from ..machine import alternate, describe, ratio
from .harness import Results, finished, options, plot, shown

SMALL = ("model.width=128", "model.heads=4", "model.depth=4", "model.sampling.temperature=1.0")
BLOCKS = {"token": (1, 1, 1), "row": (1, 1, 8), "frame": (1, 8, 8)}


def main(arguments: list[str]) -> None:
    """Train what is missing, measure what is missing, print the table."""
    parser = options("bench blocks", __doc__, out="runs/blocks")
    parser.add_argument("--config", default="configs/generators/next-block-moving.yaml")
    parser.add_argument("--cache", default="runs/cache/moving", help="codes that `nextok cache` made")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--n", type=int, default=200, help="clips a variant")
    parser.add_argument("--only", choices=BLOCKS, help="train and measure one of them now")
    given = parser.parse_args(arguments)
    results = Results(given.out / "blocks.json")
    print(f"{given.steps} steps of each, {given.n} clips; {describe()}")
    for name in [given.only] if given.only else BLOCKS:
        results.fill(name, lambda: _measure(given, name))  # noqa: B023
    if set(results.figures) == set(BLOCKS):
        _time(results.figures, given.out)
        results.write()
        _plot(results.figures, given.out / "blocks.png")
    for name, found in results.figures.items():
        print(f"{name:6s}  {shown(found)}", flush=True)


def _measure(given: argparse.Namespace, name: str) -> dict[str, float]:
    from ..eval import clips
    from ..pipeline import load

    folder = given.out / name
    own = (f"model.block={list(BLOCKS[name])}", f"train.steps={given.steps}", f"data.folder={given.cache}")
    summary = finished(given.config, (*SMALL, *own), folder)
    result = clips.evaluate(load(folder / "final"), given.n, baselines=False)
    found = {"nats": float(summary.loss or 0.0)}
    for row, spaces in result["figures"].items():
        where = "predicted " if "frames" in row else ""
        found |= {f"{where}{figure}": value for space in spaces.values() for figure, value in space.items()}
    print(f"{name}: trained and measured", flush=True)
    return found


def _time(figures: dict[str, dict[str, float]], out: Path) -> None:
    """One clip of each, A B C A B C: seconds, frames a second, and how often faster than token by token."""
    from ..pipeline import load

    pipelines = [load(out / name / "final") for name in BLOCKS]
    first = [pipeline.generate(None, 1, 0) for pipeline in pipelines]
    times = alternate([lambda one=one: one.generate(None, 1, 0) for one in pipelines], warmup=0)
    for name, result, took in zip(BLOCKS, first, times):
        best = min(took)
        speed = {"steps a clip": result.calls, "seconds a clip": best, "frames a second": result.data.shape[2] / best}
        figures[name] |= {**speed, "times as fast as token": ratio(times[0], took)}


def _plot(figures: dict[str, dict[str, float]], path: Path) -> None:
    sizes = [rows * columns * frames for frames, rows, columns in BLOCKS.values()]
    names = ("frechet", "predicted psnr", "seconds a clip")
    with plot(path, (4 * len(names), 3), len(names)) as axes:
        for axis, name in zip(axes, names):
            axis.plot(sizes, [figures[block][name] for block in BLOCKS], "o-", color="#4a6fa5")
            axis.set_xscale("log", base=2)
            axis.set_xticks(sizes, [f"{block} ({size})" for block, size in zip(BLOCKS, sizes)])
            axis.set_title(name, fontsize=10)
