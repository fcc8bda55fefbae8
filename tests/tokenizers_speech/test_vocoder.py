"""The vocoder: its tokens are the mel tokenizer's, chunks are the whole, and it learns to sound."""

import pytest
import torch

from nextok_mm.checkpoint import from_pretrained, save_pretrained
from nextok_mm.contracts import Tokens
from nextok_mm.rng import Rng
from nextok_mm.train import TrainConfig, train
from tokenizers_speech.mel import Mel, MelConfig
from tokenizers_speech.vocoder import Vocoder, VocoderConfig


def tiny(**fields) -> Vocoder:
    torch.manual_seed(0)
    model = Vocoder(VocoderConfig.parse({"size": "tiny", **fields})).eval()
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def noise(samples: int = 320, rows: int = 1) -> torch.Tensor:
    return (torch.randn(rows, 1, samples, generator=torch.Generator().manual_seed(1)) * 0.3).clamp(-1, 1)


@pytest.mark.parametrize("hop, window", [(20, 80), (20, 20), (20, 64)])
@torch.no_grad()
def test_chunks_are_the_whole(hop, window):
    model = tiny(mel={**MelConfig.SIZES["tiny"], "hop": hop, "window": window})
    step = model.samples_per_token
    tokens = model.encode(noise(step * 11, rows=2))
    whole = model.decode(tokens)
    assert whole.shape == (2, 1, step * 11)
    for size in (1, 3, 11):
        parts = list(model.decode_stream(tokens.data.split(size, dim=1)))
        torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-4, atol=1e-5)
        assert parts[0].shape[2] == max(0, size * step - (window - hop))
    chunks = list(model.encode_stream(noise(step * 11, rows=2).split(step * 2, dim=2)))
    torch.testing.assert_close(torch.cat(chunks, dim=1), tokens.data, rtol=1e-4, atol=1e-5)
    assert model.decode_end(model.carry()) is None


@torch.no_grad()
def test_nothing_looks_ahead_but_for_the_overlap():
    model = tiny()
    step, reach = model.samples_per_token, 60
    tokens = model.encode(noise(step * 8)).data
    other = tokens.clone()
    other[:, 5:] = 0
    first, second = (model.decode(Tokens(x, (8,))) for x in (tokens, other))
    torch.testing.assert_close(first[..., : step * 5 - reach], second[..., : step * 5 - reach])
    assert not torch.allclose(first[..., step * 5 - reach : step * 5], second[..., step * 5 - reach : step * 5])


@torch.no_grad()
def test_a_long_stream_takes_constant_memory():
    model, sizes = tiny(), set()
    carry = model.carry()
    for index in range(30):
        model.decode_more(torch.randn(1, 2, 6), carry)
        held = sum(tensor.numel() for tensor in carry.inputs.values())
        if index:
            sizes.add(held + carry.held.numel() + carry.weight.numel())
    assert len(sizes) == 1


def test_it_learns_to_sound_from_a_mel_checkpoint(tmp_path):
    """Trained on tones of one pitch it gives them back; the mel tokenizer inside stays as it was."""
    soundfile = pytest.importorskip("soundfile")
    mel = Mel(MelConfig.parse({"size": "tiny"}))
    times = torch.arange(320) / 2000
    waves = torch.stack([0.5 * torch.sin(2 * torch.pi * (200 * times + start)) for start in torch.linspace(0, 1, 32)])
    mel.front.fit(waves.split(8))
    save_pretrained(mel, tmp_path / "mel")
    for index, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{index:02d}.wav", wave.numpy(), 2000)
    fields = {
        "model": {"role": "tokenizer", "kind": "vocoder", "size": "tiny", "adversarial": {"width": 4, "depth": 2}},
        "init": {"mel": str(tmp_path / "mel")},
        "data": {"kind": "speech", "path": str(tmp_path), "rate": 2000, "size": 320},
        "train": {"out": str(tmp_path / "run"), "steps": 150, "batch": 8, "cpu": True, "sample_every": 150},
        "optim": {"lr": 3e-3, "warmup": 10},
    }
    assert train(TrainConfig.parse(fields)).exit_code == 0
    model, _ = from_pretrained(tmp_path / "run" / "final", role="tokenizer")
    assert model.adversarial is None and torch.equal(model.mel.front.down.weight, mel.front.down.weight)
    with torch.no_grad():
        made = model.decode(model.encode(waves[:1, None]))[0, 0, 80:-80]
    spectrum = torch.fft.rfft(made * torch.hann_window(len(made))).abs()
    assert abs(float(spectrum.argmax()) * 2000 / len(made) - 200) < 20 and 0.1 < made.abs().max() < 1
    assert (tmp_path / "run" / "samples" / "step-00000150.png").is_file()


def test_its_loss_has_the_parts_that_it_says():
    plain, judged = tiny(), tiny(adversarial=dict(width=4, depth=2))
    batch = {"images": noise(rows=2)}
    assert set(plain.loss(batch, Rng([0, 1])).parts) == {"wave", "mel", "spectrum"}
    assert {"adversarial", "discriminator", "features"} <= set(judged.loss(batch, Rng([0, 1])).parts)
    silent = plain.loss({"images": torch.zeros(1, 1, 320)}, Rng([0])).total
    silent.backward()
    assert silent.isfinite() and all(p.grad is None or bool(p.grad.isfinite().all()) for p in plain.parameters())
