"""xAR-B, one 256 x 256 picture's latents with random weights, and a training step at batch 4.

    nextok bench xar                      share of the machine's matmul rate, seconds, peak memory
    nextok bench xar --against CHECKOUT   the official code in the same run, same weights, same noise, outputs compared

The arithmetic counts matrix products and attention of what has to be computed: the unconditional half is left out
where its weight is zero, conditions are counted once per (time, label).
"""

import argparse
from typing import Any

import torch

from .. import registry
from ..decoding import decode
from ..machine import alternate, describe, in_child, matmul_rate, ratio, seconds
from ..rng import Rng
from .harness import options

LABEL, CFG = 207, 2.7


def build(size: str = "B") -> Any:
    """The model with random weights."""
    torch.manual_seed(0)
    return registry.build("generator", "xar", {"size": size}).eval()


def sample(model: Any, rng: Any, **sampling: Any) -> torch.Tensor:
    """Latents [n, N, C] of len(rng) pictures."""
    settings = model.Sampling(**{"cfg": CFG, **sampling})
    *_, done = decode(model, model.start({"labels": torch.tensor([LABEL] * len(rng))}, rng, settings))
    return done.data


def sampling_flops(model: Any, steps: int, guided: bool = True) -> float:
    """Multiplications and additions of one picture: `steps` calls an entity, the first also takes in the one before."""
    backbone, layout = model.backbone.config, model.layout
    rows = 2 if guided else 1
    total = 0.0
    for entity, tokens in enumerate(layout.sizes):
        active = 1 if entity == 0 else rows  # linear guidance starts at weight 1
        before, clean = layout.span(entity)[0], layout.sizes[entity - 1] if entity else 0
        total += active * (steps * tokens + clean) * _flops_a_token(model)
        keys = steps * tokens * (before + tokens) + clean * before
        total += active * 4 * backbone.depth * backbone.width * keys
    conditions = (steps + 1) * rows
    return total + conditions * 2 * (model.backbone.ada_weight.numel() + 2 * backbone.width**2)


def training_flops(model: Any, batch: int) -> float:
    """Forward and twice that for backward, all entities noised at once."""
    backbone, sizes = model.backbone.config, model.layout.sizes
    seen = sum(size * sum(sizes[: i + 1]) for i, size in enumerate(sizes))
    forward = sum(sizes) * _flops_a_token(model) + 4 * backbone.depth * backbone.width * seen
    return 3 * batch * (forward + len(sizes) * 2 * (model.backbone.ada_weight.numel() + 2 * backbone.width**2))


def _flops_a_token(model: Any) -> float:
    weights = [p for block in model.backbone.blocks for p in block.parameters() if p.dim() == 2]
    outer = (model.embed.weight, model.backbone.midway.weight, model.head.velocity.weight)
    return 2.0 * sum(p.numel() for p in (*weights, *outer))


def _sampling_seconds(steps: int, solver: str) -> float:
    """One picture in a process of its own, so that its peak memory is its own."""
    model = build()
    return seconds(lambda: sample(model, Rng([0]), steps=steps, solver=solver), repeats=1, warmup=0)


def _train_step(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model.zero_grad(set_to_none=True)
    model.loss(batch, Rng(range(4))).total.backward()


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = options("bench xar", __doc__, repeats=3, against=True)
    parser.add_argument("--steps", type=int, default=5, help="steps an entity of the side-by-side run (default 5)")
    parser.add_argument("--quick", action="store_true", help="leave out the 40-step run and the training step")
    given = parser.parse_args(arguments)
    print(f"xAR-B, 256 x 256 latents, batch 1, CFG {CFG}, fp32; {describe()}")
    model = build()
    if given.against:
        _against(model, given)
    else:
        _alone(model, given)
    if not given.quick:
        for steps, solver in ((40, "euler_maruyama"), (10, "ab2"), (5, "ab2")):
            took, peak = in_child(_sampling_seconds, steps, solver)
            print(f"{steps:3d} steps {solver:15s} {took:6.1f} s, peak {peak:.2f} GiB")


def _alone(model: Any, given: argparse.Namespace) -> None:
    flops = sampling_flops(model, given.steps)
    rate = matmul_rate()
    times = alternate([lambda: sample(model, Rng([0]), steps=given.steps)], given.repeats)[0]
    rate = max(rate, matmul_rate())
    _print_share(f"sampling, {given.steps} steps", times, flops, rate)
    if not given.quick:
        batch = model.train().example(4, Rng(range(4)))
        times = alternate([lambda: _train_step(model, batch)], given.repeats)[0]
        _print_share("training step, batch 4", times, training_flops(model, 4), max(rate, matmul_rate()))
        model.eval()


def _print_share(what: str, times: list[float], flops: float, rate: float) -> None:
    best = min(times)
    print(
        f"{what}: {best:.2f} s (of {len(times)}: {', '.join(f'{t:.2f}' for t in times)}), {flops / 1e12:.3f} TFLOP = "
        f"{flops / best / 1e9:.0f} GFLOP/s, {100 * flops / best / rate:.0f} % of the matmul rate ({rate / 1e9:.0f})"
    )


def _against(model: Any, given: argparse.Namespace) -> None:
    from .official_xar import Official

    official = Official(given.against)
    model.load_state_dict(official.weights())
    theirs, noises = official.sample(LABEL, given.steps, CFG)
    mine = sample(model, Replay(noises), steps=given.steps)
    error = float((mine - theirs).abs().max() / theirs.abs().max())
    print(f"same weights, same noise: largest difference {error:.1e} of the largest latent")
    rate = matmul_rate()
    slow, fast = alternate(
        [
            lambda: official.sample(LABEL, given.steps, CFG),
            lambda: sample(model, Rng([0]), steps=given.steps),
        ],
        given.repeats,
    )
    _report(f"sampling, {given.steps} steps", slow, fast, sampling_flops(model, given.steps), max(rate, matmul_rate()))
    if not given.quick:
        batch = model.train().example(4, Rng(range(4)))
        slow, fast = alternate([lambda: official.train_step(batch), lambda: _train_step(model, batch)], given.repeats)
        _report("training step, batch 4", slow, fast, training_flops(model, 4), max(rate, matmul_rate()))
        model.eval()


def _report(what: str, slow: list[float], fast: list[float], flops: float, rate: float) -> None:
    print(
        f"{what}: official {min(slow):.2f} s, ours {min(fast):.2f} s, ratio {ratio(slow, fast):.2f}x (median of pairs)"
    )
    _print_share(f"{what}, ours", fast, flops, rate)


class Replay:
    """An Rng that hands out noises drawn elsewhere."""

    def __init__(self, draws: list[torch.Tensor]):
        self.draws = list(draws)

    def __len__(self) -> int:
        return len(self.draws[0])

    def normal(self, *shape: int, like: torch.Tensor) -> torch.Tensor:
        """The next recorded draw."""
        return self.draws.pop(0).reshape(-1, *shape).to(like)
