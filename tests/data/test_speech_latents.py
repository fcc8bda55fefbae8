"""Encoded speech as rows that know their phonemes, and a training from such a file to a checkpoint that speaks."""

import json

import pytest
import torch

import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.data.speech_latents import Config, build
from nextok_mm.media.spelling import Spelling
from nextok_mm.train import train
from nextok_mm.train.config import TrainConfig

UNIT = 20  # samples; the tiny tokenizer's tokens are of 40
SPOKEN = [("_ab_", [3, 2, 1, 2]), ("_ba. b_", [1, 2, 2, 1, 1, 3, 1]), ("_b_", [2, 4, 1])]


@pytest.fixture
def folder(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "speech" / "wavs").mkdir(parents=True)
    lines, rows = [], []
    for number, (phonemes, units) in enumerate(SPOKEN):
        torch.manual_seed(number)
        sound = torch.randn(UNIT * sum(units)) * 0.2
        soundfile.write(tmp_path / "speech" / "wavs" / f"{number}.wav", sound.clamp(-1, 1).numpy(), 2000)
        lines.append(f"{number}|text|text")
        rows.append(json.dumps({"id": str(number), "text": "text", "phonemes": phonemes, "units": units}))
    (tmp_path / "speech" / "metadata.csv").write_text("\n".join(lines))
    (tmp_path / "speech" / "phonemes.jsonl").write_text("\n".join(rows))
    torch.manual_seed(0)
    save_pretrained(registry.build("tokenizer", "mel", {"size": "tiny"}), tmp_path / "mel")
    assert build(tmp_path / "speech", tmp_path / "mel", tmp_path / "speech.safetensors") == 3
    return tmp_path


def opened(folder, length=8):
    return Config(path=str(folder / "speech.safetensors"), length=length).open()


def test_rows_are_whole_sentences_until_they_are_full(folder):
    source = opened(folder)
    assert len(source) == 3 and isinstance(source.words, Spelling) and source.words.alphabet == " ._ab"
    assert source.per_latent == 2 and [len(tokens) for tokens in source.tokens] == [4, 6, 4]
    batch = source.batch([0, 2])
    assert batch["tokens"].shape == (2, 8, 6) and batch["text"].shape == batch["durations"].shape
    said = source.words.decode([token for token in batch["text"][0].tolist() if token >= 0])
    assert said == "_ab__ba. b_"[: len(said)] and batch["durations"][1, :3].tolist() == [2, 4, 2]
    torch.testing.assert_close(batch["tokens"][0, :4], source.tokens[0].float())
    inside = batch["durations"].cumsum(1) - batch["durations"]
    assert (inside[batch["text"] >= 0] < 16).all() and (batch["durations"].sum(1) >= 16).all()


def test_what_follows_is_drawn_from_the_rows_seed(folder):
    source = opened(folder, length=40)
    one, again, other = (source.batch([1], [seed])["tokens"] for seed in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other) and torch.equal(one[:, :6], other[:, :6])


def test_what_is_no_such_file_is_one_line(folder):
    for name, words in (("missing.safetensors", "that is there"), ("mel/config.json", "accepted: a .safetensors file")):
        with pytest.raises(ValueError, match=words) as error:
            Config(path=str(folder / name)).open()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no counts, accepted"):
        Config(path=str(folder / "mel" / "model.safetensors")).open()
    (folder / "speech" / "phonemes.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has no phonemes\.jsonl"):
        build(folder / "speech", folder / "mel", folder / "other.safetensors")


def test_a_training_ends_in_a_checkpoint_that_speaks(folder, monkeypatch):
    model = {"role": "generator", "kind": "flow_omni", "size": "tiny-aligned", "channels": 6, "vocabulary": 5}
    fields = {
        "model": {**model, "sampling": {"steps": 1}},
        "data": {"kind": "speech_latents", "path": str(folder / "speech.safetensors"), "length": 8},
        "tokenizer": str(folder / "mel"),
        "train": {"out": str(folder / "run"), "steps": 3, "batch": 2},
        "optim": {"warmup": 1},
    }
    train(TrainConfig.parse(fields))
    pipeline = nx.load(folder / "run" / "final")
    monkeypatch.setattr(Spelling, "phonemes", lambda self, text: "_ab_")
    result = pipeline.generate(text="A b.")
    assert pipeline.words.alphabet == " ._ab" and result.data.shape[2] == result.tokens.data.shape[1] * 40
    assert "text-to-speech" in (folder / "run" / "final" / "README.md").read_text()
    second = {**model, "flow_times": 2}
    train(TrainConfig.parse({**fields, "model": second, "train": {**fields["train"], "out": str(folder / "first")}}))
    jumps = {**fields, "model": {**second, "distill": 0.25}, "init": str(folder / "first" / "final")}
    train(TrainConfig.parse({**jumps, "train": {**fields["train"], "out": str(folder / "second")}}))
    log = (folder / "second" / "log.jsonl").read_text().splitlines()
    assert "jumps" in json.loads(log[-1]) and nx.load(folder / "second" / "final").generator.config.distill == 0.25


def test_another_tokenizers_latents_are_refused(folder):
    torch.manual_seed(1)
    save_pretrained(registry.build("tokenizer", "mel", {"size": "tiny"}), folder / "another")
    fields = {
        "model": {"role": "generator", "kind": "flow_omni", "size": "tiny-aligned", "channels": 6, "vocabulary": 5},
        "data": {"kind": "speech_latents", "path": str(folder / "speech.safetensors"), "length": 8},
        "tokenizer": str(folder / "another"),
        "train": {"out": str(folder / "run"), "steps": 3, "batch": 2},
        "optim": {"warmup": 1},
    }
    with pytest.raises(ValueError, match="made by tokenizer"):
        train(TrainConfig.parse(fields))
