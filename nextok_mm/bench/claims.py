"""xAR's claims at small scale: noisy context against teacher forcing, cells against patches and the whole picture.

    nextok bench claims [--seeds 2] [--steps 1500] [--n 2500] --out runs/claims

Every variant is the config of --config with the same small backbone, parameters, steps, batch and sampler; only what
it is named for differs. Each is trained by the one loop (so a killed run goes on where it stopped), sampled without
guidance, and measured on the test split. Figures go to OUT/claims.json, a plot to OUT/claims.png.

Compute: patches, cells and the whole picture pass the same tokens through the same blocks in training, and with the
same steps an entity also in sampling. Teacher forcing passes twice the tokens a training step (the clean copy).
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from .harness import Results, by_name, options, plot, slug, trained

SMALL = ("model.width=128", "model.heads=4", "model.depth=6")
VARIANTS = {
    "cells, noisy context (xAR)": (),
    "cells, clean context (teacher forcing)": ("model.context=clean",),
    "patches": ("model.entity=patch", "model.entity_size=null"),
    "whole picture": ("model.entity=image", "model.entity_size=null"),
}
SAMPLING = {"solver": "ab2", "steps": 8, "cfg": 1.0}


def main(arguments: list[str]) -> None:
    """Train what is missing, measure what is missing, print the table."""
    parser = options("bench claims", __doc__, out="runs/claims")
    parser.add_argument("--config", default="configs/generators/xar-fashion.yaml")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--n", type=int, default=2500, help="samples a variant and seed")
    given = parser.parse_args(arguments)
    results = Results(given.out / "claims.json")
    for seed in range(given.seeds):
        for variant, overrides in VARIANTS.items():
            results.fill(f"{variant}, seed {seed}", lambda: _measure(given, variant, overrides, seed))  # noqa: B023
    for variant in VARIANTS:
        rows = [results.figures[f"{variant}, seed {seed}"] for seed in range(given.seeds)]
        print(variant, *(f"{name} {_spread([row[name] for row in rows])}" for name in rows[0]), sep="\n    ")
    _plot(results.figures, given.seeds, given.out / "claims.png")


def _measure(given: argparse.Namespace, variant: str, overrides: tuple[str, ...], seed: int) -> dict[str, float]:
    from ..eval.quality import evaluate_generator

    folder = given.out / f"{slug(variant)}-{seed}"
    own = (*SMALL, *overrides, f"train.steps={given.steps}", f"train.seed={seed}")
    checkpoint = trained(given.config, own, folder)
    return by_name(evaluate_generator(checkpoint, n=given.n, sampling=SAMPLING, baselines=False))


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4g} ({', '.join(f'{value:.4g}' for value in values)})"


def _plot(figures: dict[str, dict[str, Any]], seeds: int, path: Path) -> None:
    names = [name for name in next(iter(figures.values())) if "frechet" in name]
    with plot(path, (5 * len(names), 3), len(names)) as axes:
        for axis, name in zip(axes, names):
            for place, variant in enumerate(VARIANTS):
                values = [figures[f"{variant}, seed {seed}"][name] for seed in range(seeds)]
                axis.barh(place, statistics.mean(values), color="#7a9cc6")
                axis.plot(values, [place] * len(values), "k|", markersize=12)
            axis.set_yticks(range(len(VARIANTS)), VARIANTS if axis is axes[0] else [""] * len(VARIANTS))
            axis.invert_yaxis()
            axis.set_title(name, fontsize=9)
