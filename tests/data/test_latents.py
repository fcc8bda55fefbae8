"""The latent cache: what encoding would have given, and refused for anything it wasn't made for."""

import json

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nextok_mm import data, registry
from nextok_mm.data import latents
from nextok_mm.data.latents import build_cache
from nextok_mm.features.text import Text
from nextok_mm.rng import Rng


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return registry.build("tokenizer", "kl_vae", {"size": "tiny", "scale": 0.5}).eval()


@pytest.fixture
def source(tmp_path):
    images = torch.rand(10, 1, 8, 16, generator=torch.Generator().manual_seed(0))
    save_file({"images": images, "labels": torch.arange(10)}, tmp_path / "x.safetensors")
    return data.parse({"kind": "tensors", "path": str(tmp_path / "x.safetensors"), "flip": True})


@pytest.fixture
def cache(tokenizer, source, tmp_path):
    return build_cache(tokenizer, source, tmp_path / "cache", batch=3, shard=4)


def opened(folder, **fields):
    return data.parse({"kind": "latents", "folder": str(folder), **fields}).open()


def test_the_cache_holds_what_encoding_gives(tokenizer, source, cache):
    cached, images = opened(cache), source.open().batch(range(10))["images"]
    cached.check(tokenizer)
    batch = cached.batch([9, 0, 5])
    torch.testing.assert_close(batch["tokens"], tokenizer.encode(images).data[[9, 0, 5]].detach())
    assert batch["labels"].tolist() == [9, 0, 5] and len(cached) == 10 and cached.manifest.grid == (4, 8)


def test_rows_are_sampled_anew_from_the_posterior_of_either_orientation(tokenizer, source, cache):
    images = source.open().batch([2])["images"]
    moments = [tuple(x.detach() for x in tokenizer.posterior(side)) for side in (images, images.flip(-1))]
    draws = opened(cache).batch([2] * 400, range(400))["tokens"]
    nearest = torch.stack([((draws - mean) / std).square().mean((1, 2)) for mean, std in moments])
    mirrored = nearest.argmin(0).bool()
    assert 130 < mirrored.sum() < 270
    for side, (mean, std) in zip((draws[~mirrored], draws[mirrored]), moments):
        torch.testing.assert_close(side.mean(0), mean[0], atol=5 * std.max().item() / 130**0.5, rtol=0)
        torch.testing.assert_close(side.std(0) / std[0], torch.ones_like(std[0]), atol=0.3, rtol=0)
    again = opened(cache).batch([2], [7])["tokens"][0]
    assert torch.equal(again, draws[7])
    means = opened(cache, sample=False).batch([2] * 50, range(50))["tokens"]
    assert len(means[:, 0, 0].unique()) == 2


def test_an_interrupted_build_goes_on(tokenizer, source, cache, monkeypatch):
    whole = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert sorted(whole) == ["manifest.json", *(f"shard-0000{i}.safetensors" for i in range(3))]
    (cache / "shard-00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is missing"):
        opened(cache)
    encoded = []
    plain = latents._encode
    monkeypatch.setattr(latents, "_encode", lambda *a: encoded.append(a[2]) or plain(*a))
    build_cache(tokenizer, source, cache, batch=3, shard=4)
    assert encoded == [range(4, 8)] and {path.name: path.read_bytes() for path in cache.iterdir()} == whole


def test_a_full_disk_keeps_the_shards_that_are_done(tokenizer, source, cache, tmp_path, monkeypatch):
    """The error is the safetensors library's own, which is no OSError."""
    folder, plain, calls = tmp_path / "full", latents.save_file, []

    def full(columns, path, *more):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        plain(columns, path, *more)

    monkeypatch.setattr(latents, "save_file", full)
    with pytest.raises(ValueError, match="No space left on device.*; what was there before is kept") as error:
        build_cache(tokenizer, source, folder, batch=3, shard=4)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "shard-00000.safetensors"]
    build_cache(tokenizer, source, folder, batch=3, shard=4)
    assert len(calls) == 4
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in cache.iterdir()
    }


def test_two_builds_in_one_folder_are_one_too_many(tokenizer, source, tmp_path, monkeypatch):
    plain, refused = latents._encode, []

    def meanwhile(*arguments):
        with pytest.raises(ValueError, match=r"cache: another `nextok cache`, pid \d+, writes here") as error:
            build_cache(tokenizer, source, tmp_path / "two", batch=3, shard=4)
        refused.append(error)
        return plain(*arguments)

    monkeypatch.setattr(latents, "_encode", meanwhile)
    opened(build_cache(tokenizer, source, tmp_path / "two", batch=3, shard=4))
    assert len(refused) == 3 and not (tmp_path / "two" / ".lock").exists()


def test_a_whole_cache_needs_no_right_to_write(tokenizer, source, cache, monkeypatch):
    monkeypatch.setattr(latents, "write_files", lambda *more: pytest.fail("written to"))
    monkeypatch.setattr(latents, "only_writer", lambda *more: pytest.fail("locked"))
    assert build_cache(tokenizer, source, cache, batch=3, shard=4) == cache


def test_half_precision_caches_stay_close(tokenizer, source, cache, tmp_path):
    half = opened(build_cache(tokenizer, source, tmp_path / "half", dtype="float16"))
    assert half.shards[0]["tokens"].dtype == torch.float16
    torch.testing.assert_close(
        half.batch(range(10))["tokens"], opened(cache).batch(range(10))["tokens"], rtol=1e-3, atol=1e-3
    )


def test_a_cache_of_another_tokenizer_is_refused(source, cache):
    torch.manual_seed(1)
    other = registry.build("tokenizer", "kl_vae", {"size": "tiny"})
    with pytest.raises(ValueError, match=r"made by tokenizer .*; build it again") as error:
        opened(cache).check(other)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"it holds another one \(tokenizer differ\)"):
        build_cache(other, source, cache, shard=4)


def test_what_cannot_be_cached_is_refused(tokenizer, tmp_path):
    from PIL import Image

    Image.new("L", (16, 8)).save(tmp_path / "x.png")
    config = data.parse({"kind": "image_folder", "path": str(tmp_path), "size": 8, "channels": 1, "crop": "random"})
    with pytest.raises(ValueError, match="random crop can't be cached"):
        build_cache(tokenizer, config, tmp_path / "cache")


def test_tokenizers_without_a_posterior_are_cached_as_they_encode(tokenizer, source, tmp_path):
    class Plain(type(tokenizer)):
        posterior = None

        def encode(self, images, rng: Rng | None = None):
            from nextok_mm.contracts import Tokens

            return Tokens((images.flatten(1) * 10).long(), (8, 16))

    Plain.role, Plain.kind = "tokenizer", "plain"
    torch.manual_seed(0)
    cached = opened(build_cache(Plain(tokenizer.config), source, tmp_path / "codes"))
    assert "std" not in cached.shards[0] and cached.batch([1, 2], [0, 1])["tokens"].dtype == torch.int64


def test_shards_that_don_t_belong_together_are_refused(source, cache):
    labels = torch.cat([part for part in opened(cache).column("labels")])
    assert labels.tolist() == list(range(10)) and len(list(opened(cache).column("tokens"))) == 6
    with pytest.raises(ValueError, match="it holds no captions, accepted for this model: those of `nextok cache"):
        opened(cache).check_text(Text())
    path = cache / "manifest.json"
    path.write_text(path.read_text().replace('"flip": true', '"flip": false').replace('"flip":true', '"flip":false'))
    with pytest.raises(ValueError, match="says flip=False, its shards don't"):
        opened(cache)
    shard = cache / "shard-00001.safetensors"
    columns = latents.read_weights(shard)
    del columns["labels"]
    save_file(columns, shard)
    with pytest.raises(ValueError, match="its shards hold different columns"):
        opened(cache)


@pytest.mark.parametrize("change", [{"format": 9}, {"rows": 11}, {"rows": -1}, {"extra": 1}, {"dtype": "pickle"}])
def test_a_wrong_manifest_is_one_line(cache, change):
    path = cache / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError) as error:
        opened(cache)
    assert "\n" not in str(error.value) and "manifest.json" in str(error.value)


def test_no_cache_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="nextok cache"):
        opened(tmp_path)


class Spelled:
    """Stands in for a text encoder: a caption's letters."""

    width = 2

    def encode(self, captions, length):
        counts = torch.tensor([len(caption) for caption in captions])
        return counts[:, None, None].expand(-1, length, 2).float(), counts


def test_captions_travel_along(tokenizer, source, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "load_text", lambda name: Spelled())
    config, text = source, Text(encoder="spelled", width=2, length=3)
    with pytest.raises(
        ValueError, match="text: got 'spelled', accepted: none, since the rows of tensors have no captions"
    ):
        build_cache(tokenizer, config, tmp_path / "t", text=text)
    captions = tuple("ab" * (row % 3 + 1) for row in range(10))
    monkeypatch.setattr(type(config.open()), "captions", captions)
    with pytest.raises(ValueError, match="text.width: got 5, accepted: 2"):
        build_cache(tokenizer, config, tmp_path / "t", text=Text(encoder="spelled", width=5))
    cached = opened(build_cache(tokenizer, config, tmp_path / "t", shard=4, text=text))
    assert cached.captions == captions
    batch = cached.batch([9, 4], [1, 2])
    assert batch["text_length"].tolist() == [2, 4] and batch["text"].shape == (2, 3, 2)
    assert batch["text"][1, 0, 0] == 4
    cached.check_text(None)
    cached.check_text(text)
    for name, other in (("encoder", "minilm"), ("width", 5), ("length", 4)):
        with pytest.raises(ValueError, match=f"model.text.{name}: got {other!r}, accepted: {getattr(text, name)!r}"):
            cached.check_text(text.model_copy(update={name: other}))
    columns, captions = cached.text
    for row in (-1, 3):
        spoiled = columns | {"row": columns["row"].clone().index_fill_(0, torch.tensor([4]), row)}
        save_file(spoiled, tmp_path / "t" / latents.TEXT, {"captions": json.dumps(captions)})
        with pytest.raises(ValueError, match="its rows name captions that it doesn't hold"):
            opened(tmp_path / "t")
    (tmp_path / "t" / latents.TEXT).unlink()
    with pytest.raises(ValueError, match="text.safetensors is missing"):
        opened(tmp_path / "t")


def test_a_cache_of_other_pictures_under_the_same_names_is_refused(tokenizer, source, cache):
    """Whole, it would be out of date; half done, it would hold rows of both."""
    torch.manual_seed(1)
    save_file({"images": torch.rand(10, 1, 8, 16), "labels": torch.arange(10)}, source.path)
    for whole in (True, False):
        if not whole:
            (cache / "shard-00001.safetensors").unlink()
        with pytest.raises(ValueError, match=r"another one \(pictures differ\); take another folder"):
            build_cache(tokenizer, source, cache, batch=3, shard=4)
    manifest = json.loads((cache / "manifest.json").read_text())
    del manifest["pictures"]  # as it was before
    (cache / "manifest.json").write_text(json.dumps(manifest))
    build_cache(tokenizer, source, cache, batch=3, shard=4)
    assert len(opened(cache)) == 10


@pytest.mark.parametrize("batch", [0, -1, 1.5, True, "3"])
def test_a_batch_that_is_none_leaves_no_cache_behind(tokenizer, source, tmp_path, batch):
    with pytest.raises(ValueError, match="batch: got .*, accepted: a whole number from 1"):
        build_cache(tokenizer, source, tmp_path / "none", batch=batch)
    assert not (tmp_path / "none").exists()
