"""Next-block prediction of a clip's codes by block size: seconds, steps, frames a second; random weights, batch 1.

    nextok bench next_block                      5 x 16 x 16 codes of 64,000, two frames given, blocks of 1, 16, 256
    nextok bench next_block --against CHECKOUT   the official code in the same run, same weights, greedy clips compared
    nextok bench next_block --floor              what a step has to take: its weights once through memory, its products

A clip of 5 code frames is one of 17 frames, 5 of them given; frames a second counts the 12 that are made.
"""

import argparse
from typing import Any

import torch

from .. import registry
from ..adapters.next_block import block_shape
from ..contracts import Known
from ..decoding import decode
from ..machine import alternate, bandwidth, describe, matmul_rate, ratio
from ..rng import Rng
from .harness import options

SIZES = {"6x512": dict(depth=6, width=512, heads=8), "12x768": dict(depth=12, width=768, heads=12)}
GRID, GIVEN, MADE = (5, 16, 16), 512, 12
DRAWING = {"temperature": 1.0, "top_k": 16_000, "top_p": 0.9}


def build(size: str, block: int) -> Any:
    """The frame predictor with random weights."""
    torch.manual_seed(0)
    shape = {"grid": GRID, "block": block_shape(block, GRID), "start": "given", "positions": 5120}
    return registry.build("generator", "next_block", {**shape, **SIZES[size]}).eval()


def sample(model: Any, given: torch.Tensor, **drawing: Any) -> torch.Tensor:
    """The codes behind the given ones."""
    codes = torch.zeros(len(given), model.layout.tokens, dtype=torch.long)
    codes[:, : given.shape[1]] = given
    known = Known(codes, torch.arange(codes.shape[1]) < given.shape[1])
    *_, done = decode(model, model.start(None, Rng(range(len(given))), model.Sampling(**drawing), known))
    return done.data[:, given.shape[1] :]


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = options("bench next_block", __doc__, repeats=3, against=True)
    parser.add_argument("--sizes", default="6x512,12x768")
    parser.add_argument("--blocks", default="1,16,256")
    parser.add_argument("--floor", action="store_true")
    given = parser.parse_args(arguments)
    unknown = [size for size in given.sizes.split(",") if size not in SIZES]
    if unknown:
        raise ValueError(f"sizes: got {unknown[0]!r}, accepted: {', '.join(SIZES)}")
    print(f"next-block, 5 x 16 x 16 codes of 64,000, two frames given, batch 1, fp32; {describe()}")
    for size in given.sizes.split(","):
        first: float | None = None
        for block in map(int, given.blocks.split(",")):
            first = _row(size, block, first, given)


def _row(size: str, block: int, first: float | None, given: argparse.Namespace) -> float:
    """Measure and print one size and block; the time of the first block of this size."""
    model = build(size, block)
    codes = torch.randint(model.num_codes, (1, GIVEN), generator=torch.Generator().manual_seed(0))
    runs, same = [lambda: sample(model, codes, **DRAWING)], ""
    if given.against:
        from .official_nbp import Official

        official = Official(given.against, model.config)
        model.load_state_dict(official.weights())
        greedy = {**DRAWING, "temperature": 0.0}
        equal = (sample(model, codes, **greedy) == official.sample(codes, **greedy)).float().mean()
        same = f", greedy codes equal {100 * equal:.1f} %"
        runs.append(lambda: official.sample(codes, **DRAWING))
    ours, *theirs = alternate(runs, given.repeats, warmup=0 if given.against else 1)
    steps = (model.layout.tokens - GIVEN) // block
    best = min(ours)
    line = f"{size:7s} block {block:3d}: {steps:3d} steps, {best:6.2f} s, {MADE / best:5.2f} frames/s"
    line += "" if first is None else f", {first / best:4.1f}x block 1"
    if theirs:
        line += f"; official {min(theirs[0]):6.2f} s, ratio {ratio(theirs[0], ours):.2f}x{same}"
    print(line, flush=True)
    if given.floor:
        print(f"        floor {floor(model, steps, block):.2f} s", flush=True)
    return best if first is None else first


def floor(model: Any, steps: int, block: int) -> float:
    """Seconds of the products at the machine's rate, or of the weights once a step through memory: the larger one."""
    weights = [module.weight.numel() for module in model.backbone.modules() if isinstance(module, torch.nn.Linear)]
    head, body = model.head.logits.weight.numel(), sum(weights)
    flops = 2.0 * (steps * block * (body + head) + (GIVEN - block) * body)
    moved = 4.0 * steps * (body + head)
    return max(flops / matmul_rate(), moved / bandwidth())
