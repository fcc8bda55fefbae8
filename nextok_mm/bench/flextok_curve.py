"""How few network calls decode a FlexTok's codes: Frechet distance by solver, steps and guidance interval.

`nextok bench flextok --curve NAME`: the line to reach is 20 Euler steps, guided all the way. A guided step passes the
network twice (once for both halves in one batch), a step outside the guidance interval once. The same pictures, codes
and noise in every row; figures and a plot go to the folder, and what is there already isn't measured again.
"""

from pathlib import Path
from typing import Any

from .harness import Results, plot

REFERENCE = ("euler", 20, (0.0, 1.0))
SETTINGS = [
    REFERENCE,
    *[("euler", steps, (0.0, 1.0)) for steps in (2, 4, 6, 8, 12)],
    *[("ab2", steps, (0.0, 1.0)) for steps in (2, 3, 4, 5, 6, 8, 12, 20)],
    *[("heun", steps, (0.0, 1.0)) for steps in (2, 3, 4)],
    *[("ab2", 8, interval) for interval in ((0.3, 1.0), (0.0, 0.7), (0.2, 0.8))],
]
FEW = 8  # guided steps


def draw(name: str, folder: Path, n: int, tokens: int | None, judge: str, test: dict[str, Any] | None = None) -> None:
    """Measure what is missing, print the table, draw the plot. test: the source of pictures, else Fashion-MNIST's."""
    from ..eval.quality import TEST, evaluate_tokenizer

    results = Results(folder / "curve.json")
    options: dict[str, Any] = {"n": n, "judges": [judge], "tokens": tokens and [tokens], "test": test or TEST}

    def measure(solver: str, steps: int, interval: tuple[float, float]) -> dict[str, Any]:
        sampling = {"solver": solver, "steps": steps, "cfg_interval": interval}
        result = evaluate_tokenizer(name, sampling=sampling, **options)
        found = next(iter(result["figures"].values()))
        row = {"frechet": found[judge]["frechet"], "psnr": found["pixels"]["psnr"]}
        row |= calls(solver, steps, interval) | {"solver": solver, "interval": list(interval)}
        return row | {"protocol": {key: result["protocol"][key] for key in ("samples", "decoding", "tokenizer")}}

    for setting in SETTINGS:
        key = _key(*setting)
        row = results.fill(key, lambda: measure(*setting))  # noqa: B023
        print(
            f"{key:24s} {row['guided']:3d} guided calls, {row['passes']:3d} passes: Frechet {row['frechet']:.4g}, "
            f"PSNR {row['psnr']:.2f} dB",
            flush=True,
        )
    print(verdict(results.figures))
    _plot(results.figures, folder / "curve.png", judge)


def calls(solver: str, steps: int, interval: tuple[float, float]) -> dict[str, int]:
    """How often the network is called with guidance (both halves), and how many passes of a picture that is in all."""
    times = [1 - i / steps for i in range(steps)]
    if solver == "heun":  # the last step needs no correction
        times = [time for now, after in zip(times, [*times[1:], None]) for time in (now, after) if time is not None]
    guided = sum(interval[0] <= time <= interval[1] for time in times)
    return {"guided": guided, "passes": len(times) + guided}


def verdict(figures: dict[str, dict[str, Any]]) -> str:
    """Which settings of few guided calls reach the line, cheapest first."""
    line = figures[_key(*REFERENCE)]["frechet"]
    found = [(row["passes"], key) for key, row in figures.items() if row["guided"] <= FEW and row["frechet"] <= line]
    names = ", ".join(f"{key} ({passes} passes)" for passes, key in sorted(found)) or "none"
    return f"at most {FEW} guided calls and no farther than {_key(*REFERENCE)} ({line:.4g}): {names}"


def _key(solver: str, steps: int, interval: tuple[float, float]) -> str:
    return f"{solver} {steps}" + ("" if interval == (0.0, 1.0) else f" [{interval[0]:g}, {interval[1]:g}]")


def _plot(figures: dict[str, dict[str, Any]], path: Path, judge: str) -> None:
    with plot(path, (6, 3.6)) as (axis,):
        for solver, label in (("euler", "Euler"), ("ab2", "Adams-Bashforth 2"), ("heun", "Heun")):
            rows = [row for row in figures.values() if row["solver"] == solver and row["interval"] == [0.0, 1.0]]
            points = sorted((row["passes"], row["frechet"]) for row in rows)
            axis.plot(*zip(*points), marker="o", label=f"{label}, guided all the way")
        rest = {key: row for key, row in figures.items() if row["interval"] != [0.0, 1.0]}
        axis.plot(*zip(*[(r["passes"], r["frechet"]) for r in rest.values()]), "k^", label="guided in an interval")
        for key, row in rest.items():
            axis.annotate(key, (row["passes"], row["frechet"]), fontsize=6, xytext=(4, 4), textcoords="offset points")
        axis.axhline(figures[_key(*REFERENCE)]["frechet"], color="k", linestyle=":", label="Euler, 20 steps")
        axis.set_xlabel("passes of the network a picture (a guided call is two)")
        axis.set_ylabel(f"Frechet distance, {judge}")
        axis.set_yscale("log")
        axis.legend(fontsize=7)
