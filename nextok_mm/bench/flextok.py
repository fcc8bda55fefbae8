"""FlexTok at full size with random weights, latents in and out (no VAE): encoding and guided decoding; or few steps.

    nextok bench flextok                      d12-d12: seconds a picture, share of the matmul rate
    nextok bench flextok --memory             peak memory by batch
    nextok bench flextok --against CHECKOUT   the official code in the same run, same weights, same noise, compared
    nextok bench flextok --curve NAME         Frechet distance against network calls, by solver and guidance interval

Everything is measured in turn, A B A B, and ratios are of pairs. The arithmetic counts matrix products and attention of
what has to be computed; a guided step passes every picture twice.
"""

from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..machine import alternate, describe, in_child, matmul_rate, ratio, seconds
from ..rng import Rng
from .harness import options

LATENTS, REGISTERS, WEIGHT = (16, 32, 32), 256, 7.5
OPTIONS = {"vae": None, "image_channels": LATENTS[0], "image_size": LATENTS[1:]}
Run = tuple[Tensor, Tensor, Tensor]
"""Quantized registers, how many of each picture count, noise."""


def build(size: str = "d12-d12") -> Any:
    """The model with random weights, its VAE left out."""
    torch.manual_seed(0)
    return registry.build("tokenizer", "flextok", {"size": size, **OPTIONS}).eval()


@torch.no_grad()
def encode(model: Any, latents_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Quantized registers [B, R, F] and codes [B, R]."""
    return model.fsq(model.read(latents_BCHW))


def decode(model: Any, run: Run, steps: int) -> Tensor:
    """Latents [B, C, H, W] after Euler steps with projected guidance."""
    return model.sample(*run, model.Sampling(steps=steps, guidance="apg", cfg=WEIGHT))


def inputs(model: Any, batch: int) -> tuple[Tensor, Run]:
    """Latents, and what their decoding begins with: another number of registers for each picture."""
    config, rng = model.config, Rng(range(batch))
    shape = config.latent_channels, *config.latent_size
    latents = rng.normal(*shape)
    keep = torch.tensor([max(1, config.registers >> (i % 5)) for i in range(batch)])
    return latents, (encode(model, latents)[0], keep, rng.normal(*shape))


def encoding_flops(model: Any, batch: int) -> float:
    """Multiplications and additions of encoding: patches see patches, a register those and the registers before it."""
    config, trunk = model.config, model.encoder.config
    patches, registers = config.grid[0] * config.grid[1], config.registers
    seen = patches**2 + registers * patches + registers * (registers + 1) / 2
    outer = patches * model.patch_in.weight.numel() + registers * model.to_code.weight.numel()
    inner = (patches + registers) * _weights(model.encoder)
    return batch * (2 * (outer + inner) + 4 * trunk.depth * trunk.width * seen)


def decoding_flops(model: Any, batch: int, steps: int) -> float:
    """Of decoding with guidance: both halves of every step, and the modulations once a step."""
    config, trunk = model.config, model.decoder.config
    patches, registers = config.grid[0] * config.grid[1], config.registers
    tokens = patches + registers
    outer = patches * (model.noisy_patch_in.weight.numel() + model.velocity_out.weight.numel())
    each = 2 * (outer + tokens * _weights(model.decoder)) + 4 * trunk.depth * trunk.width * tokens**2
    return 2 * batch * steps * each + 2 * steps * model.decoder.ada_weight.numel()


def _weights(backbone: Any) -> float:
    return float(sum(p.numel() for block in backbone.blocks for p in block.parameters() if p.dim() == 2))


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = options("bench flextok", __doc__, out="runs/flextok-curve", repeats=3, against=True)
    parser.add_argument("--curve", metavar="NAME", help="a flextok checkpoint: the few-step curve instead of speed")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="pictures at a time")
    parser.add_argument("--steps", type=int, default=2, help="of decoding; a whole picture takes 20 (default 2)")
    parser.add_argument(
        "--memory", action="store_true", help="the peak memory of each batch, in fresh processes, in place of times"
    )
    parser.add_argument("--n", type=int, default=2000, help="pictures of the curve")
    parser.add_argument("--tokens", type=int, help="codes that the curve decodes from (default: all)")
    parser.add_argument("--judge", default="fashion-judge", help="feature space of the curve")
    given = parser.parse_args(arguments)
    if given.curve:
        from .flextok_curve import draw

        draw(given.curve, given.out, given.n, given.tokens, given.judge)
        return
    if given.memory:
        _memory(given.batches, given.against)
        return
    print(f"FlexTok d12-d12, {LATENTS} latents, {REGISTERS} registers, APG {WEIGHT}, fp32; {describe()}")
    official = None
    if given.against:
        from .official_flextok import Official

        official = Official(given.against, (12, 12), REGISTERS, LATENTS)
        fields, weights = official.weights()
        model = registry.build("tokenizer", "flextok", fields).eval()
        model.load_state_dict(weights)
    else:
        model = build()
    for batch in given.batches:
        _measure(model, official, batch, given.steps, given.repeats)


def _measure(model: Any, official: Any, batch: int, steps: int, repeats: int) -> None:
    """One batch: encoding and decoding, ours and (where given) theirs in turn, outputs compared."""
    latents, run = inputs(model, batch)
    encoders, decoders = [lambda: encode(model, latents)], [lambda: decode(model, run, steps)]
    if official is not None:
        encoders.append(lambda: official.encode(latents))
        decoders.append(lambda: official.decode(*run, steps, WEIGHT))
        (quants, codes), (theirs, their_codes) = (call() for call in encoders)
        mine, other = (call() for call in decoders)
        off, worst = int((codes != their_codes).sum()), float((mine - other).abs().max() / other.abs().max())
        print(
            f"batch {batch}: same weights, same noise: {off} of {codes.numel()} codes differ, quantized by at most "
            f"{float((quants - theirs).abs().max()):.1e}, decoded latents by {worst:.1e} of the largest"
        )
    work = {"encode": encoding_flops(model, batch), f"{steps} steps": decoding_flops(model, batch, steps)}
    for (what, flops), runs in zip(work.items(), (encoders, decoders)):
        rate = matmul_rate()
        times = alternate(runs, repeats)
        rate, best = max(rate, matmul_rate()), min(times[0])
        line = f"batch {batch}, {what}: {best / batch:.3f} s a picture, {flops / batch / 1e12:.4f} TFLOP each"
        line += f", {100 * flops / best / rate:.0f} % of the matmul rate ({rate / 1e9:.0f} GFLOP/s)"
        if official is not None:
            line += f"; official {min(times[1]) / batch:.3f} s, {ratio(times[1], times[0]):.2f}x (median of pairs)"
        print(line, flush=True)


def _memory(batches: list[int], against: str | None) -> None:
    for batch in batches:
        _, peak = in_child(_one_step, batch)
        line = f"batch {batch}: peak memory of one guided step {peak:.2f} GiB"
        if against:
            line += f", official {in_child(_one_official_step, batch, against)[1]:.2f} GiB"
        print(line, flush=True)


def _one_step(batch: int) -> float:
    """A guided step in a process of its own, so that its peak memory is its own."""
    model = build()
    _, run = inputs(model, batch)
    return seconds(lambda: decode(model, run, 1), repeats=1, warmup=0)


def _one_official_step(batch: int, against: str) -> float:
    from .official_flextok import Official

    official = Official(against, (12, 12), REGISTERS, LATENTS)
    latents = Rng(range(batch)).normal(*LATENTS)
    quants, _ = official.encode(latents)
    keep = torch.full((batch,), REGISTERS)
    return seconds(lambda: official.decode(quants, keep, latents, 1, WEIGHT), repeats=1, warmup=0)
