"""xAR's claims at small scale: noisy context against teacher forcing, cells against patches and the whole picture.

    nextok bench claims [--seeds 2] [--steps 1500] [--n 2500] --out runs/claims

Every variant is the config of --config with the same small backbone, parameters, steps, batch and sampler; only what
it is named for differs. Each is trained by the one loop (so a killed run goes on where it stopped), sampled without
guidance, and measured on the test split. Figures go to OUT/claims.json, a plot to OUT/claims.png.

Compute: patches, cells and the whole picture pass the same tokens through the same blocks in training, and with the
same steps an entity also in sampling. Teacher forcing passes twice the tokens a training step (the clean copy).
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    parser = argparse.ArgumentParser(
        prog="nextok bench claims", formatter_class=argparse.RawDescriptionHelpFormatter, description=str(__doc__)
    )
    parser.add_argument("--config", default="configs/generators/xar-fashion.yaml")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--n", type=int, default=2500, help="samples a variant and seed")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "claims.json"
    figures: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    for seed in range(given.seeds):
        for variant, overrides in VARIANTS.items():
            key = f"{variant}, seed {seed}"
            if key not in figures:
                figures[key] = _measure(given, variant, overrides, seed)
                path.write_text(json.dumps(figures, indent=2) + "\n")
    for variant in VARIANTS:
        rows = [figures[f"{variant}, seed {seed}"] for seed in range(given.seeds)]
        print(variant, *(f"{name} {_spread([row[name] for row in rows])}" for name in rows[0]), sep="\n    ")
    _plot(figures, given)


def _measure(given: argparse.Namespace, variant: str, overrides: tuple[str, ...], seed: int) -> dict[str, float]:
    from ..eval.quality import evaluate_generator

    folder = given.out / f"{''.join(c if c.isalnum() else '-' for c in variant)}-{seed}"
    own = (*SMALL, *overrides, f"train.steps={given.steps}", f"train.seed={seed}")
    checkpoint = trained(given.config, own, folder)
    return by_name(evaluate_generator(checkpoint, n=given.n, sampling=SAMPLING, baselines=False))


def trained(config: str, overrides: Sequence[str], folder: Path) -> str:
    """The checkpoint of a training, which goes on where it stopped; a stop ends the program with its exit code."""
    from .. import bundled
    from ..train import load, train

    summary = train(load(bundled.config(config), [*overrides, f"train.out={folder}", "train.sample_every=0"]))
    if summary.status != "finished":
        raise SystemExit(summary.exit_code)
    return str(folder / "final")


def by_name(result: dict[str, Any], row: str = "") -> dict[str, float]:
    """The figures of one set of pictures, else of the checkpoint itself, as `figure (feature space)`."""
    spaces = result["figures"][row or result["name"]]
    return {f"{figure} ({space})": value for space, found in spaces.items() for figure, value in found.items()}


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4g} ({', '.join(f'{value:.4g}' for value in values)})"


def _plot(figures: dict[str, dict[str, Any]], given: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in next(iter(figures.values())) if "frechet" in name]
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names):
        for place, variant in enumerate(VARIANTS):
            values = [figures[f"{variant}, seed {seed}"][name] for seed in range(given.seeds)]
            axis.barh(place, statistics.mean(values), color="#7a9cc6")
            axis.plot(values, [place] * len(values), "k|", markersize=12)
        axis.set_yticks(range(len(VARIANTS)), VARIANTS if axis is axes[0][0] else [""] * len(VARIANTS))
        axis.invert_yaxis()
        axis.set_title(name, fontsize=9)
    figure.tight_layout()
    figure.savefig(given.out / "claims.png", dpi=120)
