"""Reconstruction against the number of tokens: FlexTok as it is, without nested dropout, and beside a 2-D grid.

    nextok bench ladder [--steps 1200] [--n 1000] --out runs/ladder      trains the three on the same data and measures
    nextok bench ladder --model flextok-fashion --out runs/ladder-shipped      measures a checkpoint alone

The three have the same number of codes and bits a picture, and see the same pictures for the same number of steps. The
grid decodes all of its codes in one pass; FlexTok decodes the first 1, 2, 4 ... Figures go to OUT/ladder.json as they
come (a killed run goes on where it stopped), the curves to OUT/ladder.png.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from .harness import Results, by_name, options, plot, shown, slug, trained

FLEXTOK, GRID = "configs/tokenizers/flextok-fashion.yaml", "configs/tokenizers/vq-fashion.yaml"
VARIANTS = {
    "nested dropout": (FLEXTOK, ()),
    "no nested dropout": (FLEXTOK, ("model.nested_dropout=all",)),
    "2-D grid": (GRID, ()),
}
SHOWN = ("psnr", "ssim", "frechet", "agreement")


def main(arguments: list[str]) -> None:
    """Train what is missing, measure what is missing, print the table."""
    parser = options("bench ladder", __doc__, out="runs/ladder")
    parser.add_argument("--model", help="measure this checkpoint, and train nothing")
    parser.add_argument("--data", default="fashion_mnist", help="kind of the pictures (fashion_mnist, emoji)")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--n", type=int, default=1000, help="pictures of the test split")
    parser.add_argument("--judge", help="one feature space, else all that fit")
    parser.add_argument("--set", action="append", default=[], help="an override of the trainings, group.field=value")
    given = parser.parse_args(arguments)
    results = Results(given.out / "ladder.json")
    for name in [given.model] if given.model else VARIANTS:
        measure = _measure if given.model else _train_and_measure
        for tokens, row in results.fill(name, lambda: measure(name, given)).items():  # noqa: B023
            print(f"{name:20s} {tokens:>4s}  {shown(row)}")
    _plot(results.figures, given.out / "ladder.png")


def _train_and_measure(variant: str, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    (config, overrides), folder = VARIANTS[variant], given.out / slug(variant)
    own = (f"train.steps={given.steps}", *overrides, *given.set)
    return _measure(trained(config, own, folder), given)


def _measure(checkpoint: str, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Number of tokens -> figures."""
    from ..checkpoint import from_pretrained
    from ..contracts import OrderedTokenizer
    from ..eval.quality import evaluate_tokenizer

    model, card = from_pretrained(checkpoint, role="tokenizer")
    options: dict[str, Any] = {"n": given.n, "test": {"kind": given.data, "split": "test"}}
    if given.data == "emoji":
        options["test"]["tones"] = False
    options |= {"judges": [given.judge]} if given.judge else {}
    count = math.prod(model.grid(tuple(model.config.image_size)))
    if not isinstance(model, OrderedTokenizer):
        return {str(count): by_name(evaluate_tokenizer(checkpoint, **options))}
    numbers = [2**i for i in range(count.bit_length())]
    result = evaluate_tokenizer(checkpoint, tokens=numbers, **options)
    return {str(k): by_name(result, f"{card.name} {k}") for k in numbers}


def _plot(figures: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    names = [key for key in next(iter(next(iter(figures.values())).values())) if key.startswith(SHOWN)]
    most = max(int(k) for rows in figures.values() for k in rows)
    with plot(path, (3.6 * len(names), 3.4), len(names)) as axes:
        for axis, name in zip(axes, names):
            for label, rows in figures.items():
                points = [(int(k), row[name]) for k, row in rows.items() if name in row]
                axis.plot(*zip(*points), marker="o", label=label)
            axis.set_xscale("log", base=2)
            axis.set_xlabel(f"tokens, of {most}")
            axis.set_title(name, fontsize=9)
        axes[0].legend(fontsize=8)
