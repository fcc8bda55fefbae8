"""Text to sound in one call: whole or as it comes, with a voice or without, in pieces, and what is refused."""

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.adapters import convert
from nextok_mm.checkpoint import from_pretrained, save_pretrained
from nextok_mm.decoding.states import save_state
from nextok_mm.files import write_files
from nextok_mm.media.spelling import Spelling
from nextok_mm.pipeline import Pipeline
from nextok_mm.rng import Rng

ALPHABET = " !,.?_abcdefghijklmnopqrstuvwxyz\u02c8\u0259\u028a"
OFFICIAL = Path(__file__).parents[1] / "parity" / "reference" / "pocket_tiny.safetensors"
TEXT = "Go on."


def vowels(text: str, begin: bool = True) -> list[int]:
    return [ord(letter) % 50 for letter in text]


@pytest.fixture
def aligned(tmp_path) -> Pipeline:
    """A model that is told its phonemes, with a mel tokenizer, from a folder."""
    torch.manual_seed(0)
    tokenizer = registry.build("tokenizer", "mel", {"size": "tiny"})
    fields = {"size": "tiny-aligned", "channels": 6, "vocabulary": len(ALPHABET), "sampling": {"steps": 1}}
    model = registry.build("generator", "flow_omni", fields)
    save_pretrained(tokenizer, tmp_path / "mel")
    save_pretrained(model, tmp_path / "speaks", tokenizer=tmp_path / "mel")
    write_files(tmp_path / "speaks", Spelling(ALPHABET).files())
    return nx.load(tmp_path / "speaks")


@pytest.fixture
def pocket(tmp_path) -> Pipeline:
    """The published form at a tiny size, with its codec; words stand in for its text tokenizer."""
    convert("pocket_codec", OFFICIAL, tmp_path / "codec")
    convert("pocket_tts", OFFICIAL, tmp_path / "tts", tokenizer=str(tmp_path / "codec"))
    pipeline = nx.load(tmp_path / "tts")
    words = Spelling(ALPHABET)
    words.encode = vowels  # type: ignore[method-assign]
    return Pipeline(pipeline.tokenizer, pipeline.generator, pipeline.card, pipeline.tokenizer_card, words)


def test_text_becomes_sound(aligned, tmp_path):
    pytest.importorskip("hibari")
    assert "generate" in aligned.tasks and "predict" not in aligned.tasks and "score" not in aligned.tasks
    result = aligned.generate(text=[TEXT, "Go on and on, and on."], seed=3)
    assert result.data.shape[:2] == (2, 1) and result.text[0] == TEXT and result.medium.name == "sound"
    assert result.tokens.source and result.data.shape[2] == result.tokens.data.shape[1] * 40
    alone = aligned.generate(text=TEXT, seed=3).data
    torch.testing.assert_close(alone[0], result.data[0, :, : alone.shape[2]], rtol=1e-4, atol=1e-4)
    assert result.save(tmp_path / "out.wav").is_file()


def test_a_result_says_when_each_word_is_spoken(aligned, monkeypatch):
    monkeypatch.setattr(Spelling, "phonemes", lambda self, text: "_g\u02c8o \u0259n._")
    result = aligned.generate(text=["Go on.", "On."], batch=1)
    units = aligned.generator.config.rate * 2
    for remarks, tokens in zip(result.remarks, result.tokens.data):
        assert (
            remarks["ended"] == "stop"
            and "".join(letter for letter, *_ in remarks["phonemes"]) == "_g\u02c8o \u0259n._"
        )
        assert [word for word, *_ in remarks["words"]] == ["g\u02c8o", "\u0259n"]
        times = [time for _, *both in remarks["phonemes"] for time in both]
        assert times == sorted(times) and times[0] == 0 and round(times[-1] * units) <= 2 * len(tokens)
        assert remarks["words"][0][1:] == (remarks["phonemes"][1][1], remarks["phonemes"][3][2])
    cut = aligned.generate(text="Go on.", tokens=1)
    assert cut.remarks[0]["ended"] == "stop" or cut.tokens.data.shape[1] == 1


def test_the_pair_is_one_folder(aligned, tmp_path):
    pytest.importorskip("hibari")
    aligned.save_pretrained(tmp_path / "pair")
    again = nx.load(tmp_path / "pair")
    assert torch.equal(again.generate(text=TEXT).data, aligned.generate(text=TEXT).data)
    assert json.loads((tmp_path / "pair" / "phonemes.json").read_text())["alphabet"] == ALPHABET


def test_sound_comes_as_it_is_made(pocket):
    settings = {
        "stop": None,
        "steps": 1,
        "tokens": 7,
        "seed": 1,
        "voice": load_file(OFFICIAL.with_name("pocket_tiny_io.safetensors"))["voice_B1S"],
    }
    results = list(pocket.stream(text=TEXT, **settings))
    parts = [result.added for result in results]
    assert len(parts) > 1 and all(part.shape[2] == 160 for part in parts)
    whole = pocket.generate(text=TEXT, **settings)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pocket.detokenize(whole.tokens).data, whole.data, rtol=1e-4, atol=1e-5)


def test_a_voice_is_a_recording_or_a_state(pocket, tmp_path):
    voice = load_file(OFFICIAL.with_name("pocket_tiny_io.safetensors"))["voice_B1S"]
    heard = pocket.generator.start({"voice": pocket.tokenizer.encode(voice).data[0]}, Rng([0]))
    path = save_state(heard, tmp_path / "voice.safetensors")
    asked = {"text": TEXT, "tokens": 4}
    plain = pocket.generate(**asked)
    spoken = [
        pocket.generate(voice=given, **asked).data for given in (voice, voice[0, 0].numpy(), heard, path, [voice])
    ]
    assert all(torch.allclose(each, spoken[0], atol=1e-5) for each in spoken)
    assert not torch.allclose(plain.data[:, :, :160], spoken[0][:, :, :160])


def test_a_long_text_is_cut(pocket):
    text = "One two three four five six seven eight. Nine ten eleven twelve, thirteen fourteen fifteen. Go on."
    read = pocket.condition(1, text=text)
    assert [len(piece) for piece in read["tokens"][0]] == [40, 50, 6] and read["after"] == [[1, 1, 3]]
    assert pocket.condition(2, text=["hello", "a b c d e"])["after"] == [[3], [1]]


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"text": ""}, "text: got"),
        ({"text": "\U0001f642"}, "text: got"),
        ({"text": TEXT, "voice": "missing.wav"}, "missing.wav"),
        ({"text": TEXT, "voice": []}, "voice: got none"),
        ({"labels": [3]}, "labels: got"),
        ({"text": TEXT, "stop": ["a"]}, "stop: got"),
    ],
)
def test_a_mistake_is_one_line(pocket, asked, words):
    with pytest.raises(ValueError, match=words) as error:
        pocket.generate(**asked)
    assert "\n" not in str(error.value)


def test_no_text_is_one_line(aligned):
    """Found by waiting: without a text it spoke for as long as `tokens` lets it."""
    with pytest.raises(ValueError, match="text: got none, accepted: a text"):
        aligned.generate(n=1)


def test_a_model_without_voices_or_words_says_so(aligned, tmp_path):
    with pytest.raises(ValueError, match="voice: got one, accepted: none"):
        aligned.generate(text=TEXT, voice=torch.zeros(1, 1, 400))
    (tmp_path / "speaks" / "phonemes.json").unlink()
    with pytest.raises(ValueError, match="has no text tokenizer"):
        nx.load(tmp_path / "speaks").generate(text=TEXT)
    assert from_pretrained(tmp_path / "speaks")[1].kind == "flow_omni"


def test_a_sound_streams_as_a_wav_file(pocket, capfdbinary):
    soundfile = pytest.importorskip("soundfile")
    from nextok_mm.cli.texts import written

    result = written(pocket.stream(text=TEXT, tokens=5), pocket.medium)
    data = capfdbinary.readouterr().out
    sound, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == 4000 and data[4:8] == data[40:44] == b"\xff" * 4
    torch.testing.assert_close(torch.from_numpy(sound), result.data[0, 0], rtol=0, atol=1e-4)
