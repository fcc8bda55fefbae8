"""FlexTok equals the official implementation: registers, codes, velocities, guided trajectories, the loss."""

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nextok_mm.adapters.flextok import read
from nextok_mm.flow.paths import PATHS
from nextok_mm.quantizers.fsq import FSQ
from tokenizers_visual.flextok import FlexTok, Sampling


def load(flextok_pair) -> tuple[FlexTok, dict[str, torch.Tensor]]:
    fields, state = read(flextok_pair[0])
    model = FlexTok(FlexTok.Config.parse(fields)).eval()
    model.load_state_dict(state)
    return model, load_file(flextok_pair[1])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def test_registers_and_codes(flextok_pair):
    model, io = load(flextok_pair)
    registers = model.read(io["encode.latents_BCHW"])
    assert relative(registers, io["encode.registers_BRl"]) < 1e-5
    quants, codes = model.fsq(registers)
    assert torch.equal(codes, io["encode.codes_BR"])
    assert relative(quants, io["encode.quants_BRl"]) < 1e-5


@torch.no_grad()
def test_velocity_and_loss(flextok_pair):
    model, io = load(flextok_pair)
    latents, noise, times = io["encode.latents_BCHW"], io["decode.noise_BCHW"], io["decode.times_B"]
    x = PATHS["linear"].mix(latents, noise, times[:, None, None, None])
    velocity = model.velocity(x, model.conditions(io["encode.quants_BRl"], io["decode.keep_B"]), times)
    assert relative(velocity, io["decode.velocity_BCHW"]) < 1e-5
    without = model.velocity(x, model.without(len(x)), times)
    assert relative(without, io["decode.velocity_null_BCHW"]) < 1e-5
    assert relative((velocity - (noise - latents)).square().mean(), io["train.loss"][0]) < 1e-5


def test_sampling_trajectories(flextok_pair):
    model, io = load(flextok_pair)
    for name, guidance, weight in (("plain", "none", 1.0), ("cfg", "cfg", 3.0), ("apg", "apg", 7.5)):
        sampling = Sampling(steps=int(io["sample.steps"]), guidance=guidance, cfg=weight)
        given = io["encode.quants_BRl"], io["decode.keep_B"], io["decode.noise_BCHW"]
        assert relative(model.sample(*given, sampling), io[f"sample.{name}_BCHW"]) < 1e-3, name


def test_the_quantizer(flextok_pair):
    with safe_open(flextok_pair[0], "pt") as opened:
        assert opened.metadata()
    model, io = load(flextok_pair)
    fsq: FSQ = model.fsq
    quants, codes = fsq(io["fsq.z"])
    assert torch.equal(codes, io["fsq.codes"]) and relative(quants, io["fsq.quants"]) < 1e-6
    assert relative(fsq.dequantize(io["fsq.some_codes"]), io["fsq.some_quants"]) < 1e-6
