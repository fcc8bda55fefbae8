"""Published VAEs: weights under CompVis' names compute the same in ours as in an independent reading of theirs."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from nextok_mm.adapters import kl_vae as adapter
from nextok_mm.contracts import Tokens
from nextok_mm.registry import build

LEVELS, LAYERS, LATENTS, WIDTHS = 3, 2, 4, (32, 32, 64)


def compvis_state(seed=0):
    """Random weights under CompVis' names: three levels, attention in the last encoder level, as MAR's KL-16."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def conv(name, c_in, c_out, kernel=3):
        scale = (c_in * kernel**2) ** -0.5
        state[f"{name}.weight"] = torch.randn(c_out, c_in, kernel, kernel, generator=generator) * scale
        state[f"{name}.bias"] = torch.randn(c_out, generator=generator) * 0.1

    def norm(name, width):
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)

    def resnet(name, c_in, c_out):
        norm(f"{name}.norm1", c_in)
        conv(f"{name}.conv1", c_in, c_out)
        norm(f"{name}.norm2", c_out)
        conv(f"{name}.conv2", c_out, c_out)
        if c_in != c_out:
            conv(f"{name}.nin_shortcut", c_in, c_out, 1)

    def attention(name, width):
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def middle(half):
        resnet(f"{half}.mid.block_1", WIDTHS[-1], WIDTHS[-1])
        attention(f"{half}.mid.attn_1", WIDTHS[-1])
        resnet(f"{half}.mid.block_2", WIDTHS[-1], WIDTHS[-1])

    conv("encoder.conv_in", 3, WIDTHS[0])
    width = WIDTHS[0]
    for level in range(LEVELS):
        for index in range(LAYERS):
            resnet(f"encoder.down.{level}.block.{index}", width, WIDTHS[level])
            width = WIDTHS[level]
            if level == LEVELS - 1:
                attention(f"encoder.down.{level}.attn.{index}", width)
        if level != LEVELS - 1:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
    middle("encoder")
    norm("encoder.norm_out", width)
    conv("encoder.conv_out", width, 2 * LATENTS)
    conv("quant_conv", 2 * LATENTS, 2 * LATENTS, 1)
    conv("post_quant_conv", LATENTS, LATENTS, 1)
    conv("decoder.conv_in", LATENTS, width)
    middle("decoder")
    for level in reversed(range(LEVELS)):
        for index in range(LAYERS + 1):
            resnet(f"decoder.up.{level}.block.{index}", width, WIDTHS[level])
            width = WIDTHS[level]
        if level:
            conv(f"decoder.up.{level}.upsample.conv", width, width)
    norm("decoder.norm_out", width)
    conv("decoder.conv_out", width, 3)
    return state


class CompVis:
    """The network of the LDM paper as functions of a state dict: the oracle."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, **kwargs):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **kwargs)

    def norm(self, x, name):
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

    def resnet(self, x, name):
        y = self.conv(F.silu(self.norm(x, f"{name}.norm1")), f"{name}.conv1", padding=1)
        y = self.conv(F.silu(self.norm(y, f"{name}.norm2")), f"{name}.conv2", padding=1)
        return y + (self.conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.state else x)

    def attention(self, x, name):
        if f"{name}.q.weight" not in self.state:
            return x
        y = self.norm(x, f"{name}.norm")
        q, k, v = (self.conv(y, f"{name}.{part}").flatten(2) for part in "qkv")
        weights = (torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(-1)
        return x + self.conv(torch.einsum("bij,bcj->bci", weights, v).view_as(x), f"{name}.proj_out")

    def middle(self, x, half):
        x = self.attention(self.resnet(x, f"{half}.mid.block_1"), f"{half}.mid.attn_1")
        return self.resnet(x, f"{half}.mid.block_2")

    def end(self, x, half):
        return self.conv(F.silu(self.norm(x, f"{half}.norm_out")), f"{half}.conv_out", padding=1)

    def mean(self, x):
        x = self.conv(x, "encoder.conv_in", padding=1)
        for level in range(LEVELS):
            for index in range(LAYERS):
                x = self.resnet(x, f"encoder.down.{level}.block.{index}")
                x = self.attention(x, f"encoder.down.{level}.attn.{index}")
            if level != LEVELS - 1:
                x = self.conv(F.pad(x, (0, 1, 0, 1)), f"encoder.down.{level}.downsample.conv", stride=2)
        return self.conv(self.end(self.middle(x, "encoder"), "encoder"), "quant_conv").chunk(2, 1)[0]

    def decode(self, z):
        x = self.middle(self.conv(self.conv(z, "post_quant_conv"), "decoder.conv_in", padding=1), "decoder")
        for level in reversed(range(LEVELS)):
            for index in range(LAYERS + 1):
                x = self.resnet(x, f"decoder.up.{level}.block.{index}")
                x = self.attention(x, f"decoder.up.{level}.attn.{index}")
            if level:
                x = self.conv(
                    x.repeat_interleave(2, 2).repeat_interleave(2, 3), f"decoder.up.{level}.upsample.conv", padding=1
                )
        return self.end(x, "decoder")


def loaded(fields, state):
    model = build("tokenizer", "kl_vae", {**fields, "image_size": (16, 16)}).eval()
    model.load_state_dict(state)
    return model


def test_compvis_weights_compute_the_same():
    state = compvis_state()
    fields, ours = adapter.convert({**state, "loss.logvar": torch.zeros(())})
    assert fields["encoder_attention"] == (2,) and fields["decoder_attention"] == ()
    model = loaded({**fields, "scale": 0.5, "shift": 0.25}, ours)
    oracle = CompVis(state)
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model.encode(images)
        latents = oracle.mean(images * 2 - 1)
        assert tokens.grid == (4, 6)
        torch.testing.assert_close(tokens.data, ((latents - 0.25) * 0.5).flatten(2).mT, rtol=1e-4, atol=1e-5)
        pictures = (oracle.decode(latents) * 0.5 + 0.5).clamp(0, 1)
        torch.testing.assert_close(model.decode(tokens), pictures, rtol=1e-4, atol=1e-5)
        other = Tokens(tokens.data.flip(0), tokens.grid)
        assert not torch.allclose(model.decode(other), pictures, atol=1e-3)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_a_file_is_read(tmp_path, wrapper):
    state = compvis_state()
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "kl.ckpt")
    fields, ours = adapter.read(tmp_path / "kl.ckpt")
    assert fields["block_channels"] == WIDTHS and fields["latent_channels"] == LATENTS
    assert len(ours) == len(state)


def test_the_published_geometry_gets_its_scale():
    with torch.device("meta"):
        model = build("tokenizer", "kl_vae", {"size": "kl16"})
    assert sum(p.numel() for p in model.parameters()) == 66_456_019
    fields = model.config.model_dump()
    theirs = {new: old for old, new in adapter._compvis_names(fields).items()}
    compvis = {}
    for key, value in model.net.state_dict().items():
        module, _, leaf = key.rpartition(".")
        is_matrix = ".to_" in key and value.ndim == 2
        compvis[f"{theirs[module]}.{leaf}"] = value[:, :, None, None] if is_matrix else value
    found, ours = adapter.convert(compvis)
    assert {name: fields[name] for name in found} == found and found["scale"] == 0.2325
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_an_unknown_key_is_named():
    with pytest.raises(ValueError, match=r"unknown key 'encoder.extra.weight'"):
        adapter.convert({**compvis_state(), "encoder.extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"not in CompVis' form"):
        adapter.convert({"a.weight": torch.zeros(1)})


@pytest.fixture
def diffusers_folder(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.7,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    net.save_pretrained(tmp_path)
    return net, tmp_path


def test_a_diffusers_folder_computes_the_same(diffusers_folder):
    net, folder = diffusers_folder
    model = loaded(*adapter.read(folder))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latents = net.encode(images * 2 - 1).latent_dist.mean
        torch.testing.assert_close(model.encode(images).data, ((latents - 0.1) * 0.7).flatten(2).mT)
        expected = (net.decode(latents).sample * 0.5 + 0.5).clamp(0, 1)
        torch.testing.assert_close(model.reconstruct(images), expected, rtol=1e-4, atol=1e-5)


def test_old_attention_names_are_read(diffusers_folder):
    net, folder = diffusers_folder
    old = {new: old for old, new in adapter._OLD_ATTENTION.items()}
    state = {}
    for key, value in net.state_dict().items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        state[key] = value
    assert any(".proj_attn." in key for key in state)
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    loaded(*adapter.read(folder))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"act_fn": "relu"}, "act_fn: got 'relu'"),
        ({"out_channels": 4}, "out_channels: got 4"),
        ({"surprise": 1}, "unknown: surprise"),
        ({"block_out_channels": None}, "config.json"),
    ],
)
def test_a_diffusers_config_we_cannot_run_is_refused(diffusers_folder, change, message):
    _, folder = diffusers_folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        adapter.read(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        adapter.read(tmp_path)
