"""The losses that tokenizers share: what each network is shown, and what is no part of a model."""

import copy

import pytest
import torch
from torch import nn

from nextok_mm.registry import build
from nextok_mm.rng import Rng
from tokenizers_visual._losses import Adversarial, FrozenFeatures, Perceptual, PictureLoss, patch_discriminator


class Sees(nn.Module):
    """Notes the lowest and the highest number and the rank of what it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append((float(x.min()), float(x.max()), x.dim()))
        return x

    def maps(self, x):
        return [self(x)]


@pytest.mark.parametrize("low, critic_low, size", [(0, -1, (4, 4)), (-1, -1, (4, 4)), (0, 0, (3, 4, 4))])
def test_every_network_is_shown_its_own_range(monkeypatch, low, critic_low, size):
    net, critic = Sees(), Sees()
    monkeypatch.setattr(FrozenFeatures, "on", lambda self, device: net)
    loss = PictureLoss("l1", Perceptual(net="any"), Adversarial(), low, critic_low)
    target = torch.rand(2, 3, *size)
    target.view(-1)[:2] = torch.tensor([0.0, 1.0])
    shown = target * 2 - 1 if low else target
    found = loss(shown, shown, critic).plus({"beside": torch.tensor([2.0, 2.0])})
    total, parts = found.total, found.parts
    assert net.seen == [(0, 1, 4)] * 2  # clips go frame by frame
    assert critic.seen == [(critic_low, 1, len(size) + 2)] * 3
    assert set(parts) == {"pixel", "perceptual", "adversarial", "discriminator", "beside"} and parts["pixel"] == 0
    torch.testing.assert_close(found.rows.mean(), total)
    torch.testing.assert_close(total, 2 + 0.1 * parts["adversarial"] + parts["discriminator"])


@pytest.mark.parametrize("pixel, expected", [("l1", 0.5), ("l2", 0.25)])
def test_without_further_terms_it_is_the_pixels(pixel, expected):
    loss = PictureLoss(pixel, None, None)(torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2), None)
    assert loss.total == loss.parts["pixel"] == expected and list(loss.parts) == ["pixel"]


def test_a_discriminator_says_a_number_for_each_patch():
    config = Adversarial(width=8, depth=2)
    assert patch_discriminator(3, None) is None
    assert patch_discriminator(3, config)(torch.rand(2, 3, 16, 24)).shape == (2, 1, 4, 6)
    assert patch_discriminator(1, config, dimensions=3)(torch.rand(2, 1, 5, 16, 24)).shape == (2, 1, 5, 4, 6)


@pytest.mark.parametrize("kind", ["kl_vae", "vq", "bae", "video_vq"])
def test_a_feature_network_is_no_part_of_a_model(monkeypatch, kind):
    loads = []
    monkeypatch.setattr("nextok_mm.features.pictures.load_features", lambda name: loads.append(name) or Net())
    model = build("tokenizer", kind, {"size": "tiny", "perceptual": {"net": "any"}})
    before = list(model.state_dict())
    for step in range(2):
        assert "perceptual" in model.loss(model.example(2, Rng([step, 9])), Rng([step, 9])).parts
    assert loads == ["any"] and list(model.state_dict()) == before
    assert not any(isinstance(module, Net) for module in copy.deepcopy(model).modules())


class Net(nn.Conv2d):
    """A feature network with weights of its own."""

    def __init__(self):
        super().__init__(1, 2, 1)

    def maps(self, x):
        return [self(x)]
