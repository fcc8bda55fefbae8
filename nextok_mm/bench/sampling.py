"""A small xAR: what caching, backends, packing, guidance and batching bring; pictures a second; training speed.

    nextok bench sampling [--model xar-fashion] [--n 64] [--json OUT]

Every line is measured in turn with the others of its table, and the ratios are pairwise.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ..machine import alternate, describe, matmul_rate, ratio
from ..rng import Rng
from ..sequence.packed import packed
from .harness import options, write_json
from .xar import training_flops


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = options("bench sampling", __doc__, repeats=5)
    parser.add_argument("--model", default="xar-fashion")
    parser.add_argument("--n", type=int, default=64, help="pictures a batch")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    from ..checkpoint import from_pretrained

    model: Any = from_pretrained(given.model, role="generator")[0]
    print(f"{given.model}, {given.n} pictures a batch, its own sampling settings; {describe()}")
    figures = {"machine": describe(), "model": given.model, "n": given.n}
    figures["sampling"] = _sampling(model, given.n, given.repeats)
    figures["training"] = _training(model, given.repeats)
    if given.json:
        write_json(given.json, figures)


def _sampling(model: Any, n: int, repeats: int) -> dict[str, float]:
    labels = torch.arange(n) % max(model.config.classes, 1) if model.config.classes else None

    def draw(backend: str = "auto", pack: bool = True, **sampling: Any) -> None:
        model.backbone.backend = backend
        settings = model.Sampling(**{**model.config.sampling.model_dump(), **sampling})
        state = model.start({"labels": labels}, Rng(range(n)), settings)
        with torch.no_grad(), packed(model) if pack else nullcontext():
            while not state.done:
                state = model.step(state)
        model.backbone.backend = "auto"

    runs = {
        "as shipped": {},
        "no key-value cache": {"cache": False},
        "weights not packed": {"pack": False},
        "attention slices": {"backend": "slices"},
        "attention sdpa": {"backend": "sdpa"},
        "attention flex": {"backend": "flex"},
        "no guidance": {"cfg": 1.0},
        "SDE, 40 steps": {"solver": "euler_maruyama", "steps": 40},
        "Adams-Bashforth, 8 steps": {"solver": "ab2", "steps": 8},
    }
    times = alternate([lambda options=options: draw(**options) for options in runs.values()], repeats)
    for name, taken in zip(runs, times):
        print(f"  {name:26s} {n / min(taken):8.1f} pictures/s   takes {ratio(taken, times[0]):5.2f}x as long")
    return {name: n / min(taken) for name, taken in zip(runs, times)}


def _training(model: Any, repeats: int) -> dict[str, float]:
    batch = 128
    model.train()
    rows = model.example(batch, Rng(range(batch)))
    rate = matmul_rate()
    figures = {}

    def step(dtype: torch.dtype | None) -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model.loss(rows, Rng(range(batch))).total
        loss.backward()

    types: dict[str, torch.dtype | None] = {"fp32": None}
    if matmul_rate(torch.bfloat16) > rate / 2:
        types["bf16"] = torch.bfloat16
    else:
        print("  training step bf16: left out, this machine has no fast bf16 products")
    times = alternate([lambda dtype=dtype: step(dtype) for dtype in types.values()], repeats)
    for name, taken in zip(types, times):
        speed = batch / min(taken)
        share = training_flops(model, batch) / min(taken) / rate
        print(f"  training step {name}: {speed:6.0f} pictures/s, {100 * share:.0f} % of the fp32 matmul rate")
        figures |= {f"pictures/s {name}": speed, f"share of fp32 matmul rate {name}": share}
    return figures
