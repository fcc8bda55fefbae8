"""Whatever form pictures, tokens and whole numbers come in: read as the same thing, or refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.contracts import Tokens
from nextok_mm.pipeline import prediction


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> nx.Pipeline:
    folder = tmp_path_factory.mktemp("colour") / "vae"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = registry.build("tokenizer", "kl_vae", {"size": "tiny", "image_channels": 3})
    return nx.load(save_pretrained(model, folder, name="colour"), device="cpu")


def one_line(work: Any, *words: str) -> str:
    with pytest.raises(ValueError) as refused:
        work()
    said = str(refused.value)
    assert "\n" not in said and all(word in said for word in words), said
    return said


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 3),
    rows=st.sampled_from([4, 8]),
    columns=st.sampled_from([6, 8]),
    grey=st.booleans(),
    seed=st.integers(0, 999),
)
def test_every_form_of_a_picture_is_the_same_picture(colour, n, rows, columns, grey, seed) -> None:
    values = torch.randint(256, (n, 1 if grey else 3, rows, columns), generator=torch.Generator().manual_seed(seed))
    bytes_ = values.byte()
    wanted = (values.float() / 255).expand(-1, 3, -1, -1)
    last = bytes_.permute(0, 2, 3, 1).numpy()
    forms = [bytes_, wanted, wanted.double(), bytes_.numpy(), last, last[::1, ::1], torch.from_numpy(last)]
    forms += [last / 255, last.astype(np.float32) / 255, wanted.numpy(), list(wanted), list(last), tuple(last / 255)]
    forms += [[p.squeeze(-1) for p in last]] if grey else []
    for form in forms:
        found = colour.medium.take(form)
        assert found.dtype == torch.float32 and found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_pillow_pictures_and_files_are_read_alike(colour: nx.Pipeline, tiny: Path, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture.save(tmp_path / "p.png")
    vae = nx.load(tiny / "vae", device="cpu")
    for pipeline in (colour, vae):
        ways = [pipeline.reconstruct(form).images for form in (picture, tmp_path / "p.png", str(tmp_path / "p.png"))]
        assert torch.equal(ways[0], ways[1]) and torch.equal(ways[1], ways[2])
        both = pipeline.reconstruct([picture, tmp_path / "p.png"]).images
        assert both.shape[0] == 2 and torch.equal(both[0], both[1])
    assert torch.equal(colour.reconstruct(picture).images, colour.reconstruct(np.asarray(picture)).images)
    turned = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    exif = turned.getexif()
    exif[0x0112] = 3
    assert torch.equal(vae.medium.take(turned)[0, 0].flip(0, 1), vae.medium.take(np.asarray(turned))[0, 0])
    one_line(lambda: vae.reconstruct(Image.new("L", (8, 4))), "8 x 4", "fit='crop'")
    assert vae.tokenize(Image.new("L", (8, 4)), fit="crop").data.shape == (1, 16, 4)
    one_line(lambda: vae.reconstruct(Image.new("F", (8, 8))), "mode F")
    (tmp_path / "cut.png").write_bytes((tmp_path / "p.png").read_bytes()[:60])
    one_line(lambda: vae.reconstruct(Image.open(tmp_path / "cut.png")), "picture: damaged")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.rand(1, 1, 8, 8) * 2 - 1, ("[0, 1]; (images + 1) / 2",)),
        (torch.rand(1, 1, 8, 8) * 255, ("[0, 1]; divide them by 255",)),
        (torch.rand(1, 1, 8, 8) * 1.4 - 0.2, ("[0, 1]; images.clip(0, 1)",)),
        (torch.randn(1, 1, 8, 8) * 100, ("accepted: numbers in [0, 1]",)),
        (torch.full((1, 1, 8, 8), float("nan")), ("NaN or infinity",)),
        (torch.rand(1, 3, 8, 8), ("got 3 channels", "accepted: 1")),
        (np.zeros((8, 8, 3), np.uint8), ("got 3 channels", "accepted: 1")),
        (np.zeros((8, 8, 4), np.uint8), ("shape (8, 8, 4)", "[B, H, W, 1]")),
        (torch.rand(5, 8, 8), ("shape (5, 8, 8)", "[B, 1, H, W]")),
        (torch.rand(1, 1, 5, 8, 8), ("shape (1, 1, 5, 8, 8)",)),
        (torch.rand(8), ("shape (8,)",)),
        (torch.tensor(0.5), ("shape ()",)),
        (torch.zeros(1, 1, 8, 8, dtype=torch.bool), ("torch.bool", "bytes (uint8)")),
        (np.zeros((8, 8), np.int64), ("torch.int64", "bytes (uint8)")),
        (np.array([["a"]]), ("got <U1",)),
        (np.array([[None]]), ("got object",)),
        ([], ("none in the list",)),
        ([torch.rand(1, 8, 8), torch.rand(1, 4, 4)], ("4 x 4 and 8 x 8", "one size")),
        ([[0.5, 0.5]], ("got list",)),
        (None, ("got NoneType",)),
        (b"bytes", ("got bytes",)),
        ("no-such.png", ("no file 'no-such.png'",)),
        (Image.new("L", (0, 0)), ("0 x 0 pixels",)),
        (torch.rand(1, 1, 8, 8).to_sparse(), ("sparse", "a plain one")),
        (torch.rand(1, 1, 8, 8, device="meta"), ("on meta", "a plain one")),
    ],
)
def test_what_is_no_picture_is_one_line(tiny: Path, given: Any, words: tuple[str, ...]) -> None:
    vae = nx.load(tiny / "vae", device="cpu")
    for way in (vae.tokenize, vae.reconstruct):
        one_line(lambda way=way: way(given), *words)


def test_clips_in_every_form(tiny: Path) -> None:
    video = nx.load(tiny / "video", device="cpu")
    clips = torch.randint(256, (2, 1, 5, 8, 8)).byte()
    wanted = video.tokenize(clips.float() / 255).data
    last = clips.movedim(1, -1).numpy()
    for form in (clips, clips.numpy(), last, last / 255, list(last), list(clips)):
        assert torch.equal(video.tokenize(form).data, wanted)
    one_line(lambda: video.tokenize(torch.rand(1, 1, 8, 8)[0]), "shape (1, 8, 8)", "[B, 1, T, H, W]")
    one_line(lambda: video.tokenize(Image.new("L", (8, 8))), "accepted: clips")
    generator = nx.load(tiny / "clips", device="cpu")
    same = [
        prediction.predict(generator, form, seed=np.int64(2)).images
        for form in (clips[:, :, :3].float() / 255, last[:, :3])
    ]
    assert torch.equal(*same)
    one_line(lambda: prediction.predict(generator, clips[:, :, :3].float()), "divide them by 255")


@pytest.mark.parametrize("name", ["vae", "flextok", "video"])
def test_tokens_in_every_form(tiny: Path, name: str) -> None:
    pipeline = nx.load(tiny / name, device="cpu")
    tokens = pipeline.tokenize(torch.rand(2, 1, *[5][: pipeline.medium.temporal], 8, 8))
    wanted = pipeline.detokenize(tokens).images
    forms = [tokens.data, tokens.data.numpy(), tokens.data.tolist(), tokens.data.unflatten(1, tokens.grid)]
    forms += [] if tokens.continuous else [tokens.data.int(), tokens.data.short(), tokens.data.byte()]
    for form in forms:
        assert torch.equal(pipeline.detokenize(form).images, wanted)
    for form in (tokens.data[0], tokens.data[0].tolist(), tokens.data[0].unflatten(0, tokens.grid).numpy()):
        torch.testing.assert_close(pipeline.detokenize(form).images, wanted[:1], atol=1e-5, rtol=0)
    if name == "flextok":
        first = Tokens(tokens.data[:, :3], tokens.grid, tokens.source)
        assert torch.equal(pipeline.detokenize(tokens.data[:, :3]).images, pipeline.detokenize(first).images)


@pytest.mark.parametrize("name", ["vae", "flextok", "video"])
def test_tokens_that_do_not_fit_are_one_line(tiny: Path, name: str) -> None:
    pipeline = nx.load(tiny / name, device="cpu")
    tokens = pipeline.tokenize(torch.rand(1, 1, *[5][: pipeline.medium.temporal], 8, 8))
    data, grid = tokens.data, tokens.grid
    wrong = [None, "tokens", {}, data[:, :0], data[None, None], torch.tensor(1), data.bool(), [], [[1, 2], [3]]]
    wrong += [Tokens(data, (*grid, 1)), Tokens(torch.cat((data, data), 1), grid)]
    wrong += [] if name == "flextok" else [Tokens(data, (3, 5, 7)[: len(grid)]), data[:, 1:]]
    if tokens.continuous:
        wrong += [data.long(), data[..., :3], Tokens(data[..., :3], grid), data / 0, data.to(torch.complex64)]
    else:
        wrong += [data.float(), data + 10**6, Tokens(data - 10**6, grid), Tokens(data.float(), grid)]
    for form in wrong:
        one_line(lambda form=form: pipeline.detokenize(form), "tokens: got ", "accepted: ")


def test_latents_of_a_missing_vae_are_no_picture(tmp_path: Path) -> None:
    fields = {"size": "tiny", "image_channels": 4, "latent_channels": 4}
    flextok = registry.build("tokenizer", "flextok", fields)
    pipeline = nx.load(save_pretrained(flextok, tmp_path / "bare", name="bare"), device="cpu")
    for work in (
        lambda: pipeline.detokenize([[0] * 8]),
        lambda: pipeline.tokenize(torch.rand(1, 4, 8, 8)),
        lambda: pipeline.reconstruct(torch.rand(1, 4, 8, 8), tokens=[1]),
        lambda: pipeline.reconstruct(Image.new("L", (8, 8))),
    ):
        one_line(work, "bare works on latents of 4 channels", "holds no VAE", "--tokenizer VAE")


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, torch.tensor, np.array])
def test_whole_numbers_of_numpy_and_torch(tiny: Path, tmp_path: Path, kind: Any) -> None:
    xar, flextok = nx.load(tiny / "xar", device="cpu"), nx.load(tiny / "flextok", device="cpu")
    wanted = xar.generate("bag", n=3, seed=7, batch=2, steps=1)
    found = xar.generate("bag", n=kind(3), seed=kind(7), batch=kind(2), steps=1)
    assert torch.equal(found.images, wanted.images) and found.settings() == wanted.settings()
    assert torch.equal(
        list(xar.stream("bag", kind(3), kind(7), steps=1))[-1].images, list(xar.stream("bag", 3, 7, steps=1))[-1].images
    )
    picture = torch.rand(1, 1, 8, 8)
    ladders = [flextok.reconstruct(picture, tokens=k, seed=s) for k, s in ((2, 3), (kind(2), kind(3)))]
    assert torch.equal(ladders[0].images, ladders[1].images) and ladders[1].numbers == (2,)
    assert found.save(tmp_path / "o.png", zoom=kind(2), columns=kind(1)).is_file()
    assert found.sheet(zoom=kind(2)).size == wanted.sheet(zoom=2).size


@pytest.mark.parametrize("wrong", [True, np.bool_(True), torch.tensor(True), 1.0, 1.5, "1", None, [1], np.float32(1)])
def test_what_is_no_whole_number_is_one_line(tiny: Path, tmp_path: Path, wrong: Any) -> None:
    xar, flextok = nx.load(tiny / "xar", device="cpu"), nx.load(tiny / "flextok", device="cpu")
    for name in ("n", "seed", "batch")[wrong is None :]:  # n=None: as many as there are prompts, or one
        one_line(lambda name=name: xar.generate(**{name: wrong}), f"{name}: got", "accepted: a whole number")
    for name in ("n", "seed")[wrong is None :]:
        one_line(lambda name=name: next(xar.stream(**{name: wrong})), f"{name}: got", "accepted: a whole number")
    one_line(lambda: flextok.reconstruct(torch.rand(1, 1, 8, 8), tokens=1, seed=wrong), "seed: got")
    one_line(
        lambda: (
            xar.generate(labels=wrong)
            if not isinstance(wrong, str | list) and wrong is not None
            else xar.generate(labels=[None])
        ),
        "labels: got",
    )
    result, ladder = xar.generate(steps=1), flextok.reconstruct(torch.rand(1, 1, 8, 8), tokens=1, steps=1)
    if wrong is None:
        return  # the grid's own
    for made in (result, ladder):
        one_line(lambda made=made: made.save(tmp_path / "o.png", zoom=wrong), "zoom: got", "a whole number from 1")
        one_line(lambda made=made: made.sheet(zoom=wrong), "zoom: got")
    one_line(lambda: result.sheet(columns=wrong), "columns: got")
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(label=1), "label: no such argument, accepted: labels=..."),
        (dict(prompt="bag"), "prompt: no such argument, accepted: text=..."),
        (dict(num_images=2), "num_images: no such argument, accepted: n=..."),
    ],
)
def test_names_of_other_libraries_are_answered(tiny: Path, arguments: dict, words: str) -> None:
    one_line(lambda: nx.load(tiny / "xar", device="cpu").generate(**arguments), words)


def test_rows_and_devices_that_cannot_be_are_one_line(tiny: Path) -> None:
    xar = nx.load(tiny / "xar", device="cpu")
    for rows in ([0], range(5, 6), range(0), range(0, 2, 2), 1):
        one_line(lambda rows=rows: next(xar.stream(n=2, rows=rows)), "rows: got", "within 0 to 2")
    for device in ("gpu", "cuda:99", torch.device("meta")):
        one_line(lambda device=device: xar.to(device), "device: got", "accepted here: cpu")
    assert xar.to("cpu") is xar and xar.to(torch.device("cpu")) is xar
