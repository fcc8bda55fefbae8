"""Published Pocket TTS files: what is read, what is refused, and that a converted folder speaks as the file does."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nextok_mm as nx
from nextok_mm.adapters import convert, pocket_tts
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.decoding import decode
from nextok_mm.rng import Rng

OFFICIAL = Path(__file__).parents[1] / "parity" / "reference" / "pocket_tiny.safetensors"


@pytest.fixture
def official():
    return load_file(OFFICIAL)


def test_sizes_come_from_the_file():
    fields, _ = pocket_tts.read(OFFICIAL)
    assert (fields["vocabulary"], fields["channels"], fields["heads"], fields["rate"]) == (51, 8, 4, 25.0)
    assert fields["flow_times"] == 2 and fields["sampling"]["steps"] == 1


def test_without_its_metadata_a_file_is_the_published_size(official):
    fields, _ = pocket_tts.convert(official)
    assert fields["heads"] == 1 and fields["rate"] == 12.5 and fields["rope_theta"] == 10000


def test_a_converted_folder_speaks(official, tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "model.safetensors").write_bytes(OFFICIAL.read_bytes())
    convert("pocket_tts", tmp_path / "published", tmp_path / "mine")
    model, card = from_pretrained(tmp_path / "mine")
    assert card.kind == "flow_omni" and "cc-by-4.0" in card.license
    spoken = list(decode(model, model.start({"tokens": [[3, 4]]}, Rng([0]), model.Sampling(stop_logit=9, tokens=3))))[
        -1
    ]
    assert spoken.data.shape == (1, 3, 8) and spoken.data.isfinite().all()
    assert torch.equal(model.scale, official["flow_lm.emb_std"])


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda w: w.update(surprise=torch.zeros(1)), "unknown key 'surprise'"),
        (lambda w: w.update({"flow_lm.more": torch.zeros(1)}), "unknown key 'flow_lm.more'"),
        (lambda w: w.pop("flow_lm.out_eos.bias"), "no weight flow_lm.out_eos.bias"),
        (lambda w: w.pop("flow_lm.flow_net.res_blocks.1.mlp.0.weight"), "no weight flow_lm.flow_net.res_blocks.1"),
        (lambda w: w.pop("flow_lm.transformer.layers.1.norm1.bias"), "no weight flow_lm.transformer.layers.1.norm1"),
        (lambda w: [w.pop(key) for key in list(w) if "flow_net.time" in key], "no key begins with"),
        (lambda w: w.clear(), "no key begins with 'transformer.layers.'"),
    ],
)
def test_another_form_is_refused_by_name(official, damage, word):
    damage(official)
    with pytest.raises(ValueError, match=word) as error:
        pocket_tts.convert(official)
    assert "Pocket TTS checkpoint" in str(error.value) and "\n" not in str(error.value)


def test_a_folder_holds_one_file(tmp_path):
    with pytest.raises(ValueError, match="got none, accepted: one .safetensors file"):
        pocket_tts.read(tmp_path)


def test_its_text_tokenizer_comes_along(tmp_path):
    """A SentencePiece model of our own stands in for the published one; its ids are below the table's rows."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text.txt").write_text(
        "the quick brown fox jumps over the lazy dog. The cat sat on the mat, and Jack quit.\n" * 20
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=34, bos_id=-1, eos_id=-1
    )
    (tmp_path / "model.safetensors").write_bytes(OFFICIAL.read_bytes())
    (tmp_path / "published").mkdir()
    for name in ("model.safetensors", "tokenizer.model"):
        (tmp_path / name).rename(tmp_path / "published" / name)
    convert("pocket_codec", tmp_path / "published" / "model.safetensors", tmp_path / "codec")
    convert("pocket_tts", tmp_path / "published", tmp_path / "mine", tokenizer=str(tmp_path / "codec"))
    pipeline = nx.load(tmp_path / "mine")
    asked = pipeline.condition(1, text="the cat\nsat")
    assert pipeline.words.decode(asked["tokens"][0][0]) == "The cat sat." and asked["after"] == [[3]]
    spoken = pipeline.generate(text="The cat sat on the mat.", tokens=3, stop_logit=100)
    assert spoken.data.shape == (1, 1, 3 * 160)
