"""A model that stands on a part of its own: its fields, its weights and its cache come from that part's checkpoint."""

import pytest
import torch
from safetensors.torch import save_file

from nextok_mm import data
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.data.latents import build_cache
from nextok_mm.train import train
from nextok_mm.train.config import TrainConfig

TRUNK = {"width": 32, "heads": 2, "depth": 1}
MODEL = {
    "role": "tokenizer",
    "kind": "flextok",
    "image_channels": 1,
    "image_size": [8, 8],
    "latent_channels": 4,
    "latent_size": [4, 4],
    "patch": 1,
    "registers": 4,
    "levels": [5, 5],
    "encoder": {**TRUNK, "mask": "causal_last"},
    "decoder": {**TRUNK, "ada": "both"},
}


@pytest.fixture
def fields(tiny, tmp_path):
    save_file({"images": torch.rand(12, 1, 8, 8)}, tmp_path / "rows.safetensors")
    pictures = {"kind": "tensors", "path": str(tmp_path / "rows.safetensors")}
    cache = build_cache(from_pretrained(tiny / "vae")[0], data.parse(pictures), tmp_path / "cache")
    return {
        "model": MODEL,
        "init": {"vae": str(tiny / "vae")},
        "data": {"kind": "latents", "folder": str(cache)},
        "train": {"out": str(tmp_path / "run"), "steps": 2, "batch": 4, "cpu": True},
        "optim": {"warmup": 0},
    }


def test_a_part_comes_from_its_checkpoint_and_stays(fields, tiny, tmp_path):
    train(TrainConfig.parse(fields))
    model, _ = from_pretrained(tmp_path / "run" / "final")
    vae, _ = from_pretrained(tiny / "vae")
    assert model.config.vae == vae.config
    own = model.vae.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in vae.state_dict().items())


def test_what_does_not_fit_is_one_line(fields, tiny, tmp_path):
    from nextok_mm import registry
    from nextok_mm.checkpoint import save_pretrained

    for change, said in (
        ({"init": {"eyes": str(tiny / "vae")}}, "eyes"),
        ({"init": {"vae": str(tmp_path / "nowhere")}}, "nowhere"),
        ({"model": {**MODEL, "latent_channels": 3}}, "latent_channels"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            train(TrainConfig.parse({**fields, **change}))
        assert "\n" not in str(error.value)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = save_pretrained(registry.build("tokenizer", "kl_vae", {"size": "tiny"}), tmp_path / "other")
    with pytest.raises(ValueError, match="made by tokenizer"):
        train(TrainConfig.parse({**fields, "init": {"vae": str(other)}}))
    vae = {"role": "tokenizer", "kind": "kl_vae", "size": "tiny"}
    with pytest.raises(ValueError, match="sources of pictures"):
        train(TrainConfig.parse({**fields, "model": vae, "init": None}))
