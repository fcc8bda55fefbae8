"""The convolutional stack against diffusers' AutoencoderKL: names, order, fresh weights, outputs and gradients."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from nextok_mm.registry import build
from tokenizers_visual._conv2d import Decoder, Encoder
from tokenizers_visual.kl_vae import KLVAEConfig

SHAPES = {
    "fashion": dict(block_channels=(8, 16, 32, 32), block_layers=1, quant_conv=True),
    "mar-kl16": dict(block_channels=(8, 8, 16, 16, 32), block_layers=2, encoder_attention=(4,), quant_conv=True),
    "sd-f8": dict(block_channels=(8, 16, 32, 32), block_layers=2, quant_conv=True),
    "flux": dict(block_channels=(8, 16), block_layers=2, quant_conv=False, latent_channels=16),
    "attention": dict(block_channels=(8, 16, 8), block_layers=2, encoder_attention=(0, 2), decoder_attention=(1,)),
    "no-middle": dict(block_channels=(8, 16), block_layers=1, mid_attention=False),
    "one-level": dict(block_channels=(8,), block_layers=1, decoder_attention=(0,), image_channels=1),
}


def both(fields):
    """diffusers' model and our network with fresh weights of the same seed."""
    config = KLVAEConfig(**{"groups": 4, "latent_channels": 4, "image_size": (32, 32), **fields})
    levels = range(len(config.block_channels))
    torch.manual_seed(0)
    theirs = AutoencoderKL(
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        down_block_types=tuple(f"{'Attn' * (i in config.encoder_attention)}DownEncoderBlock2D" for i in levels),
        up_block_types=tuple(f"{'Attn' * (i in config.decoder_attention)}UpDecoderBlock2D" for i in reversed(levels)),
        block_out_channels=config.block_channels,
        layers_per_block=config.block_layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.quant_conv,
        mid_block_add_attention=config.mid_attention,
    )
    torch.manual_seed(0)
    return theirs, build("tokenizer", "kl_vae", config.model_dump()).net


@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_names_their_order_and_fresh_weights_are_those_of_diffusers(fields):
    """The order is that of an optimizer's state: with another one, old snapshots resume with swapped momenta."""
    theirs, ours = both(fields)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for (name, mine), (other, given) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other and torch.equal(mine, given)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_outputs_and_gradients_are_those_of_diffusers(fields, layout, training):
    theirs, ours = both(fields)
    with torch.no_grad():
        for parameter in theirs.parameters():  # fresh biases and norms are too tame to tell a slip
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict())
    side, channels = 2 ** (len(theirs.config.block_out_channels) - 1), theirs.config.in_channels
    pictures = torch.randn(2, channels, 2 * side, 3 * side).to(memory_format=layout)
    latents = torch.randn(2, theirs.config.latent_channels, 2, 3).to(memory_format=layout)
    (theirs.train(training), ours.train(training))
    moments, came_back = ours.encode(pictures), ours.decode(latents)
    expected = theirs.encode(pictures).latent_dist.parameters, theirs.decode(latents).sample
    torch.testing.assert_close((moments, came_back), expected, rtol=0, atol=1e-6)
    for outputs in ((moments, came_back), expected):
        sum(output.square().mean() for output in outputs).backward()
    for (name, mine), given in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(mine.grad, given.grad, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("half", [Encoder, Decoder])
def test_checkpointing_changes_memory_alone(half):
    torch.manual_seed(0)
    network, x = half(3, 4, (8, 16), 1, 4, attention=(1,)), torch.rand(2, 3, 8, 8)
    kept, gradients, numbers = [], [], []
    for network.checkpointing in (False, True):
        network.zero_grad()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            total = network(x).square().mean()
        numbers.append(sum(kept))
        total.backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert all(map(torch.equal, *gradients)) and numbers[1] < numbers[0] / 2


@pytest.mark.parametrize("kind", ["kl_vae", "vq", "bae"])
def test_every_tokenizer_of_convolutions_recomputes_where_asked(kind):
    model = build("tokenizer", kind, {"size": "tiny"})
    model.gradient_checkpointing(True)
    halves = [module for module in model.modules() if isinstance(module, Encoder | Decoder)]
    assert len(halves) == 2 and all(half.checkpointing for half in halves)
    model.gradient_checkpointing(False)
    assert not any(half.checkpointing for half in halves)
