"""Labels to pictures: seeds, batches, partial results, in-painting, and what is refused."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.checkpoint import Card, save_pretrained
from nextok_mm.contracts import Known, Tokens
from nextok_mm.media.pictures import to_pil
from nextok_mm.pipeline.conditions import captions
from nextok_mm.rng import Rng


@pytest.fixture(scope="module")
def xar(tiny: Path) -> nx.Pipeline:
    return nx.load(tiny / "xar", device="cpu")


def test_a_result_tells_how_it_came_about(xar: nx.Pipeline, tmp_path: Path) -> None:
    result = xar.generate(labels=[2, 0], n=5, seed=7)
    assert result.images.shape == (5, 1, 8, 8) and 0 <= result.images.min() <= result.images.max() <= 1
    assert result.labels == [2, 0, 2, 0, 2]
    assert result.finished == result.total == 4 and result.calls > 0 and result.backend
    assert set(result.seconds) == {"generate", "decode"}
    with Image.open(result.save(tmp_path / "out.png")) as saved:
        assert saved.text["nextok.seed"] == "7" and saved.text["nextok.model"] == "tiny-xar"
        assert "'steps': 2" in saved.text["nextok.sampling"]
    assert result._repr_png_().startswith(b"\x89PNG")


def test_a_sample_depends_on_seed_and_index_alone(xar: nx.Pipeline) -> None:
    whole = xar.generate(n=5, seed=3).images
    split = xar.generate(n=5, seed=3, batch=2).images
    alone = list(xar.stream(n=5, seed=3, rows=range(4, 5)))[-1].images
    torch.testing.assert_close(split, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, whole[4:], atol=1e-5, rtol=0)
    assert not torch.allclose(xar.generate(n=5, seed=4).images, whole, atol=1e-3)


def test_classes_by_number_or_name(xar: nx.Pipeline) -> None:
    assert xar.generate(["Bag", 2], n=2).labels == [1, 2]
    assert xar.generate("coat", n=2).labels == [2, 2]
    assert xar.generate(n=4).labels == [0, 1, 2, 0]
    same = xar.generate("bag", n=1, seed=1).images, xar.generate(1, n=1, seed=1).images
    assert torch.equal(*same)
    assert not torch.allclose(same[0], xar.generate(0, n=1, seed=1).images, atol=1e-4)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_classes_in_lists_arrays_and_tensors(xar: nx.Pipeline, kind: Any) -> None:
    assert xar.generate(kind([2, 1]), n=2).labels == [2, 1]
    assert xar.generate([*kind([2])], n=1).labels == [2]
    if kind is not list:
        assert xar.generate(kind([1])[0], n=1).labels == [1]


def test_the_two_names_of_a_pair_are_in_no_order() -> None:
    kinds = ("T-shirt", "trouser", "dress", "coat", "bag")
    names = tuple(f"{a} + {b}" for a, b in itertools.combinations_with_replacement(kinds, 2))
    model = registry.build("generator", "next_block", {"size": "tiny", "classes": len(names)})
    clips = nx.Pipeline(None, model, Card(role="generator", kind="next_block", name="clips", labels=names))
    for label in ("T-shirt + trouser", "trouser + T-shirt", "TROUSER + t-shirt"):
        assert clips.condition(1, labels=label)["labels"].tolist() == [names.index("T-shirt + trouser")]
    with pytest.raises(ValueError, match=r", \.\.\.; did you mean .* or 't-shirt \+ trouser'\?") as refused:
        clips.condition(1, labels="trousers + T-shirt")
    assert str(refused.value).count(" + ") == 1 + 10 + 2


def test_the_stream_grows_entity_by_entity_to_the_same_pictures(xar: nx.Pipeline) -> None:
    partial = list(xar.stream(n=2, seed=5))
    counts = [result.finished for result in partial]
    assert counts == sorted(counts) and counts[-1] == 4 and len(set(counts)) >= 4
    assert torch.equal(partial[-1].images, xar.generate(n=2, seed=5).images)
    assert not torch.equal(partial[-2].images, partial[-1].images)


def test_progress_counts_over_all_batches(xar: nx.Pipeline) -> None:
    seen: list[tuple[int, int]] = []
    xar.generate(n=5, batch=2, progress=lambda done, entities: seen.append((done, entities)))
    assert seen[-1] == (12, 12) and seen == sorted(seen)


def test_kept_tokens_stay(xar: nx.Pipeline) -> None:
    images = torch.rand(1, 1, 8, 8)
    known = xar.tokenize(images).data
    everything = xar.generate(n=1, known=Known(known, torch.ones(16, dtype=torch.bool)))
    torch.testing.assert_close(everything.images, xar.reconstruct(images).images, atol=1e-5, rtol=0)
    half = torch.arange(16) < 8
    ways = [xar.generate(n=3, seed=9, batch=b, known=Known(known.expand(3, -1, -1), half)).images for b in (3, 2)]
    torch.testing.assert_close(*ways, atol=1e-5, rtol=0)
    assert not torch.allclose(ways[0], xar.generate(n=3, seed=9).images, atol=1e-3)


def test_settings_replace_the_checkpoints_own(xar: nx.Pipeline) -> None:
    assert xar.generate(n=1).sampling["steps"] == 2
    result = xar.generate(n=1, steps=3, solver="euler", cfg=None)
    assert result.sampling["steps"] == 3 and result.sampling["solver"] == "euler" and result.sampling["cfg"] == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(labels=[3]), "labels: got 3, accepted: 0 to 2 or shoe, bag, coat"),
        (dict(labels=[-1]), "labels: got -1"),
        (dict(labels=["hat"]), "labels: got 'hat'"),
        (dict(labels=[1.5]), "labels: got 1.5"),
        (dict(labels=[None]), "labels: got None"),
        (dict(labels=[]), "labels: got none"),
        (dict(labels="bgg"), "labels: got 'bgg', accepted: 0 to 2 or shoe, bag, coat; did you mean 'bag'?"),
        (dict(labels=torch.tensor([[0, 1]])), r"labels: got \[0, 1\]"),
        (dict(labels=np.float64(1)), "labels: got 1.0"),
        (dict(n=2, known=Known(torch.zeros(3, 16, 4), torch.ones(16))), "known: got .*, accepted: data of 1 or 2 rows"),
        (
            dict(n=2, batch=1, known=Known(torch.zeros(1, 16, 4), torch.ones(1, 16))),
            "known: got .*, a mask of none or 2",
        ),
        (dict(n=0), "n: got 0"),
        (dict(n=2, batch=0), "batch: got 0"),
        (dict(n=True), "n: got True"),
        (dict(seed="x"), "seed: got 'x'"),
        (dict(steps=0), r"sampling\.steps"),
        (dict(solver="rk45"), r"sampling\.solver"),
        (dict(stepz=3), r"sampling\.stepz: unknown key; did you mean 'steps'"),
        (dict(known=Known(torch.zeros(1, 9, 4), torch.ones(9, dtype=torch.bool))), "known"),
    ],
)
def test_what_is_not_accepted_is_named(xar: nx.Pipeline, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        xar.generate(**arguments)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_by_itself(tiny: Path, tmp_path: Path) -> None:
    vae = nx.load(tiny / "vae")
    images = torch.rand(2, 1, 8, 8)
    tokens = vae.tokenize(images)
    assert tokens.data.shape == (2, 16, 4) and tokens.grid == (4, 4)
    torch.testing.assert_close(vae.detokenize(tokens).images, vae.reconstruct(images).images)
    to_pil(images[0]).save(tmp_path / "in.png")
    assert vae.reconstruct(tmp_path / "in.png").images.shape == (1, 1, 8, 8)
    with pytest.raises(ValueError, match="is a tokenizer, accepted: a generator"):
        vae.generate(n=1)
    with pytest.raises(ValueError, match="tokens: made by tokenizer"):
        vae.detokenize(Tokens(tokens.data, tokens.grid, source="another"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images / 0 - images / 0, "images: got NaN or infinity"),
        (lambda images: images / 0, "images: got NaN or infinity"),
        (
            lambda images: (images * 255).long(),
            "images: got torch.int64, accepted: floating point of numbers in \\[0, 1\\], or bytes",
        ),
        (lambda images: images[:0], r"images: got torch.float32 of shape \(0, 1, .*\), accepted: one or more"),
        (lambda images: images.tolist()[0][0], "images: got list, accepted: a tensor, an array, a Pillow picture"),
        (lambda images: images * 255, r"images: got numbers from .* to .*, accepted: numbers in \[0, 1\]; divide"),
        (lambda images: images * 2 - 1.1, r"images: got numbers from -.*, accepted: numbers in \[0, 1\]"),
    ],
)
@pytest.mark.parametrize("name", ["vae", "flextok", "video"])
def test_pictures_that_are_none_are_refused(tiny: Path, name: str, change: Any, message: str) -> None:
    pipeline = nx.load(tiny / name, device="cpu")
    images = change(torch.rand(1, 1, *[5][: pipeline.medium.temporal], 8, 8).clamp_min(0.1))
    ways = [lambda: pipeline.tokenize(images)]
    if isinstance(images, torch.Tensor):
        ways += [lambda: pipeline.reconstruct(images)]
        ways += [lambda: pipeline.reconstruct(images, tokens=[1])] if name == "flextok" else []
    for way in ways:
        with pytest.raises(ValueError, match=message) as refused:
            way()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["vae", "flextok", "video"])
def test_tokens_of_no_picture_are_refused(tiny: Path, name: str) -> None:
    pipeline = nx.load(tiny / name, device="cpu")
    tokens = pipeline.tokenize(torch.rand(1, 1, *[5][: pipeline.medium.temporal], 8, 8))
    with pytest.raises(ValueError, match=r"tokens: got shape \(0, .*, accepted: those of one picture or more"):
        pipeline.detokenize(Tokens(tokens.data[:0], tokens.grid, tokens.source))


@pytest.fixture(scope="module")
def flextok(tiny: Path) -> nx.Pipeline:
    return nx.load(tiny / "flextok", device="cpu")


def test_a_ladder_is_each_picture_at_each_number_of_tokens(flextok: nx.Pipeline, tmp_path: Path) -> None:
    images = torch.rand(3, 1, 8, 8)
    ladder = flextok.reconstruct(images, tokens=[1, 3, 8], seed=5)
    assert ladder.images.shape == (3, 3, 1, 8, 8) and torch.equal(ladder.given, images)
    small = flextok.reconstruct(images, tokens=[1, 3, 8], seed=5, batch=2)  # batches that mix pictures and numbers
    torch.testing.assert_close(small.images, ladder.images, rtol=1e-4, atol=1e-5)
    alone = flextok.reconstruct(images, tokens=[3], seed=5).images
    torch.testing.assert_close(alone[:, 0], ladder.images[:, 1], rtol=1e-4, atol=1e-5)
    short = flextok.reconstruct(images, tokens=[8], seed=5, steps=2)
    assert short.sampling["steps"] == 2 and not torch.allclose(short.images[:, 0], ladder.images[:, 2])
    with Image.open(ladder.save(tmp_path / "ladder.png", zoom=4)) as saved:
        assert saved.size == (4 * 34 - 2, 16 + 3 * 34 - 2) and saved.text["nextok.tokens"] == "[1, 3, 8]"
        assert saved.crop((0, 0, 34, 16)).getextrema()[0] < 99  # something is written above the pictures
    assert ladder._repr_png_().startswith(b"\x89PNG")
    assert torch.equal(flextok.reconstruct(images, tokens=3, seed=5).images[:, 0], alone[:, 0])
    expected = -10 * (ladder.images[:, 1] - images).square().mean().log10()
    assert ladder.psnr()[1] == pytest.approx(float(expected), abs=1e-4)


def test_every_rung_starts_from_the_same_noise(flextok: nx.Pipeline) -> None:
    """With the codes of the tail masked anyway, keeping one code twice gives the same picture twice."""
    ladder = flextok.reconstruct(torch.rand(2, 1, 8, 8), tokens=[2, 2])
    assert torch.equal(ladder.images[:, 0], ladder.images[:, 1])


def test_a_ladder_counts_its_steps(flextok: nx.Pipeline) -> None:
    seen: list[tuple[int, int]] = []
    flextok.reconstruct(torch.rand(2, 1, 8, 8), tokens=[1, 8], batch=3, progress=lambda *now: seen.append(now))
    assert seen[-1] == (8, 8) and seen == sorted(seen) and len(seen) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tokens=[0]), "tokens: got 0, accepted: whole numbers from 1 to 8"),
        (dict(tokens=[1, 9]), "tokens: got 9"),
        (dict(tokens=[1.0]), "tokens: got 1.0"),
        (dict(tokens=["4"]), "tokens: got '4'"),
        (dict(tokens=[True]), "tokens: got True"),
        (dict(tokens=9), "tokens: got 9"),
        (dict(tokens="4"), "tokens: got '4'"),
        (dict(tokens=[]), "tokens: got none"),
        (dict(tokens=[1], steps=0), r"sampling\.steps"),
        (dict(tokens=[1], batch=0), "batch: got 0"),
        (dict(steps=3), "steps: got a setting"),
    ],
)
def test_a_wrong_ladder_is_refused(flextok: nx.Pipeline, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        flextok.reconstruct(torch.rand(1, 1, 8, 8), **options)
    assert "\n" not in str(refused.value)


def test_tokens_without_an_order_have_no_ladder(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"those of tiny-vae \(kl_vae\) have no order"):
        nx.load(tiny / "vae").reconstruct(torch.rand(1, 1, 8, 8), tokens=[1])


def test_what_does_not_fit_together_is_refused_at_loading(tiny: Path, tmp_path: Path) -> None:
    wide = registry.build("generator", "xar", {"size": "tiny", "channels": 8})
    save_pretrained(wide, tmp_path / "wide", name="wide")
    with pytest.raises(ValueError, match="the 8 channels of wide"):
        nx.load(tmp_path / "wide", tokenizer=tiny / "vae")
    with pytest.raises(ValueError, match="names none; load it with tokenizer="):
        nx.load(tmp_path / "wide").generate(n=1)
    with pytest.raises(ValueError, match="device: got 'warp'"):
        nx.load(tiny / "vae", device="warp")


def test_one_call_forms(tiny: Path) -> None:
    name = str(tiny / "xar")
    assert nx.generate(name, labels="bag", n=2).labels == [1, 1]
    images = torch.rand(1, 1, 8, 8)
    tokens = nx.tokenize(name, images)
    torch.testing.assert_close(nx.detokenize(name, tokens).images, nx.reconstruct(name, images).images)
    assert nx.reconstruct(str(tiny / "flextok"), images, tokens=[1, 2]).numbers == (1, 2)
    assert "vae-fashion" in nx.list_models("tokenizer") and set(nx.list_models("generator")) <= set(nx.list_models())


def test_the_other_kind_of_condition_is_refused(xar: nx.Pipeline) -> None:
    with pytest.raises(ValueError, match="text: got 'red apple', accepted: labels, tiny-xar reads no captions"):
        xar.generate(text="red apple")
    with pytest.raises(ValueError, match="text: got a condition, accepted: labels"):
        xar.generator.start({"text": ["red apple"]}, Rng([0]))
    for wrong in ([" "], " ", 5, [5], []):
        with pytest.raises(ValueError, match="text: got .*, accepted: a caption"):
            captions(wrong, 2)
    assert captions(["a", "b"], 3) == ["a", "b", "a"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"seed": True}, "seed: got True, accepted: a whole number"),
        ({"n": 10**12}, "n: got 1000000000000, accepted: a whole number from 1 to 1000000"),
        ({"batch": 10**12}, "batch: got 1000000000000"),
        ({"steps": True}, "sampling.steps: got True"),
        ({"cfg": float("nan")}, "sampling.cfg: got nan"),
    ],
)
def test_numbers_out_of_range_are_refused_before_the_work(
    xar: nx.Pipeline, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        xar.generate(**options)


def test_a_picture_too_large_to_be_written_is_refused_before_the_work(xar: nx.Pipeline) -> None:
    xar.medium.check_sheet(16)
    xar.medium.check_sheet(10_000, 100)
    for n, columns in ((2, 10**8), (1_000_000, None), (300, 100_000), (1, 0)):
        with pytest.raises(ValueError, match="columns: "):
            xar.medium.check_sheet(n, columns)


def test_a_fit_that_is_none_is_refused(xar: nx.Pipeline, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="fit: got 'foo', accepted: exact, crop"):
        xar.read(tmp_path / "x.png", "foo")  # type: ignore[arg-type]


def test_codes_and_latents_don_t_go_together_in_one_sentence(tiny: Path) -> None:
    with pytest.raises(ValueError) as error:
        nx.load(tiny / "xar", tokenizer=tiny / "flextok", device="cpu")
    assert str(error.value).endswith("has 125 codes, accepted: the continuous tokens of tiny-xar")


def test_an_enlargement_that_no_memory_holds_is_one_line(xar: nx.Pipeline, tmp_path: Path) -> None:
    result = xar.generate(n=2)
    with pytest.raises(ValueError, match="zoom: 2 samples would make a picture of 16000000 x 8000000 pixels"):
        result.save(tmp_path / "a.png", zoom=1_000_000)
