"""Every kind of data that shows pictures or clips serves every kind of checkpoint, with splits and without."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nextok_mm import cli, data
from nextok_mm.checkpoint import read_card, save_pretrained
from nextok_mm.data import emoji
from nextok_mm.eval import clips, quality, samples, scale
from nextok_mm.media import clips as video
from nextok_mm.registry import build


class Net(torch.nn.Module):
    """A feature space that costs nothing."""

    protocol: dict[str, Any] = {"resize": "none"}  # noqa: RUF012

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack((images.mean((1, 2, 3)), images.std((1, 2, 3)), images[:, 0, 0, 0]), dim=1)


@pytest.fixture
def world(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXTOK_CACHE", str(tmp_path / "cache"))
    for room in (quality, clips):
        monkeypatch.setattr(room, "load_features", lambda name, resolution=224: Net())
    monkeypatch.setattr(quality, "fingerprint", lambda part: "net" if isinstance(part, Net) else "part")
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "folder" / label).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "folder" / label / f"{index}.png")
    save_file({"images": torch.rand(12, 1, 8, 8)}, tmp_path / "rows.safetensors")
    save_file({"images": torch.rand(12, 1, 8, 8), "labels": torch.arange(12)}, tmp_path / "many.safetensors")
    save_file({"tokens": torch.rand(12, 16, 4)}, tmp_path / "tokens.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        colour = build("tokenizer", "kl_vae", {"size": "tiny", "image_channels": 3})
    save_pretrained(colour, tmp_path / "colour", name="colour")
    return tmp_path


def fields_of(kind: str, world: Path) -> dict[str, Any]:
    there = {
        "image_folder": {"path": str(world / "folder")},
        "tensors": {"path": str(world / "rows.safetensors")},
        "emoji": {"size": 8, "tones": False},
    }[kind]
    if kind == "emoji" and not (Path(emoji.FONT).is_file() and Path(emoji.NAMES).is_file()):
        pytest.skip("no emoji here")
    return {"kind": kind, **there}


@pytest.mark.parametrize("kind", ["image_folder", "tensors", "emoji"])
@pytest.mark.parametrize("role", ["tokenizer", "generator"])
def test_every_kind_of_pictures(world: Path, tiny: Path, kind: str, role: str) -> None:
    grey = kind != "emoji"
    name = str(tiny / ("vae" if grey else "none")) if role == "tokenizer" else str(tiny / "xar")
    if not grey and role == "tokenizer":
        name = str(world / "colour")
    elif not grey:
        generator = build("generator", "xar", {"size": "tiny", "sampling": {"steps": 1}})
        name = str(save_pretrained(generator, world / "xar", name="xar", tokenizer="../colour"))
    given = fields_of(kind, world)
    result = quality.evaluate(name, data=given, n=8, progress=False, **({"seed": 1} if role == "generator" else {}))
    protocol = result["protocol"]
    assert protocol["images"] == samples.VALUES and "8-bit" in samples.VALUES
    assert protocol["reference"].items() >= given.items()
    split = "split" in data.config_class(kind).model_fields
    assert ("split" in protocol["reference"]) == split
    if kind == "image_folder":  # what is not given is the model's own
        assert protocol["reference"]["size"] == (8, 8) and protocol["reference"]["channels"] == 1
    if role == "generator":
        assert ("real train" in result["figures"]) == split and ("splits" in protocol) == (not split)
        assert "reconstructed test" in result["figures"]
    assert quality.report(result)


@pytest.mark.parametrize("role", ["tokenizer", "generator"])
def test_clips_of_a_folder(world: Path, tiny: Path, role: str) -> None:
    pytest.importorskip("av")
    (world / "clips").mkdir()
    for index in range(22):
        video.save_clips(torch.rand(1, 3, 5, 8, 8), world / "clips" / f"{index}.gif", {}, zoom=1)
    name = str(tiny / ("video" if role == "tokenizer" else "clips"))
    given = {"kind": "clips", "path": str(world / "clips")}
    result = quality.evaluate(name, data=given)
    assert result["protocol"]["samples"] == 11 and result["protocol"]["images"] == samples.VALUES
    assert result["protocol"]["reference"] == {**given, "size": (5, 8, 8), "channels": 1}
    for wrong, words in (
        ({"n": 12}, "n: got 12, accepted: 10 to 11"),
        ({"data": {**given, "size": (9, 8, 8)}}, "5 frames"),
        (
            {"data": {"kind": "tensors", "path": str(world / "rows.safetensors")}},
            "holds pictures here, accepted: clips",
        ),
        ({"tokens": [1]}, r"tokens: got \[1\], accepted: none"),
    ):
        with pytest.raises(ValueError, match=words):
            quality.evaluate(name, **{"data": given, **wrong})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"kind": "tensors", "path": "{world}/tokens.safetensors"},
            "tensors holds no pictures here, accepted: pictures",
        ),
        ({"kind": "folder"}, "data.kind: got 'folder', accepted: .*image_folder"),
        ({"path": "x"}, "data.kind: got None"),
        ({"kind": "image_folder", "path": "{world}/folder", "split": "test"}, "data.split: unknown key"),
        ({"kind": "image_folder", "path": "{world}/folder", "channels": 3}, r"images: got shape .*3, 8, 8"),
        ({"kind": "image_folder", "path": "{world}/folder", "size": (9, 9)}, "multiples of 2"),
        ({"kind": "tensors", "path": "{world}/many.safetensors"}, "data: got label 11, accepted: 0 to 2"),
    ],
)
def test_data_that_do_not_fit_are_one_line(world: Path, tiny: Path, given: dict, words: str) -> None:
    given = {name: value.format(world=world) if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=words) as refused:
        quality.evaluate(str(tiny / "xar"), data=given, n=8, progress=False)
    assert "\n" not in str(refused.value)


def test_the_command_and_the_scaling_take_a_folder(
    world: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"eval {tiny / 'vae'} --data kind=image_folder --data path={world / 'folder'} --n 5"
    monkeypatch.setattr(sys, "argv", ["nextok", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and "psnr" in capsys.readouterr().out
    assert scale._train(["kind=emoji"]) == {"kind": "emoji", "split": "train"}
    assert scale._train(["kind=emoji", "split=all"]) == {"kind": "emoji", "split": "all"}
    given = scale._train(["kind=tensors", f"path={world / 'rows.safetensors'}"])
    assert given == {"kind": "tensors", "path": str(world / "rows.safetensors")}
    scaled = scale.standardize(tiny / "vae", world / "scaled", given)
    assert len(read_card(scaled).fields["scale"]) == 4


def test_numpys_numbers_are_numbers_here_too(world: Path, tiny: Path) -> None:
    fields = fields_of("tensors", world)
    results = [
        quality.evaluate(str(tiny / "xar"), data=fields, n=n, seed=seed, baselines=False, progress=False)
        for n, seed in ((6, 2), (np.int64(6), np.int64(2)))
    ]
    assert results[0]["figures"] == results[1]["figures"]
    assert results[1]["protocol"]["seed"] == 2 and type(results[1]["protocol"]["samples"]) is int


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vae", {"n": 2}, "n: got 2"),
        ("vae", {"tokens": [1]}, "have no order"),
        ("flextok", {"tokens": [9]}, "tokens: got 9"),
        ("xar", {"sampling": {"stepz": 1}}, "sampling.stepz: unknown key"),
        ("xar", {"n": 3}, "n: got 3"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_measured(
    world: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict, words: str
) -> None:
    monkeypatch.setattr(quality, "measure", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(ValueError, match=words):
        quality.evaluate(str(tiny / name), data=fields_of("tensors", world), progress=False, **options)
