"""Log-mel frames: what they measure, that nothing looks ahead, and the way back without a network."""

import pytest
import torch

from nextok_mm.checkpoint import fingerprint, from_pretrained
from tokenizers_speech._mel import MelFront, from_spectra, griffin_lim, mel_filters, spectra
from tokenizers_speech.mel import Mel, MelConfig, main


def tone(hertz: float, seconds: float = 0.5, rate: int = 24_000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * rate)) / rate)


def tiny(**fields) -> Mel:
    torch.manual_seed(0)
    return Mel(MelConfig.parse({"size": "tiny", **fields})).eval()


def test_a_tone_is_in_its_band():
    config = MelConfig()
    front, filters = MelFront(config), mel_filters(24_000, 1200, 80, 40.0, 11_000.0)
    middles = filters.argmax(1) * config.rate / config.window
    for hertz in (200.0, 1000.0, 5000.0):
        mel = front.mel(tone(hertz)[None])[0, 10:-10]
        assert abs(middles[int(mel.mean(0).argmax())] - hertz) < 0.1 * hertz + 40
        assert 0.4 < mel.max().exp() < 1  # of a tone of half the full size, spread over some frequencies
    silent = front.mel(torch.zeros(1, 3000))
    assert torch.allclose(silent, torch.tensor(config.floor).log())


def test_bands_are_equally_wide_triangles_on_the_mel_scale():
    step = 2595 * torch.log10(torch.tensor(1 + 12_000 / 700)).item() / 4
    middles = [700 * (10 ** (step * band / 2595) - 1) for band in (1, 2, 3)]
    filters = mel_filters(24_000, 1200, 3, 0, 12_000)
    for row, middle in zip(filters, middles):
        assert row.argmax() * 20 == pytest.approx(middle, abs=10.1) and row.max() > 0.98
    assert filters[:, 1:550].sum(0)[int(middles[0] // 20) + 1 : int(middles[2] // 20)] == pytest.approx(1)


def test_no_frame_sees_a_later_sample():
    model = tiny()
    sounds = torch.randn(1, 1, 320).clamp(-1, 1)
    other = sounds.clone()
    other[..., 160:] = 0
    size = model.samples_per_token
    first, second = model.encode(sounds).data, model.encode(other).data
    assert torch.equal(first[:, : 160 // size], second[:, : 160 // size])
    assert not torch.equal(first[:, 160 // size], second[:, 160 // size])


@pytest.mark.parametrize("cuts", [(40,), (80, 40, 200), (320,)])
def test_chunks_are_the_whole(cuts):
    model, sounds = tiny(), torch.randn(2, 1, 640).clamp(-1, 1)
    edges, place = [], 0
    while place < 640:
        step = cuts[len(edges) % len(cuts)]
        edges.append(sounds[..., place : place + step])
        place += step
    chunks = torch.cat(list(model.encode_stream(edges)), dim=1)
    whole = model.encode(sounds)
    torch.testing.assert_close(chunks, whole.data, rtol=1e-5, atol=1e-5)
    out = torch.cat(list(model.decode_stream(chunks.split(3, dim=1))), dim=2)
    torch.testing.assert_close(out, model.decode(whole), rtol=1e-4, atol=1e-4)


def test_a_sound_that_makes_no_whole_token_ends_in_silence():
    model = tiny()
    sounds = torch.randn(1, 1, 333).clamp(-1, 1)
    tokens = model.encode(sounds)
    assert tokens.grid == (9,) == model.grid((333,)) and model.decode(tokens).shape == (1, 1, 360)
    padded = torch.nn.functional.pad(sounds, (0, 27))
    assert torch.equal(model.encode(padded).data, tokens.data)
    assert model.tokens_per_second == 50
    for bad in (torch.zeros(1, 2, 320), torch.zeros(1, 320), torch.zeros(1, 1, 0)):
        with pytest.raises(ValueError, match="sounds: got"):
            model.encode(bad)
    with pytest.raises(ValueError, match="chunk: got 333 samples, accepted: a multiple of 40"):
        model.encode_more(sounds, model.carry())


def test_spectra_come_back():
    window, signal = torch.hann_window(1200), torch.randn(1, 6000)
    back = from_spectra(spectra(signal, window, 300), window, 300)
    torch.testing.assert_close(back[:, 300:-300], signal[:, 300:-300], atol=1e-4, rtol=0)


def test_griffin_lim_has_the_magnitudes_that_it_was_given():
    window = torch.hann_window(1200)
    signal = torch.cat((tone(330), 0.3 * torch.randn(6000) * torch.hann_window(6000), tone(2000)))[None]
    wanted = spectra(signal, window, 300).abs()

    def off(steps: int) -> float:
        found = spectra(griffin_lim(wanted, window, 300, steps), window, 300).abs()
        return float((found - wanted).norm() / wanted.norm())

    assert off(32) < 0.25 and off(32) < 0.6 * off(0)


def test_principal_components_keep_what_they_say():
    model = tiny()
    sounds = torch.randn(64, 320) * torch.rand(64, 1)
    kept = model.front.fit(sounds.split(16))
    mel = model.front.mel(sounds)
    tokens = model.front.tokens(mel).detach()
    assert tokens.mean((0, 1)).abs().max() < 1e-3 and (tokens.flatten(0, 1).std(0) - 1).abs().max() < 0.01
    rows = mel.unflatten(1, (-1, 2)).flatten(2).flatten(0, 1)
    left = (model.front.frames(tokens) - mel).detach().square().sum() / (rows - rows.mean(0)).square().sum()
    assert kept == pytest.approx(1 - float(left), abs=1e-3) and 0.5 < kept < 1
    loss = model.loss({"images": sounds[:, None]}, None).total  # type: ignore[arg-type]
    moved = tiny()
    assert loss < moved.loss({"images": sounds[:, None]}, None).total  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data: got 4 tokens to fit, accepted: more than 6"):
        model.front.fit([torch.zeros(1, 160)])


def test_other_settings_are_another_tokenizer():
    assert len({fingerprint(tiny()), fingerprint(tiny(floor=1e-3)), fingerprint(tiny(low=30.0))}) == 3


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(window=10), "window: got 10, accepted: 20"),
        (dict(high=1001), "high: got 1001"),
        (dict(low=1000), "high: got 1000"),
        (dict(latent_channels=25), "latent_channels: got 25, accepted: up to frames [*] bands, 24"),
        (dict(sound_channels=2), "sound_channels"),
    ],
)
def test_settings_that_do_not_go_together(fields, words):
    with pytest.raises(ValueError, match=words):
        MelConfig.parse({"size": "tiny", **fields})


def test_fitting_a_folder_of_sounds(tmp_path, capsys):
    soundfile = pytest.importorskip("soundfile")
    for index in range(3):
        soundfile.write(tmp_path / f"{index}.wav", (torch.rand(30_000) - 0.5).numpy(), 24_000)
    assert main([str(tmp_path), str(tmp_path / "out"), "--rows", "3"]) == 0
    assert "% of the variance in 32 numbers" in capsys.readouterr().out
    model, card = from_pretrained(tmp_path / "out", role="tokenizer")
    assert "3 sounds" in card.about["fitted to"] and model.encode(torch.zeros(1, 1, 1200)).data.isfinite().all()
    assert main([str(tmp_path / "none"), str(tmp_path / "x")]) == 2
