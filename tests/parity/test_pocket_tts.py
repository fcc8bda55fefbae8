"""Pocket TTS's language part equals the official implementation: voice, hidden states, stop logits, drawn latents."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from generators.flow_omni import FlowOmni, Sampling
from nextok_mm.adapters import pocket_codec
from nextok_mm.adapters.pocket_tts import read
from nextok_mm.decoding import decode
from nextok_mm.decoding.states import load_state, save_state
from nextok_mm.rng import Rng
from tokenizers_speech.speech_vae import SpeechVAE


class Recorded(Rng):
    """The noise that the official implementation drew, one latent after another."""

    def __init__(self, noise_SC: torch.Tensor):
        super().__init__([0])
        self.left = list(noise_SC)

    def of(self, rows):
        return self

    def normal(self, *shape, like=None):
        return self.left.pop(0)[None]


def load(pair):
    weights, io = pair
    fields, state = read(weights)
    model = FlowOmni(FlowOmni.Config.parse(fields)).eval()
    model.load_state_dict(state)
    with safe_open(io, "pt") as file:
        about = file.metadata()
    return model, load_file(io), about


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


def speak(model, io, about, voice):
    """The latents, hidden states and stop logits of as many steps as were recorded."""
    noise, hidden = io["noise_SC"], []
    temperature = float(about["temperature"])
    settings = Sampling(
        steps=int(about["lsd_steps"]), temperature=temperature, stop_logit=100, tokens=len(noise), pace=1e-3
    )
    state = model.start({"tokens": io["words_BP"], "voice": voice}, Recorded(noise), settings)
    watched = model.backbone.norm_out.register_forward_hook(lambda _, __, out: hidden.append(out[0, -1]))
    *_, state = decode(model, state)
    watched.remove()
    assert state.lengths_B.tolist() == [len(noise)]
    return (state.data - model.shift) / model.scale, torch.stack(hidden), state.stops_BN[0]


def test_what_the_transformer_reads_of_a_voice(pocket_pair):
    model, io, _ = load(pocket_pair)
    voice = io["voice_latents_BCN"].transpose(1, 2)
    expected = io["voice_prompt_BND"]
    assert relative(model._voiced(voice)[:, -expected.shape[1] :], expected) < 1e-5


def test_hidden_states_stop_logits_and_latents(pocket_pair):
    model, io, about = load(pocket_pair)
    assert model.config.voice_begin == json.loads(about["bos_before_voice"])
    latents, hidden, stops = speak(model, io, about, io["voice_latents_BCN"].transpose(1, 2))
    assert relative(hidden, io["hidden_SD"]) < 1e-5
    assert relative(stops, io["stop_logits_S"]) < 1e-5
    assert relative(latents, io["latents_BSC"]) < 1e-4


def test_a_voice_that_was_kept_in_a_file_is_the_same(pocket_pair, tmp_path):
    model, io, about = load(pocket_pair)
    heard = model.start({"voice": io["voice_latents_BCN"][0].T}, Rng([0]))
    kept = load_state(model, save_state(heard, tmp_path / "voice.safetensors"))
    for _ in range(2):  # speaking with it leaves it as it was
        latents, _, _ = speak(model, io, about, kept)
        assert relative(latents, io["latents_BSC"]) < 1e-4


@pytest.mark.parametrize("size", [1, 3, 100])
@torch.no_grad()
def test_from_a_recording_to_sound(pocket_pair, size):
    """The codec's encoder, the voice, the text, the latents and the decoder in one chain, streamed or whole."""
    model, io, about = load(pocket_pair)
    fields, state = pocket_codec.read(pocket_pair[0])
    codec = SpeechVAE(SpeechVAE.Config.parse(fields)).eval()
    codec.load_state_dict(state)
    latents, _, _ = speak(model, io, about, codec.encode(io["voice_B1S"]).data)
    spoken = (latents * model.scale + model.shift).split(size, dim=1)
    assert relative(torch.cat(list(codec.decode_stream(spoken)), dim=2), io["audio_B1S"]) < 1e-4


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_rows_of_other_lengths_change_nothing(pocket_pair, cfg):
    """A row with another text and without a voice beside it."""
    model, io, _ = load(pocket_pair)
    model, words = model.double(), io["words_BP"][0]
    voice = io["voice_latents_BCN"][0].T.double()
    settings = Sampling(steps=2, tokens=9, cfg=cfg, stop_logit=-0.1)

    def run(texts, seeds, voices):
        *_, state = decode(model, model.start({"tokens": texts, "voice": voices}, Rng(seeds), settings))
        return [state.data[row, : state.lengths_B[row]] for row in range(len(texts))]

    both = run([words, words[:4]], [5, 6], [voice, voice[:2]])
    torch.testing.assert_close(both[0], run([words], [5], voice)[0])
    torch.testing.assert_close(both[1], run([words[:4]], [6], voice[:2])[0])
