"""What objectives are good for, each paper's own claim at small scale.

    nextok study objectives --out runs/objectives                    everything (half an hour of a CPU's core)
    nextok study objectives --parts recall --seeds 3                 one part

mazes:  paths through mazes by a model that was trained on any share of masked cells (mlm_u), and on the next cell
        (autoregressive): same trunk, same number of steps, greedy from the first cell to the last. The two-way model
        also from the last to the first, and surest first.
recall: values of keys that a row has shown before, by a model that was trained on contexts with holes (meap), and on
        whole ones (autoregressive).

Figures go to OUT/objectives.json as they come (a killed run goes on), a plot of each part to OUT/*.png.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bench.harness import Results, options, plot, shown, slug, trained

TRAINED: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "mazes": (
        "configs/generators/mazes.yaml",
        {
            "mlm_u": ("model.objective.kind=mlm_u",),
            "autoregressive": ("model.objective.kind=autoregressive",),
        },
    ),
    "recall": (
        "configs/generators/recall.yaml",
        {
            "meap": ("model.objective={kind: meap, share: 0.15}",),
            "autoregressive": ("model.objective=autoregressive",),
        },
    ),
}
"""Of each part the training that its variants differ from, and the variants."""
ORDERS = {"": {}, ", from the end": {"order": "reverse"}, ", surest first": {"order": "confidence", "noise": 0.0}}
"""How a two-way model fills in a path."""


def main(arguments: list[str]) -> None:
    """Train and measure what is missing, print and plot it."""
    parser = options("study objectives", __doc__, out="runs/objectives")
    parser.add_argument("--parts", default=",".join(TRAINED), help=f"of {', '.join(TRAINED)}")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="of training; by default those of the configs")
    parser.add_argument("--n", type=int, default=1000, help="rows of the test split")
    parser.add_argument("--set", action="append", default=[], help="an override of the configs, name=value; repeatable")
    given = parser.parse_args(arguments)
    if wrong := [part for part in given.parts.split(",") if part not in TRAINED]:
        raise ValueError(f"parts: got {wrong[0]!r}, accepted: {', '.join(TRAINED)}")
    results = Results(given.out / "objectives.json")
    for part in given.parts.split(","):
        for seed in range(given.seeds):
            for name in TRAINED[part][1]:
                row = f"{name}, seed {seed}"
                figures = results.fill(row, lambda: _measured(given, part, name, seed), part)  # noqa: B023
                print(f"{part:7s} {row:24s} {shown(figures)}", flush=True)
    _plot(results.figures, given.out)


def _measured(given: argparse.Namespace, part: str, name: str, seed: int) -> dict[str, Any]:
    """Train one variant, and count what it gets right."""
    from .. import bundled
    from ..checkpoint import from_pretrained
    from ..eval.puzzles import mazes_solved, values_recalled
    from ..train import load
    from ..train.log import read_log

    config, variants = TRAINED[part]
    own = [*variants[name], *given.set, f"train.seed={seed}", *([f"train.steps={given.steps}"] if given.steps else [])]
    folder = given.out / f"{part}-{slug(name)}-{seed}"
    generator = from_pretrained(trained(config, own, folder))[0].eval()
    settings: Any = load(bundled.config(config), own)
    log = read_log(folder)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in generator.parameters())}
    found |= {"seconds per step": sum(line["seconds_per_step"] for line in log) / len(log), "nats": log[-1]["nats"]}
    if part == "recall":
        return found | values_recalled(generator, settings.data, given.n)
    orders = ORDERS if generator.config.objective.two_way else {"": {}}
    for how, sampling in orders.items():
        solved = mazes_solved(generator, settings.data, given.n, **sampling)
        found |= {f"{figure}{how}": share for figure, share in solved.items() if not how or figure == "exact path"}
    return found


def _plot(figures: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """A bar per row, one picture per part."""
    for part, rows in figures.items():
        figure = "recalled" if part == "recall" else "exact path"
        with plot(out / f"{part}.png", (6, 0.8 + 0.28 * max(6, len(rows)))) as (axis,):
            axis.barh(range(len(rows)), [row[figure] for row in rows.values()], color="#7a9cc6")
            axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
            axis.set_xlim(0, 1)
            axis.invert_yaxis()
            axis.set_title(figure, fontsize=9)
