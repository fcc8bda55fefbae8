"""How few steps will do: the multistep solver against the 40-step SDE, by Frechet distance and seconds.

    nextok bench steps [--model xar-fashion] [--n 5000] [--cfg 1.5] --out runs/steps

Every row is the same checkpoint, labels and seeds; only solver and steps differ. Figures go to OUT/steps.json as they
come (a killed run goes on), the curve to OUT/steps.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .claims import by_name

BUDGETS = [
    ("euler_maruyama", 40),
    *[("ab2", steps) for steps in (2, 3, 4, 5, 6, 8, 12, 20)],
    *[("euler", steps) for steps in (5, 10, 20)],
]


def main(arguments: list[str]) -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(prog="nextok bench steps", description=str(__doc__))
    parser.add_argument("--model", default="xar-fashion")
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--cfg", type=float, help="guidance weight, else the checkpoint's own")
    parser.add_argument("--judge", help="one feature space, else both")
    parser.add_argument("--out", type=Path, default=Path("runs/steps"))
    given = parser.parse_args(arguments)
    from ..eval.quality import JUDGES, evaluate_generator

    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "steps.json"
    figures: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    judges = [given.judge] if given.judge else JUDGES
    for solver, steps in BUDGETS:
        key = f"{solver} {steps}"
        if key not in figures:
            sampling = {"solver": solver, "steps": steps, **({} if given.cfg is None else {"cfg": given.cfg})}
            result = evaluate_generator(given.model, n=given.n, sampling=sampling, judges=judges, baselines=False)
            figures[key] = {**by_name(result), "sampling seconds": result["protocol"]["sampling_seconds"]}
            path.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"{key:20s}", "  ".join(f"{name} {value:.4g}" for name, value in figures[key].items()), flush=True)
    _plot(figures, given.out / "steps.png")


def _plot(figures: dict[str, dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in next(iter(figures.values())) if name.startswith("frechet")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.4), squeeze=False)
    for axis, name in zip(axes[0], names):
        for solver in ("ab2", "euler"):
            points = [(s, figures[f"{solver} {s}"][name]) for kind, s in BUDGETS if kind == solver]
            axis.plot(*zip(*points), marker="o", label={"ab2": "Adams-Bashforth 2", "euler": "Euler"}[solver])
        axis.axhline(figures["euler_maruyama 40"][name], color="k", linestyle=":", label="SDE, 40 steps")
        axis.set_xlabel("network calls an entity")
        axis.set_yscale("log")
        axis.set_title(name, fontsize=9)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
