"""Data that doesn't fit the model is refused by name before the first step; what is hardly meant is said in a line."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nextok_mm import console, data, registry
from nextok_mm.checkpoint import from_pretrained, read_card, save_pretrained
from nextok_mm.data import latents
from nextok_mm.data.latents import build_cache
from nextok_mm.features.text import Text
from nextok_mm.train import train

from .conftest import config, losses, weights

ROWS = 8
GENERATORS = {
    "xar": torch.randn(ROWS, 16, 4, generator=torch.Generator().manual_seed(0)),
    "elm": torch.arange(ROWS * 16).reshape(ROWS, 16) % 64,
    "next_block": torch.arange(ROWS * 48).reshape(ROWS, 48) % 100,
}


@pytest.fixture(autouse=True)
def speaking():
    """What a training warns of is logged: here it is heard, as from the command."""
    with console.speaking():
        yield


def short(fields, tmp_path, kind, columns=None, **changes):
    """The config of two steps of a tiny generator on these columns."""
    columns = {"tokens": GENERATORS[kind], "labels": torch.arange(ROWS) % 3} | (columns or {})
    save_file({name: column for name, column in columns.items() if column is not None}, tmp_path / "x.safetensors")
    fields["data"] = {"kind": "tensors", "path": str(tmp_path / "x.safetensors")}
    fields["model"] = {"role": "generator", "kind": kind, "size": "tiny"}
    return config(fields, train__steps=2, optim__warmup=0, **changes)


def refused(chosen, tmp_path) -> str:
    """The one line of a training that doesn't begin, and of which nothing is to be seen afterwards."""
    with pytest.raises(ValueError) as error:
        train(chosen)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    return str(error.value)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("label", [3, -1, 7])
def test_labels_that_the_model_has_no_class_for(fields, tmp_path, kind, label):
    """In a row that the first steps don't read: 3 is what "no label" is inside, and isn't the data's to give."""
    labels = torch.tensor([*[0, 1, 2] * 2, 1, label])
    message = refused(short(fields, tmp_path, kind, {"labels": labels}, train__batch=2), tmp_path)
    assert message == f"labels: got {label}, accepted: 0 to 2, the classes of this model"


def test_labels_of_folders_and_of_caches(fields, tiny, tmp_path):
    for index in range(4):
        path = tmp_path / "pictures" / f"class{index}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.effect_noise((8, 8), 30).save(path)
    folder = {"kind": "image_folder", "path": str(tmp_path / "pictures"), "size": 8, "channels": 1}
    build_cache(from_pretrained(tiny / "vae")[0], data.parse(folder), tmp_path / "cache")
    for source in (folder, {"kind": "latents", "folder": str(tmp_path / "cache")}):
        chosen = config({**fields, "data": source}, tokenizer=str(tiny / "vae"), train__batch=2)
        assert "labels: got 3, accepted: 0 to 2" in refused(chosen, tmp_path)
    judge = {**fields, "data": folder, "model": {"role": "judge", "kind": "fashion_cnn", "size": "tiny"}}
    assert "labels: got 3, accepted: 0 to 2" in refused(config(judge), tmp_path)
    with pytest.raises(ValueError, match="judge learns from both"):
        train(config({**judge, "data": fields["data"]}))


@pytest.mark.parametrize("kind", ["fashion_mnist", "moving"])
def test_labels_of_sources_with_classes_of_their_own(fields, tiny, tmp_path, kind):
    try:
        data.parse({"kind": kind}).open()
    except ValueError:
        pytest.skip("needs Fashion-MNIST")
    vae = registry.build("tokenizer", "kl_vae", {"size": "tiny", "image_size": (32, 32)})
    tokenizer = save_pretrained(vae, tmp_path / "vae") if kind == "fashion_mnist" else tiny / "video"
    fields |= {"data": {"kind": kind}, "tokenizer": str(tokenizer)}
    if kind == "moving":
        fields["data"] |= {"frames": 5, "size": 32}
        video = registry.build("tokenizer", "video_vq", {"size": "tiny", "clip_size": (5, 32, 32)})
        fields["tokenizer"] = str(save_pretrained(video, tmp_path / "video"))
        grid, codes = video.grid((5, 32, 32)), video.num_codes
        fields["model"] = {"role": "generator", "kind": "next_block", "size": "tiny", "grid": grid, "num_codes": codes}
    else:
        fields["model"]["grid"] = vae.grid((32, 32))
    last = {"fashion_mnist": 9, "moving": 54}[kind]
    message = refused(config(fields, model__classes=last), tmp_path)
    assert message == f"labels: got {last}, accepted: 0 to {last - 1}, the classes of this model"


@pytest.mark.parametrize(
    "kind, columns, words",
    [
        ("xar", {"tokens": torch.zeros(ROWS, 16, 5)}, "accepted: latents [batch, 16, 4]"),
        ("xar", {"tokens": torch.zeros(ROWS, 12, 4)}, "accepted: latents [batch, 16, 4]"),
        ("xar", {"tokens": GENERATORS["elm"]}, "got (1, 16) of torch.int64, accepted: latents"),
        ("elm", {"tokens": GENERATORS["elm"] + 1}, "tokens: got 64, accepted: 0 to 63, the codes of this model"),
        ("elm", {"tokens": GENERATORS["elm"] - 1}, "tokens: got -1, accepted: 0 to 63"),
        ("elm", {"tokens": GENERATORS["next_block"]}, "accepted: whole numbers [batch, 16]"),
        ("elm", {"tokens": GENERATORS["xar"]}, "accepted: whole numbers [batch, 16]"),
        ("next_block", {"tokens": GENERATORS["next_block"] + 1}, "tokens: got 100, accepted: 0 to 99"),
        ("next_block", {"tokens": torch.zeros(ROWS, 48, 2)}, "accepted: whole numbers [batch, 48]"),
        ("next_block", {"tokens": None, "images": torch.rand(ROWS, 1, 8, 8)}, "data: got no tokens"),
    ],
)
def test_tokens_of_another_model(fields, tmp_path, kind, columns, words):
    assert words in refused(short(fields, tmp_path, kind, columns), tmp_path)


def test_columns_that_a_tokenizer_is_not_trained_on(fields, tmp_path):
    for kind in ("kl_vae", "vq", "bae", "video_vq"):
        fields["model"] = {"role": "tokenizer", "kind": kind, "size": "tiny"}
        assert "data: got labels, tokens, accepted: images" in refused(config(fields), tmp_path)
    save_file({"images": torch.rand(8, 3, 8, 8)}, tmp_path / "data.safetensors")
    fields["model"]["kind"] = "kl_vae"
    assert "images: got shape (1, 3, 8, 8), accepted: [batch, 1, height, width]" in refused(config(fields), tmp_path)


def test_pictures_of_another_shape_with_as_many_tokens(fields, tiny, tmp_path):
    """4 x 16 pixels make 2 x 8 latents: as many as the 4 x 4 of the model, in other places."""
    save_file({"images": torch.rand(8, 1, 4, 16)}, tmp_path / "data.safetensors")
    fields["tokenizer"] = str(tiny / "vae")
    assert "a grid of (2, 8) tokens, accepted: the (4, 4)" in refused(config(fields), tmp_path)
    build_cache(from_pretrained(tiny / "vae")[0], config(fields).data, tmp_path / "cache")
    fields["data"] = {"kind": "latents", "folder": str(tmp_path / "cache")}
    assert "a grid of (2, 8) tokens, accepted: the (4, 4)" in refused(config(fields), tmp_path)


@pytest.mark.parametrize("kind", GENERATORS)
def test_without_classes_labels_are_passed_over(fields, tmp_path, kind):
    for name, labels in (("labelled", torch.arange(ROWS)), ("plain", None)):
        chosen = short(fields, tmp_path, kind, {"labels": labels}, train__out=str(tmp_path / name), model__classes=0)
        train(chosen)
    assert weights(tmp_path / "labelled") == weights(tmp_path / "plain")


def test_classes_that_the_data_lacks_are_warned_of(fields, tiny, tmp_path, capsys):
    """And `final` names those that have a name, never more than the model has."""
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.effect_noise((8, 8), 30).save(tmp_path / "pictures" / name / "a.png")
    fields["data"] = {"kind": "image_folder", "path": str(tmp_path / "pictures"), "size": 8, "channels": 1}
    fields["tokenizer"] = str(tiny / "vae")
    train(config(fields, train__steps=1, model__classes=5))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: model.classes")]
    wanted = "model.classes is 5, but the data has labels of 2 (cat, dog): the other 3 are never trained"
    assert line == f"warning: {wanted}"
    assert read_card(tmp_path / "run" / "final").labels == ("cat", "dog")
    train(config(fields, tmp_path / "none", train__steps=1, model__classes=0))
    assert read_card(tmp_path / "none" / "final").labels is None
    assert "model.classes" not in capsys.readouterr().err


def test_unlabelled_data_for_a_model_of_classes_is_warned_of(fields, tmp_path, capsys):
    train(short(fields, tmp_path, "elm", {"labels": None}))
    assert "model.classes is 3, but the data has no labels: every row trains without one" in capsys.readouterr().err


def test_final_labels_are_one_for_each_class(fields, tmp_path):
    message = refused(config(fields, final__labels=["a", "b"]), tmp_path)
    assert message == "final.labels: got 2 names, accepted: 3, one for each class"
    save_file({"images": torch.rand(8, 1, 8, 8)}, tmp_path / "data.safetensors")
    fields["model"] = {"role": "tokenizer", "kind": "kl_vae", "size": "tiny"}
    message = refused(config(fields, final__labels=["a", "b"]), tmp_path)
    assert message == "final.labels: got 2 names, accepted: none, this kl_vae has no classes"
    assert "tokenizer: got 'vae-fashion', accepted: none" in refused(config(fields, tokenizer="vae-fashion"), tmp_path)


class Spelled:
    """Stands in for any text encoder: a caption's letters."""

    width = 2

    def encode(self, captions, length):
        counts = torch.tensor([len(caption) for caption in captions])
        return counts[:, None, None].expand(-1, length, 2).float(), counts


@pytest.fixture
def captioned(fields, tiny, tmp_path, monkeypatch):
    """The fields of a training on a cache of captions, those of the encoder `spelled`."""
    save_file({"images": torch.rand(ROWS, 1, 8, 8)}, tmp_path / "images.safetensors")
    source = data.parse({"kind": "tensors", "path": str(tmp_path / "images.safetensors")})
    monkeypatch.setattr(latents, "load_text", lambda name: Spelled())
    monkeypatch.setattr(type(source.open()), "captions", ("ab",) * ROWS)
    text = Text(encoder="spelled", width=2, length=3)
    build_cache(from_pretrained(tiny / "flextok")[0], source, tmp_path / "cache", text=text)
    fields["model"] = {"role": "generator", "kind": "elm", "size": "tiny", "grid": [8], "num_codes": 125, "groups": 1}
    fields["model"] |= {"classes": 0, "text": text.model_dump()}
    return fields | {
        "tokenizer": str(tiny / "flextok"),
        "data": {"kind": "latents", "folder": str(tmp_path / "cache")},
    }


def test_captions_of_another_encoder(captioned, tmp_path):
    for name, other, held in (("encoder", "minilm", "'spelled'"), ("width", 4, "2"), ("length", 5, "3")):
        message = refused(config(captioned, **{f"model__text__{name}": other}), tmp_path)
        assert f"model.text.{name}: got {other!r}, accepted: {held}, with which the captions of" in message
    train(config(captioned, train__steps=1))
    manifest = tmp_path / "cache" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"text": None}))
    assert "it holds no captions" in refused(config(captioned, tmp_path / "run", train__overwrite=True), tmp_path / "x")


def test_what_draws_nothing_is_warned_of(fields, tmp_path, capsys):
    train(config(fields, train__steps=1, train__sample_every=1))
    assert "train.sample_every is 1, but draws nothing: without a tokenizer" in capsys.readouterr().err


def test_pictures_of_another_size_than_the_model_will_say(fields, tmp_path, capsys):
    save_file({"images": torch.rand(8, 1, 16, 8)}, tmp_path / "data.safetensors")
    fields["model"] = {"role": "tokenizer", "kind": "kl_vae", "size": "tiny"}
    train(config(fields, train__steps=1))
    assert "the data is of size 16 x 8, but the model will say that it was trained on 8 x 8" in capsys.readouterr().err


def warnings_of(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("warning: ")]
    return [line for line in lines if "optim.warmup" not in line]


class TestPreviews:
    """A preview never ends a run, and no snapshot is lost by one."""

    def outcome(self, folder: Path) -> tuple:
        return losses(folder), weights(folder), sorted(path.name for path in (folder / "snapshots").iterdir())

    def test_models_without_classes_are_drawn(self, fields, tiny, tmp_path, capsys):
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / name).mkdir(parents=True)
            Image.effect_noise((8, 8), 30).save(tmp_path / "pictures" / name / "a.png")
        fields["data"] = {"kind": "image_folder", "path": str(tmp_path / "pictures"), "size": 8, "channels": 1}
        flextok = from_pretrained(tiny / "flextok")[0]
        elm = {
            "role": "generator",
            "kind": "elm",
            "size": "tiny",
            "grid": [8],
            "num_codes": flextok.num_codes,
            "groups": 1,
        }
        for model, tokenizer in ((fields["model"], "vae"), (elm, "flextok")):
            out = tmp_path / model["kind"]
            chosen = config(fields | {"model": model}, out, model__classes=0, tokenizer=str(tiny / tokenizer))
            train(config(chosen.plain(), train__steps=1, train__sample_every=1, train__samples=2))
            assert (out / "samples" / "step-00000001.png").is_file()
        assert not warnings_of(capsys.readouterr().err)

    def test_models_that_go_on_are_given_what_the_data_begins_with(self, fields, tiny, tmp_path, capsys):
        from nextok_mm.train import samples

        video = from_pretrained(tiny / "video")[0]
        codes = torch.randint(video.num_codes, (3, 48), generator=torch.Generator().manual_seed(0))
        columns = {"tokens": codes, "labels": None}
        model = dict(model__start="given", model__classes=0, model__num_codes=video.num_codes)
        chosen = short(fields, tmp_path, "next_block", columns, tokenizer=str(tiny / "video"), **model)
        train(config(chosen.plain(), train__sample_every=2, train__samples=4))
        assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()
        assert not warnings_of(capsys.readouterr().err)
        spec = chosen.model
        built = registry.get(spec.role, spec.kind)(spec.fields)
        known = samples._given(built, video, chosen.data.open(), 4, torch.device("cpu"))
        assert torch.equal(known.data, codes[[0, 1, 2, 0]]) and known.mask.sum() == built.block

    def test_a_tokenizer_over_a_cache_shows_what_its_vae_makes_of_it(self, fields, tmp_path, capsys):
        vae = registry.build("tokenizer", "kl_vae", {"size": "tiny"})
        folder = save_pretrained(vae, tmp_path / "vae")
        save_file({"images": torch.rand(8, 1, 8, 8)}, tmp_path / "data.safetensors")
        build_cache(from_pretrained(folder)[0], config(fields).data, tmp_path / "cache")
        model = {"role": "tokenizer", "kind": "flextok", "size": "tiny", "latent_channels": 4, "latent_size": [4, 4]}
        fields |= {"model": model, "init": {"vae": str(folder)}}
        fields["data"] = {"kind": "latents", "folder": str(tmp_path / "cache")}
        train(config(fields, train__steps=1, train__sample_every=1, train__samples=2))
        assert (tmp_path / "run" / "samples" / "step-00000001.png").is_file()
        assert not warnings_of(capsys.readouterr().err)

    def test_what_goes_wrong_is_a_warning_with_its_reason(self, fields, tiny, tmp_path, monkeypatch, capsys):
        fields["tokenizer"] = str(tiny / "vae")
        train(config(fields, tmp_path / "plain"))

        def broken(*arguments):
            raise IndexError("none of\nmy business")

        monkeypatch.setattr("nextok_mm.train.samples.decode", broken)
        assert train(config(fields, tmp_path / "broken", train__sample_every=5)).status == "finished"
        assert self.outcome(tmp_path / "broken") == self.outcome(tmp_path / "plain")
        assert warnings_of(capsys.readouterr().err) == [
            f"warning: no pictures at step {step} (IndexError: none of my business)" for step in (5, 10)
        ]


def test_the_cpu_is_chosen_where_there_is_nothing_else(fields, tmp_path, monkeypatch, capsys):
    """`train.cpu` changes nothing on such a machine, in bf16 too; where there is a GPU, it is said that it idles."""
    for name, cpu in (("said", True), ("left open", False)):
        train(config(fields, tmp_path / name, train__cpu=cpu, train__precision="bf16"))
    if not torch.accelerator.is_available():
        assert weights(tmp_path / "said") == weights(tmp_path / "left open")
    monkeypatch.setattr("nextok_mm.train.loop._has_gpu", lambda: True)
    capsys.readouterr()
    train(config(fields, tmp_path / "warned"))
    wanted = "warning: train.cpu is true: the run stays on the CPU, although this machine has a GPU"
    assert wanted in warnings_of(capsys.readouterr().err)
