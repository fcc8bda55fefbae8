"""The evaluation end to end on tiny checkpoints, and the disk memory behind it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nextok_mm import data
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.eval import cache, quality, samples
from nextok_mm.registry import build
from nextok_mm.rng import Rng


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A tiny tokenizer, generator, judge and data set on disk, and a cache of their own."""
    monkeypatch.setenv("NEXTOK_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    for role, kind in (("tokenizer", "kl_vae"), ("judge", "fashion_cnn")):
        save_pretrained(build(role, kind, {"size": "tiny"}), tmp_path / role)
    generator = build("generator", "xar", {"size": "tiny", "sampling": {"steps": 2, "last": 0.5}})
    save_pretrained(generator, tmp_path / "generator", tokenizer="../tokenizer")
    for split, n in (("train", 40), ("test", 30)):
        rows = {"images": torch.rand(n, 1, 8, 8), "labels": torch.arange(n) % 3}
        save_file(rows, tmp_path / f"{split}.safetensors")
    return tmp_path


def sources(world):
    return {split: {"kind": "tensors", "path": str(world / f"{split}.safetensors")} for split in ("train", "test")}


def test_a_generator_stands_beside_its_baselines(world):
    judge = str(world / "judge")
    options = dict(n=12, seed=3, judges=[judge], batch=5, progress=False, **sources(world))
    result = quality.evaluate(str(world / "generator"), **options)
    rows = {"generator", "real train", "reconstructed test", "gaussian", "gaussian by class"}
    assert set(result["figures"]) == rows
    for row in rows:
        assert {"frechet", "precision", "recall"} <= set(result["figures"][row][judge])
    assert "agreement" not in result["figures"]["gaussian"][judge]
    assert 0 <= result["figures"]["gaussian by class"][judge]["agreement"] <= 1
    assert json.loads(json.dumps(result)) == result
    for word in ("samples", "seed", "sampling", "spaces", "reference", "torch"):
        assert word in result["protocol"]
    text = quality.report(result)
    assert "gaussian by class" in text and "frechet" in text
    # A second time, cut into other batches: samples and baselines are the same ones.
    again = quality.evaluate(str(world / "generator"), **{**options, "batch": 12})
    for row in rows:
        assert again["figures"][row][judge] == pytest.approx(result["figures"][row][judge], rel=1e-3, abs=1e-4)


def test_a_tokenizer_is_compared_with_its_input(world):
    judge = str(world / "judge")
    result = quality.evaluate(str(world / "tokenizer"), judges=[judge], progress=False, test=sources(world)["test"])
    assert {"psnr", "ssim"} == set(result["figures"]["tokenizer"]["pixels"])
    assert result["figures"]["tokenizer"][judge]["frechet"] > 0
    assert "agreement" in result["figures"]["test"][judge]


def test_ordered_tokens_are_measured_number_by_number(world):
    save_pretrained(build("tokenizer", "flextok", {"size": "tiny"}), world / "flextok")
    options = dict(judges=[str(world / "judge")], progress=False, test=sources(world)["test"], n=20)
    result = quality.evaluate(str(world / "flextok"), tokens=[1, 8], sampling={"steps": 2}, **options)
    assert result["protocol"]["samples"] == 20 and result["protocol"]["decoding"]["steps"] == 2
    rows = [result["figures"][f"flextok {k}"]["pixels"]["psnr"] for k in (1, 8)]
    assert rows[0] != rows[1]
    again = quality.evaluate(str(world / "flextok"), tokens=[1], sampling={"steps": 2}, batch=7, **options)
    assert again["figures"]["flextok 1"]["pixels"]["psnr"] == pytest.approx(rows[0], rel=1e-5)
    assert "flextok 8" in quality.evaluate(str(world / "flextok"), **options)["figures"]  # all of them, else
    for name, tokens in (("flextok", [9]), ("flextok", [0]), ("tokenizer", [1])):
        with pytest.raises(ValueError, match="tokens: got"):
            quality.evaluate(str(world / name), tokens=tokens, **options)


def test_a_judge_has_an_accuracy(world):
    result = quality.evaluate(str(world / "judge"), test=sources(world)["test"])
    assert 0 <= result["figures"]["test"]["judge"]["accuracy"] <= 1


def test_a_sampling_setting_that_does_not_exist_is_named(world):
    with pytest.raises(ValueError, match=r"sampling\.stepz"):
        quality.evaluate(str(world / "generator"), sampling={"stepz": 3}, judges=[])


def test_latent_moments_are_those_of_the_tokens(world):
    model = build("tokenizer", "kl_vae", {"size": "tiny"}).eval()
    source = data.parse(sources(world)["train"]).open()
    with torch.inference_mode():
        moments = samples.latent_moments(model, source, 7, classes=3)
        rows = source.batch(range(len(source)))
        tokens = model.encode(rows["images"], Rng([samples.mix("moments", row) for row in range(len(source))])).data
    torch.testing.assert_close(moments["all.mean"][0], tokens.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments["all.std"][0], tokens.std(0, correction=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments["class.mean"][1], tokens[rows["labels"] == 1].mean(0), rtol=1e-4, atol=1e-5)


def test_gaussian_draws_do_not_depend_on_the_batch(world):
    model = build("tokenizer", "kl_vae", {"size": "tiny"}).eval()
    moments = {"mean": torch.randn(3, 16, 4), "std": torch.rand(3, 16, 4), "grid": torch.tensor([4, 4])}
    with torch.inference_mode():
        whole, parts = (
            torch.cat([images for images, _ in samples.gaussian(model, moments, 10, batch, 5)]) for batch in (10, 3)
        )
    torch.testing.assert_close(whole, parts)


def test_figures_survive_a_memory_that_takes_nothing(world, monkeypatch, caplog):
    """A cache that can't be written, here since a file is in its way, costs a warning and no figures."""
    judge = str(world / "judge")
    options = dict(n=12, judges=[judge], progress=False, **sources(world))
    wanted = quality.evaluate(str(world / "generator"), **options)["figures"]
    assert not caplog.records
    (world / "in the way").write_text("")
    monkeypatch.setenv("NEXTOK_CACHE", str(world / "in the way"))
    found = quality.evaluate(str(world / "generator"), **options)["figures"]
    assert found.keys() == wanted.keys()
    for row in wanted:
        assert found[row][judge] == pytest.approx(wanted[row][judge])
    assert caplog.records and all("can't be kept for the next time: " in line.message for line in caplog.records)
    assert not any("\n" in line.message for line in caplog.records)


def test_missing_baselines_are_said_before_the_sampling(world, monkeypatch):
    (world / "train.safetensors").unlink()
    monkeypatch.setattr(samples, "generated", lambda *more: pytest.fail("sampled first"))
    with pytest.raises(ValueError, match="train.safetensors"):
        quality.evaluate(str(world / "generator"), n=12, judges=[str(world / "judge")], **sources(world))


def test_what_was_measured_is_remembered_and_damage_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTOK_CACHE", str(tmp_path))
    calls = []

    def compute():
        calls.append(1)
        return {"x": torch.full((2,), float(len(calls)))}

    assert cache.remembered(("a", 1), compute)["x"][0] == cache.remembered(("a", 1), compute)["x"][0] == 1
    assert cache.remembered(("a", 2), compute)["x"][0] == 2
    for file in cache.folder().iterdir():
        file.write_bytes(file.read_bytes()[:20])
    assert cache.remembered(("a", 1), compute)["x"][0] == 3
