"""A language model is trained by the one loop, on text, and its final folder holds its words."""

import pytest
import torch

import nextok_mm as nx
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.decoding import decode
from nextok_mm.media.words import Bytes, Pretrained, load_words
from nextok_mm.rng import Rng
from nextok_mm.train import train
from nextok_mm.train.config import TrainConfig

LINE = "the cat sat on the mat. "


@pytest.fixture
def fields(tmp_path):
    (tmp_path / "text").mkdir()
    for number in range(6):
        (tmp_path / "text" / f"{number}.txt").write_text(LINE * 20)
    model = dict(role="generator", kind="language", size="tiny", vocabulary=258, context=32, begin=256, ends=[257])
    return {
        "model": model,
        "data": {"kind": "text", "path": str(tmp_path / "text"), "length": 32, "held_out": 0},
        "train": {"out": str(tmp_path / "run"), "steps": 150, "batch": 8, "log_every": 50},
        "optim": {"lr": 1e-2, "warmup": 5},
    }


def test_it_learns_to_go_on(fields, tmp_path):
    train(TrainConfig.parse(fields))
    model, card = from_pretrained(tmp_path / "run" / "final")
    words = load_words(tmp_path / "run" / "final")
    assert isinstance(words, Bytes) and card.tokenizer is None
    settings = model.Sampling(temperature=0, tokens=12)
    *_, last = decode(model, model.start({"tokens": [words.encode("the cat ")]}, Rng([0]), settings))
    assert words.decode(last.data[0].tolist()) == "sat on the m"


def test_its_card_says_how_to_use_it(fields, tmp_path, monkeypatch, capsys):
    fields["train"]["steps"], fields["model"]["sampling"] = 1, {"tokens": 3}
    train(TrainConfig.parse(fields))
    text = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in text
    code = text.partition("```python\n")[2].partition("```")[0]
    path = next(word for word in code.split('"') if word.startswith("path/to/"))
    exec(code.replace(path, str(tmp_path / "run" / "final")), {})
    assert capsys.readouterr().out.endswith("\n")
    assert nx.load(tmp_path / "run" / "final", device="cpu").generate(text="the", tokens=2).finished == 2


def test_a_stopped_run_ends_in_the_same_bits(fields, tmp_path):
    fields["train"]["steps"] = 6
    train(TrainConfig.parse(fields))
    for _ in range(6):
        train(
            TrainConfig.parse({**fields, "train": {**fields["train"], "out": str(tmp_path / "b"), "max_minutes": 1e-9}})
        )
    whole, resumed = (from_pretrained(tmp_path / name / "final")[0].state_dict() for name in ("run", "b"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_text_of_another_vocabulary_is_refused_before_the_first_step(fields, tmp_path):
    fields["model"]["vocabulary"], fields["model"]["begin"], fields["model"]["ends"] = 100, 1, [2]
    with pytest.raises(ValueError, match="tokens: got .*, accepted: 0 to 99"):
        train(TrainConfig.parse(fields))
    assert not (tmp_path / "run").exists()


def test_words_come_back_from_their_files(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "<end>": 2}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(["<end>"])
    words = Pretrained(tokenizer.to_str(), {"eos_token": "<end>"}, "{{ messages[0].content }}")
    for name, data in words.files().items():
        (tmp_path / name).write_bytes(data)
    again = load_words(tmp_path)
    assert again.encode("abba") == words.encode("abba") == [0, 1, 1, 0] and again.end == 2
    assert again.template == words.template
