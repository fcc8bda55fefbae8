"""xAR equals the official implementation: training velocity and loss, and a sampling trajectory with its noises."""

import torch
from safetensors.torch import load_file

from generators.xar import XAR, Sampling
from nextok_mm.adapters.xar import convert
from nextok_mm.decoding import decode


class Recorded:
    """Stands in for an Rng: hands out the recorded noises of each entity, the first one and then the SDE's."""

    def __init__(self, first_EBKC, sde_EsBKC):
        self.draws = [draw for first, sde in zip(first_EBKC, sde_EsBKC) for draw in (first, *sde)]
        self.rows = first_EBKC.shape[1]

    def __len__(self):
        return self.rows

    def normal(self, *shape, like):
        draw = self.draws.pop(0)
        assert draw.shape[1:] == shape
        return draw.to(like)


def load(xar_pair) -> tuple[XAR, dict[str, torch.Tensor]]:
    fields, state = convert(load_file(xar_pair[0]))
    model = XAR(XAR.Config.parse(fields)).eval()
    model.load_state_dict(state)
    return model, load_file(xar_pair[1])


def raster(latents_BCHW: torch.Tensor) -> torch.Tensor:
    return latents_BCHW.flatten(2).transpose(1, 2)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


def test_training_velocity_and_loss(xar_pair):
    model, io = load(xar_pair)
    x0 = model.layout.to_sequence(raster(io["train.latents"]))
    eps = io["train.noise_BEKC"].flatten(1, 2)
    times = io["train.time_EB"].T
    with torch.no_grad():
        velocity = model.velocity(x0, eps, times, io["train.labels"].long())
    assert relative(velocity, io["train.velocity_BNC"]) < 1e-5
    loss = model.head.loss(velocity, model.path.velocity(x0, eps, 0.0)).mean()
    assert relative(loss, io["train.loss"][0]) < 1e-5


def test_sampling_trajectory(xar_pair):
    model, io = load(xar_pair)
    steps, cfg = io["sample.steps_cfg"].tolist()
    for cache in (True, False):
        rng = Recorded(io["sample.init_EBKC"], io["sample.sde_EsBKC"])
        begun = model.start({"labels": io["sample.labels"]}, rng, Sampling(steps=int(steps), cfg=cfg, cache=cache))
        *_, done = decode(model, begun)
        assert not rng.draws
        assert relative(done.data, raster(io["sample.latents_BCHW"])) < 1e-3, f"cache={cache}"
