"""How few steps will do: the multistep solver against the 40-step SDE, by Frechet distance and seconds.

    nextok bench steps [--model xar-fashion] [--n 5000] [--cfg 1.5] --out runs/steps

Every row is the same checkpoint, labels and seeds; only solver and steps differ. Figures go to OUT/steps.json as they
come (a killed run goes on), the curve to OUT/steps.png.
"""

from pathlib import Path
from typing import Any

from .harness import Results, by_name, options, plot, shown

BUDGETS = [
    ("euler_maruyama", 40),
    *[("ab2", steps) for steps in (2, 3, 4, 5, 6, 8, 12, 20)],
    *[("euler", steps) for steps in (5, 10, 20)],
]


def main(arguments: list[str]) -> None:
    """Measure what is missing and print the table."""
    parser = options("bench steps", __doc__, out="runs/steps")
    parser.add_argument("--model", default="xar-fashion")
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--cfg", type=float, help="guidance weight, else the checkpoint's own")
    parser.add_argument("--judge", help="one feature space, else both")
    given = parser.parse_args(arguments)
    from ..eval.quality import JUDGES, evaluate_generator

    results, judges = Results(given.out / "steps.json"), [given.judge] if given.judge else JUDGES

    def measure(solver: str, steps: int) -> dict[str, float]:
        sampling = {"solver": solver, "steps": steps, **({} if given.cfg is None else {"cfg": given.cfg})}
        result = evaluate_generator(given.model, n=given.n, sampling=sampling, judges=judges, baselines=False)
        return {**by_name(result), "sampling seconds": result["protocol"]["sampling_seconds"]}

    for solver, steps in BUDGETS:
        found = results.fill(f"{solver} {steps}", lambda: measure(solver, steps))  # noqa: B023
        print(f"{f'{solver} {steps}':20s} {shown(found)}", flush=True)
    _plot(results.figures, given.out / "steps.png")


def _plot(figures: dict[str, dict[str, Any]], path: Path) -> None:
    names = [name for name in next(iter(figures.values())) if name.startswith("frechet")]
    with plot(path, (5 * len(names), 3.4), len(names)) as axes:
        for axis, name in zip(axes, names):
            for solver in ("ab2", "euler"):
                points = [(s, figures[f"{solver} {s}"][name]) for kind, s in BUDGETS if kind == solver]
                axis.plot(*zip(*points), marker="o", label={"ab2": "Adams-Bashforth 2", "euler": "Euler"}[solver])
            axis.axhline(figures["euler_maruyama 40"][name], color="k", linestyle=":", label="SDE, 40 steps")
            axis.set_xlabel("network calls an entity")
            axis.set_yscale("log")
            axis.set_title(name, fontsize=9)
            axis.legend(fontsize=8)
