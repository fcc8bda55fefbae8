"""BAE equals the official implementation: encoder, chances, bits, codes, embedding, reconstruction."""

import torch
from safetensors.torch import load_file

from nextok_mm.adapters.bae import read
from nextok_mm.contracts import Tokens
from nextok_mm.heads.categorical import split
from tokenizers_visual.bae import BAE


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def test_there_and_back(elm_bae_file):
    fields, state = read(elm_bae_file)
    model = BAE(BAE.Config.parse(fields)).eval()
    model.load_state_dict(state)
    io = load_file(elm_bae_file)
    assert relative(model.encoder(io["x"]), io["encoded"]) < 1e-5
    chances = model.chances(io["x"])
    assert relative(chances, io["prob"]) < 1e-5
    bits = model.quantizer.bits(chances)
    assert torch.equal(bits, io["bits"])
    assert relative(model.quantizer.embed(bits), io["quant"]) < 1e-5
    assert relative(model._decode(bits), io["reconstruction"]) < 1e-4
    if "code_loss" in io:
        twice = chances.sigmoid()  # the official term squashes what is a chance already; ours (off by default) doesn't
        assert relative((twice * (1 - twice)).mean(), io["code_loss"]) < 1e-5
    tokens = model.encode(io["x"])
    for name in (name for name in io if name.startswith("codes_")):
        groups = int(name.removeprefix("codes_"))
        assert torch.equal(split(tokens.data, 2 ** (model.config.bits // groups), groups), io[name])
    assert relative(model.decode(Tokens(io["codes_1"][..., 0], tokens.grid)), io["reconstruction"].clamp(0, 1)) < 1e-4
