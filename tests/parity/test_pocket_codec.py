"""Pocket TTS's codec equals the official implementation: a voice's latents, and sounds decoded one latent at a time."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nextok_mm.adapters import convert, pocket_codec
from nextok_mm.adapters.pocket_codec import read
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.contracts import Tokens
from tokenizers_speech.speech_vae import SpeechVAE


def load(pair):
    fields, state = read(pair[0])
    model = SpeechVAE(SpeechVAE.Config.parse(fields)).eval()
    model.load_state_dict(state)
    with safe_open(pair[0], "pt") as file:
        official = {key: file.get_tensor(key) for key in file.keys()}
    return model, load_file(pair[1]), official


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def latents(io, official) -> torch.Tensor:
    """What was drawn, as the codec has it."""
    return io["latents_BSC"] * official["flow_lm.emb_std"] + official["flow_lm.emb_mean"]


@torch.no_grad()
def test_a_voice(pocket_pair):
    model, io, _ = load(pocket_pair)
    got = model.encode(io["voice_B1S"]).data.transpose(1, 2)
    assert relative(got, io["voice_latents_BCN"]) < 1e-5
    with torch.enable_grad():  # the way that training takes
        assert relative(model.encode(io["voice_B1S"]).data.detach().transpose(1, 2), io["voice_latents_BCN"]) < 1e-5


@torch.no_grad()
def test_sounds_whole_and_streamed(pocket_pair):
    model, io, official = load(pocket_pair)
    tokens = latents(io, official)
    assert relative(model.decode(Tokens(tokens, (tokens.shape[1],))), io["audio_B1S"]) < 1e-4
    for size in (1, 2, 5):
        streamed = torch.cat(list(model.decode_stream(tokens.split(size, dim=1))), dim=2)
        assert relative(streamed, io["audio_B1S"]) < 1e-4


def test_it_is_converted_by_name(pocket_pair, tmp_path):
    convert("pocket_codec", pocket_pair[0], tmp_path / "codec")
    model, card = from_pretrained(tmp_path / "codec", role="tokenizer")
    io = load_file(pocket_pair[1])
    assert relative(model.encode(io["voice_B1S"]).data.detach().transpose(1, 2), io["voice_latents_BCN"]) < 1e-5
    assert card.license.startswith("cc-by-4.0") and model.config.rate == 4000 and model.tokens_per_second == 25


def test_what_is_not_in_that_form_is_one_line(pocket_pair, tmp_path):
    _, _, official = load(pocket_pair)
    for change, words in (
        ({"mimi.encoder.model.0.conv.weight": None}, "no weight mimi.encoder.model.0.conv.weight"),
        ({"mimi.more": torch.zeros(1)}, "unknown key 'mimi.more'"),
        ({"other.weight": torch.zeros(1)}, "unknown key 'other.weight'"),
        ({key: None for key in official if key.startswith("mimi.")}, "not in the published form"),
    ):
        changed = {key: value for key, value in {**official, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=words) as error:
            pocket_codec.convert(changed)
        assert "\n" not in str(error.value)
    short = dict(official)
    short["mimi.decoder.model.0.conv.weight"] = short["mimi.decoder.model.0.conv.weight"][:, :3].contiguous()
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match="size mismatch"):
        convert("pocket_codec", tmp_path / "short.safetensors", tmp_path / "out")
