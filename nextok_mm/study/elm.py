"""ELM's analysis at small scale: what makes image codes hard to model, and what helps.

    nextok study elm --out runs/study                       everything (hours on a CPU)
    nextok study elm --parts entropy,locality,sweeps        what needs no training

entropy:  bits of a code, alone and given the one before, beside as much English text
locality: how far each layer looks (of --model, and of the sizes trained under `variants`)
variants: small models that differ in one thing each: size, vocabulary split, chained groups, masked; --seeds of each
sweeps:   guidance weight and schedule, top-k: Frechet distance and class agreement of --model

Figures go to OUT/elm.json as they come (a killed run goes on), plots to OUT/*.png.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import bundled
from ..bench.harness import Results, by_name, options, plot, shown, slug, trained
from ..inference import inferring
from . import entropy, locality

SMALL = ("model.width=128", "model.heads=4", "model.depth=6")
SWEEPS: dict[str, dict[str, Any]] = {
    **{f"cfg {weight}": {"cfg": weight, "cfg_schedule": "linear"} for weight in (1.0, 1.25, 1.5, 2.0, 3.0)},
    **{
        f"cfg 1.5 {schedule}": {"cfg": 1.5, "cfg_schedule": schedule}
        for schedule in ("constant", "cosine", "log", "square", "square_root")
    },
    **{f"top-k {k or 'all'}": {"cfg": 1.0, "top_k": k} for k in (10, 50, 200, 800, 0)},
}


def variants(codes: int, only: Sequence[int] = ()) -> dict[str, tuple[str, ...]]:
    """What is trained, for a tokenizer of so many codes: overrides of the config. only: these numbers of groups."""
    splits = [g for g in range(1, 9) if round(codes ** (1 / g)) ** g == codes and 4 <= codes ** (1 / g) < 1 << 14]
    if wrong := [g for g in only if g not in splits]:
        raise ValueError(f"splits: got {wrong[0]}, accepted for {codes} codes: {', '.join(map(str, splits))}")
    splits = [g for g in splits if not only or g in only]
    found: dict[str, tuple[str, ...]] = {f"split {g}": (*SMALL, f"model.groups={g}") for g in splits}
    found |= {f"split {g} chained": (*SMALL, f"model.groups={g}", "model.head=chained") for g in splits if g > 1}
    found["masked"] = (*SMALL, f"model.groups={splits[0]}", "model.objective=masked", "model.smoothing=0.1")
    for width, heads, depth in ((64, 2, 4), (192, 6, 8)):
        sized = (f"model.width={width}", f"model.heads={heads}", f"model.depth={depth}")
        found[f"width {width}"] = (*sized, f"model.groups={splits[0]}")
    return found


def main(arguments: list[str]) -> None:
    """Measure what is missing, print and plot it."""
    given = _parse(arguments)
    results = Results(given.out / "elm.json")
    for part in given.parts.split(","):
        _PARTS[part](given, results)
    _plot(results.figures, given.out)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = options("study elm", __doc__, out="runs/study")
    parser.add_argument("--model", default="elm-fashion", help="a trained ELM, for all but the variants")
    parser.add_argument("--config", default="configs/generators/elm-fashion.yaml", help="what the variants differ from")
    parser.add_argument("--set", action="append", default=[], help="an override of the config, name=value; repeatable")
    parser.add_argument("--parts", default=",".join(_PARTS), help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--splits", default="", help="numbers of groups that the variants are trained with: 2,3")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600, help="of training a variant")
    parser.add_argument("--n", type=int, default=2000, help="samples of a Frechet distance; 0 leaves those out")
    given = parser.parse_args(arguments)
    wrong = [part for part in given.parts.split(",") if part not in _PARTS]
    if wrong:
        raise ValueError(f"parts: got {wrong[0]!r}, accepted: {', '.join(_PARTS)}")
    if not all(part.isdigit() for part in given.splits.split(",") if given.splits):
        raise ValueError(f"splits: got {given.splits!r}, accepted: numbers of groups, such as 2,3")
    given.config = bundled.config(given.config)
    given.splits = [int(part) for part in given.splits.split(",") if part]
    return given


def _fill(results: Results, part: str, name: str, measure: Callable[[], Any]) -> None:
    print(f"{part:9s} {name:24s} {shown(results.fill(name, measure, part))}", flush=True)


def _entropy(given: argparse.Namespace, results: Results) -> None:
    """Codes of the test split, beside text."""
    from ..pipeline import load

    def measure() -> Any:
        tokenizer = load(given.model).tokenizer
        return entropy.beside_text(_test_codes(tokenizer)["tokens"])

    _fill(results, "entropy", given.model, measure)


def _locality(given: argparse.Namespace, results: Results) -> None:
    """The model's layers, and those of the variants of other sizes that are there."""
    from ..pipeline import load

    places = {given.model: given.model}
    places |= {path.name: str(path / "final") for path in sorted(given.out.glob("w*-0")) if (path / "final").is_dir()}
    for name, place in places.items():

        def measure(place: str = place) -> Any:
            pipeline = load(place)
            batch = {key: rows[:64] for key, rows in _test_codes(pipeline.tokenizer, 64).items()}
            return locality.by_layer(pipeline.generator, batch)

        _fill(results, "locality", name, measure)


def _variants(given: argparse.Namespace, results: Results) -> None:
    """Train each, take its loss on the test split and its pictures' figures."""
    from .. import bundled
    from ..train import load

    codes = load(bundled.config(given.config), given.set).model.fields.model_dump()["num_codes"]
    for seed in range(given.seeds):
        for name, overrides in variants(codes, given.splits).items():
            row = f"{name}, seed {seed}"
            _fill(results, "variants", row, lambda: _trained(given, name, overrides, seed))  # noqa: B023


def _trained(given: argparse.Namespace, name: str, overrides: tuple[str, ...], seed: int) -> dict[str, float]:
    from ..eval.quality import evaluate_generator
    from ..pipeline import load

    folder = given.out / f"{slug(name)}-{seed}"
    own = (*given.set, *overrides, f"train.steps={given.steps}", f"train.seed={seed}")
    checkpoint = trained(given.config, own, folder)
    pipeline = load(checkpoint)
    found = {"parameters": sum(p.numel() for p in pipeline.generator.parameters())}  # type: ignore[union-attr]
    found |= _held_out(pipeline)
    if given.n:
        sampling = {"cfg": 1.0}
        found |= by_name(evaluate_generator(checkpoint, given.n, sampling=sampling, baselines=False, progress=False))
    return found


@torch.no_grad()
def _held_out(pipeline: Any) -> dict[str, float]:
    """Bits a position (all its groups together) on codes of the test split; of a masked model, of what it hides."""
    from ..rng import Rng, mix

    model, rows = pipeline.generator, _test_codes(pipeline.tokenizer)
    losses = []
    for first in range(0, len(rows["tokens"]), 100):
        batch = {key: column[first : first + 100] for key, column in rows.items()}
        seeds = [mix("held out", first + row) for row in range(len(batch["tokens"]))]
        losses.append(float(_undropped(model).loss(batch, Rng(seeds)).total))
    return {"bits a position": statistics.mean(losses) * model.config.groups / math.log(2)}


def _undropped(model: Any) -> Any:
    """The same model, whose loss keeps every row's condition."""
    model.config = model.config.model_copy(update={"condition_dropout": 0.0, "smoothing": 0.0})
    return model


def _sweeps(given: argparse.Namespace, results: Results) -> None:
    """Guidance and top-k of the model."""
    from ..eval.quality import evaluate_generator

    for name, sampling in SWEEPS.items():

        def measure(sampling: Mapping[str, Any] = sampling) -> Any:
            result = evaluate_generator(
                given.model, n=given.n, sampling=sampling, judges=["fashion-judge"], baselines=False, progress=False
            )
            return by_name(result)

        _fill(results, "sweeps", name, measure)


_PARTS: dict[str, Callable[[argparse.Namespace, Results], None]] = {
    "entropy": _entropy,
    "variants": _variants,
    "locality": _locality,
    "sweeps": _sweeps,
}


@inferring
def _test_codes(tokenizer: Any, n: int = 2000) -> dict[str, torch.Tensor]:
    """Codes and labels of the first pictures of the test split."""
    from .. import data
    from ..eval.quality import TEST

    source, parts = data.parse(TEST).open(), []
    for first in range(0, n, 100):
        found = source.batch(range(first, min(first + 100, n)))
        parts.append({"tokens": tokenizer.encode(found["images"]).data, "labels": found["labels"]})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _plot(figures: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """One picture a part that has figures."""
    for part, rows in figures.items():
        with plot(out / f"{part}.png", (6, 0.8 + 0.28 * max(6, len(rows)))) as (axis,):
            if part == "locality":
                for name, layers in rows.items():
                    distances = [layer["distance"] for layer in layers]
                    axis.plot(range(1, len(layers) + 1), distances, marker="o", label=name)
                axis.set_xlabel("layer")
                axis.set_ylabel("mean distance of what is looked at, codes")
                axis.legend(fontsize=8)
                continue
            flat = dict(next(iter(rows.values()))) if part == "entropy" else dict(rows)
            wanted = ("bits", "frechet (fashion-judge)", "bits a position")
            bars = {n: next((row[w] for w in wanted if w in row), None) for n, row in flat.items()}
            shown = {name: value for name, value in bars.items() if value is not None}
            axis.barh(range(len(shown)), list(shown.values()), color="#7a9cc6")
            axis.set_yticks(range(len(shown)), list(shown), fontsize=8)
            axis.invert_yaxis()
            axis.set_title(next(w for w in wanted if any(w in row for row in flat.values())), fontsize=9)
