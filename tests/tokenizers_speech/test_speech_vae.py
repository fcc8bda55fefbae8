"""The speech autoencoder: nothing looks ahead, chunks are the whole, memory is constant."""

import pytest
import torch

from nextok_mm.contracts import Tokens
from nextok_mm.rng import Rng
from tokenizers_speech.speech_vae import SpeechVAE, SpeechVAEConfig


def tiny(**fields) -> SpeechVAE:
    torch.manual_seed(0)
    model = SpeechVAE(SpeechVAEConfig.parse({"size": "tiny", **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def noise(samples: int = 320, rows: int = 1) -> torch.Tensor:
    return (torch.randn(rows, 1, samples, generator=torch.Generator().manual_seed(1)) * 0.3).clamp(-1, 1)


FORMS = [
    {},
    dict(transformer=None),
    dict(residual_units=3, dilation=3),
    dict(ratios=(5, 2), token_stride=3, deviation="learned"),
    dict(kernel=1, last_kernel=1, scale=2.0, shift=0.5),
]


@pytest.mark.parametrize("fields", FORMS)
@torch.no_grad()
def test_chunks_are_the_whole(fields):
    model = tiny(**fields)
    step = model.samples_per_token
    sounds = noise(step * 23, rows=2)
    whole = model.encode(sounds)
    assert whole.data.shape == (2, 23, 4)
    decoded = model.decode(whole)
    for cuts in ((1,), (2, 7, 1), (23,)):
        sizes = [cuts[i % len(cuts)] for i in range(23)]
        edges, place = [], 0
        for size in sizes:
            if place < 23:
                edges.append((place, min(23, place + size)))
                place += size
        tokens = list(model.encode_stream([sounds[..., a * step : b * step] for a, b in edges]))
        torch.testing.assert_close(torch.cat(tokens, dim=1), whole.data, rtol=1e-4, atol=1e-5)
        out = list(model.decode_stream([whole.data[:, a:b] for a, b in edges]))
        assert [part.shape[2] for part in out] == [(b - a) * step for a, b in edges]
        torch.testing.assert_close(torch.cat(out, dim=2), decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", FORMS)
@torch.no_grad()
def test_nothing_looks_ahead(fields):
    model = tiny(**fields)
    step = model.samples_per_token
    sounds = noise(step * 8)
    other = sounds.clone()
    other[..., step * 5 :] = 0
    first, second = model.encode(sounds).data, model.encode(other).data
    torch.testing.assert_close(first[:, :5], second[:, :5], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(first[:, 5], second[:, 5])
    tokens = first.clone()
    tokens[:, 5:] = 0
    made, cut = (model.decode(Tokens(x, (8,))) for x in (first, tokens))
    torch.testing.assert_close(made[..., : step * 5], cut[..., : step * 5], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(made[..., step * 5 :], cut[..., step * 5 :])


def test_training_and_streaming_are_the_same_function():
    """With gradients the transformer sees its window through a mask, without through a cache that slides."""
    model = tiny()
    sounds = noise(model.samples_per_token * 40)
    trained = model.encode(sounds).data
    with torch.no_grad():
        torch.testing.assert_close(model.encode(sounds).data, trained.detach(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_long_stream_takes_constant_memory():
    model = tiny()
    carry, step = model.carry(), model.samples_per_token

    def held() -> int:
        caches = [cache.keys.numel() for cache in carry.caches.values()]
        return sum(tensor.numel() for tensor in carry.inputs.values()) + sum(caches)

    sizes = []
    for index in range(60):
        tokens = model.encode_more(noise(step * 3), carry)
        model.decode_more(tokens, carry)
        sizes.append(held()) if index >= 10 else None
    assert len(set(sizes)) == 1


@torch.no_grad()
def test_the_window_ends_what_is_seen():
    """What lies further back than window and convolutions reach changes nothing."""
    model = tiny(transformer=dict(depth=1, heads=2, mlp_hidden=32, window=3))
    step = model.samples_per_token
    sounds = noise(step * 30)
    other = sounds.clone()
    other[..., : step * 10] = 0
    first, second = model.encode(sounds).data, model.encode(other).data
    torch.testing.assert_close(first[:, 20:], second[:, 20:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first[:, 10], second[:, 10])


def test_deviations():
    sounds = noise(rows=2)
    fixed, learned, none = tiny(deviation=0.5), tiny(deviation="learned"), tiny(deviation=0.0)
    assert torch.equal(fixed.posterior(sounds)[1], torch.full((2, 20, 4), 0.5))
    assert learned.posterior(sounds)[1].std() > 0 and not none.posterior(sounds)[1].any()
    drawn = torch.stack([fixed.encode(sounds, Rng([seed, seed + 1])).data for seed in range(200)])
    torch.testing.assert_close(drawn.std(0).mean(), torch.tensor(0.5), atol=0.02, rtol=0)
    assert torch.equal(fixed.encode(sounds).data, fixed.posterior(sounds)[0])
    scaled = tiny(deviation=0.5, scale=(1.0, 2.0, 3.0, 4.0), shift=1.0)
    assert scaled.posterior(sounds)[1][0, 0].tolist() == [0.5, 1.0, 1.5, 2.0]
    torch.testing.assert_close(scaled.decode(scaled.encode(sounds)), fixed.decode(fixed.encode(sounds)))


def test_the_discriminator_and_the_autoencoder_pull_against_each_other():
    torch.manual_seed(0)
    model = SpeechVAE(SpeechVAEConfig.parse({"size": "tiny", "adversarial": dict(width=4, depth=2)}))
    loss = model.loss({"images": noise(rows=2)}, Rng([0, 1]))
    assert {"wave", "mel", "spectrum", "adversarial", "discriminator", "features", "kl"} == set(loss.parts)
    loss.total.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("logit.bias") for name in silent)  # half of the hinge pulls up, half down
    for row in (0, 1):  # no row touches another
        alone = model.loss({"images": noise(rows=2)[row : row + 1]}, Rng([row])).parts["mel"]
        assert alone.isfinite()


def test_a_silent_batch_has_a_finite_loss():
    model = tiny()
    loss = model.loss({"images": torch.zeros(1, 1, 320)}, Rng([0]))
    loss.total.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(ratios=(0,)), "ratios: got"),
        (dict(spectra=(2,)), "spectra: got"),
        (dict(deviation=-1.0), "deviation"),
        (dict(deviation="some"), "deviation"),
        (dict(scale=(1.0, 2.0)), "scale: one number or 4"),
        (dict(transformer=dict(heads=3)), "heads: got 3 for width 16"),
        (dict(transformer=dict(heads=2, windows=3)), "windows"),
    ],
)
def test_settings_that_do_not_go_together(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        SpeechVAEConfig.parse({"size": "tiny", **fields})
    assert "\n" not in str(error.value)


def test_sizes_of_the_presets():
    assert SpeechVAEConfig.parse({"size": "pocket"}).samples_per_token == 1920
    assert SpeechVAEConfig.parse({"size": "small"}).samples_per_token == 1200
