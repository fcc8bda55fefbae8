"""Published FlexTok files: their composition is read as data, and what isn't known is refused by its name."""

import ast
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nextok_mm import registry
from nextok_mm.adapters.flextok import convert, note, read
from nextok_mm.checkpoint import from_pretrained, save_pretrained
from nextok_mm.cli import app
from tests.parity.conftest import FOLDER

FILE = Path(__file__).parents[1] / "parity" / "reference" / "flextok_tiny.safetensors"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no reference numbers in {FOLDER}")


@pytest.fixture
def published() -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    with safe_open(FILE, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, {
            name: ast.literal_eval(text) for name, text in opened.metadata().items()
        }


def module(described, half: str, name: str) -> dict:
    return described[half]["module_dict"][name]


def refused(weights, described) -> str:
    with pytest.raises(ValueError, match="flextok") as error:
        convert(weights, described)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_names_of_parts_are_free(published):
    weights, described = published
    fields, state = convert(weights, described)
    for half in ("encoder", "decoder"):
        parts = described[half]["module_dict"]
        names = {name: f"part{i}" for i, name in enumerate(parts)}
        described[half]["module_dict"] = {names[name]: part for name, part in parts.items()}
        for key in [key for key in weights if key.startswith(half)]:
            _, _, name, rest = key.split(".", 3)
            weights[f"{half}.module_dict.{names[name]}.{rest}"] = weights.pop(key)
    again, tensors = convert(weights, described)
    assert again == fields and all(torch.equal(tensors[name], value) for name, value in state.items())


def test_nothing_that_a_file_names_is_imported(published, tmp_path):
    weights, described = published
    module(described, "encoder", "enc_patch_emb")["_target_"] = "os.system"
    assert "unknown part 'system'" in refused(weights, described)
    trap = tmp_path / "sprung"
    described["encoder"] = f"__import__('os').mkdir({str(trap)!r})"
    assert "not plain data" in refused(weights, described)
    assert not os.path.exists(trap)


@pytest.mark.parametrize("target", ["take", "linear", "only", "_init__", "_class__", "_setattr__", "", "x.y.take"])
def test_a_part_is_never_a_method_that_is_none(published, target):
    weights, described = published
    module(described, "decoder", "dec_time")["_target_"] = f"flextok.{target}"
    assert f"unknown part {target.rpartition('.')[2]!r} in the decoder" in refused(weights, described)


@pytest.mark.parametrize(
    "half, name, field, value",
    [
        ("encoder", "enc_transformer", "head_dim", 0),
        ("encoder", "enc_transformer", "depth", "__import__('os')"),
        ("encoder", "enc_patch_emb", "patch_sizes", None),
        ("decoder", "dec_posembs", "max_sizes", "big"),
        ("decoder", "dec_posembs", "read_key", ["patches"]),
        ("decoder", "dec_time", "max_timestep", 0.0),
    ],
)
def test_fields_of_another_type_are_one_line(published, half, name, field, value):
    weights, described = published
    module(described, half, name)[field] = value
    refused(weights, described)


def test_a_config_beside_the_weights_is_read_as_data(published, tmp_path):
    weights, described = published
    save_file(weights, tmp_path / "model.safetensors")
    fields, _ = convert(dict(weights), described)
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert read(tmp_path)[0] == fields
    for text, words in (("{", "not JSON"), ("[1]", "got list"), ("[" * 100_000, "not JSON")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=words) as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


def test_a_description_too_deep_or_too_long_is_refused(published):
    weights, described = published
    for text in ("{" * 5000, "[" * 100_000, "x" * (1 << 21)):
        assert "description of" in refused(weights, {**described, "encoder": text})


@pytest.mark.parametrize(
    "half, name, field, value",
    [
        ("encoder", "enc_transformer", "qk_norm", False),
        ("encoder", "enc_seq_packer", "mask_mode", "sideways"),
        ("encoder", "enc_posembs", "posemb_type", "rotary"),
        ("decoder", "dec_transformer", "adaLN_expansion", 3),
        ("decoder", "dec_to_patches", "use_mup_readout", True),
        ("decoder", "dec_patch_emb", "patch_sizes", [2, 4]),
    ],
)
def test_a_composition_that_is_not_built_is_refused_by_name(published, half, name, field, value):
    weights, described = published
    module(described, half, name)[field] = value
    assert str(value) in refused(weights, described)


def test_another_order_of_patches_and_registers_is_refused(published):
    weights, described = published
    module(described, "encoder", "enc_seq_packer")["input_list_read_keys"].reverse()
    assert "accepted: patches, then registers" in refused(weights, described)


def test_missing_and_unknown_keys_are_named(published):
    weights, described = published
    assert "nobody" in refused({**weights, "encoder.module_dict.nobody.weight": torch.zeros(1)}, described)
    assert "'regularizer' is missing" in refused(weights, {k: v for k, v in described.items() if k != "regularizer"})
    gone = "decoder.module_dict.dec_transformer.blocks.1.attn.wq.weight"
    del weights[gone]
    assert gone in refused(weights, described)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    for path in (tmp_path / "x.safetensors", tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(ValueError, match="not a safetensors file"):
            read(path)


VAE = {"_target_": "flextok.vae_wrapper.StableDiffusionVAE", "latent_channels": 4, "scaling_factor": 0.3}


def autoencoder():
    """A small one of the published VAE's class and form: 4 latent channels, stride 4."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.7,
    ).eval()


def cli(weights, described, folder, *more) -> Path:
    """`nextok convert flextok` of a file with that content -> our checkpoint."""
    file = folder / "model.safetensors"
    save_file(weights, file, metadata={name: str(value) for name, value in described.items()})
    app(["convert", "flextok", str(file), str(folder / "ours"), *map(str, more)], standalone_mode=False)
    return folder / "ours"


@torch.no_grad()
def sees_pictures(folder, net, scale) -> None:
    """The checkpoint makes and reads the latents of `net` times `scale`, and goes from pictures to pictures."""
    model, card = from_pretrained(folder)
    assert model.config.image_size == (64, 64) and model.config.image_channels == 3 and card.tokenizer is None
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    latents = net.encode(images * 2 - 1).latent_dist.mean * scale
    torch.testing.assert_close(model.to_latents(images), latents, rtol=1e-4, atol=1e-5)
    pictures = (net.decode(latents / scale).sample * 0.5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(model.to_images(latents), pictures, rtol=1e-4, atol=1e-5)
    tokens = model.encode(images)
    assert model.decode(tokens, sampling=model.Sampling(steps=1)).shape == images.shape


def test_a_vae_in_the_file_is_a_part_of_the_model(published, tmp_path, capsys):
    weights, described = published
    net = autoencoder()
    held = {f"vae.vae.{name}": value for name, value in net.state_dict().items()}
    folder = cli({**weights, **held, "vae.logvar": torch.zeros(())}, {**described, "vae": VAE}, tmp_path)
    sees_pictures(folder, net, 0.3)
    assert "VAE" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("described_scale", [None, 0.3])
@pytest.mark.parametrize("ours", [True, False], ids=["kl_vae", "diffusers"])
def test_a_vae_that_lies_elsewhere_is_attached(published, tmp_path, ours, described_scale):
    weights, described = published
    net, given = autoencoder(), tmp_path / "theirs"
    net.save_pretrained(given)
    if ours:
        app(["convert", "kl_vae", str(given), str(tmp_path / "vae")], standalone_mode=False)
        given = tmp_path / "vae"
    described = {**described, "vae": {**VAE, "scaling_factor": described_scale, "hf_hub_path": "owner/name"}}
    sees_pictures(cli(weights, described, tmp_path, "--tokenizer", given), net, described_scale or 0.7)


def test_an_attached_vae_takes_the_place_of_the_files_own(published, tmp_path):
    weights, described = published
    net, other = autoencoder(), autoencoder()
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    other.save_pretrained(tmp_path / "theirs")
    held = {f"vae.vae.{name}": value for name, value in net.state_dict().items()}
    folder = cli({**weights, **held}, {**described, "vae": VAE}, tmp_path, "--tokenizer", tmp_path / "theirs")
    sees_pictures(folder, other, 0.3)


def test_without_a_vae_it_works_on_latents_and_says_so(published, tmp_path, capsys):
    weights, described = published
    model, _ = from_pretrained(cli(weights, described, tmp_path))
    said = capsys.readouterr().err
    assert model.vae is None and model.config.image_channels == 4 and model.config.image_size == (16, 16)
    assert said.count("\n") == 1 and "holds no VAE" in said and "--tokenizer" in said
    assert note(model.config.model_dump())


def test_a_vae_that_does_not_fit_is_one_line(published, tmp_path):
    weights, described = published
    held = {f"vae.vae.{name}": value for name, value in autoencoder().state_dict().items()}
    both = {**weights, **held}
    fields, _ = convert(both, described)  # nothing says its scale: on latents, as without one
    assert fields.get("vae") is None and "scaling_factor" in str(note(fields))
    assert "unknown part 'system'" in refused(both, {**described, "vae": {"_target_": "os.system"}})
    for scale in ("big", 0, float("nan"), True):
        assert "vae.scaling_factor: got" in refused(both, {**described, "vae": {**VAE, "scaling_factor": scale}})
    assert "unknown key 'vae.surprise'" in refused({**both, "vae.surprise": torch.zeros(1)}, {**described, "vae": VAE})
    del both["vae.vae.encoder.conv_in.weight"]
    with pytest.raises(ValueError, match=r"not in diffusers' form: 'encoder.conv_in.weight'"):
        convert(both, {**described, "vae": VAE})
    save_pretrained(registry.build("tokenizer", "kl_vae", {"size": "tiny", "latent_channels": 8}), tmp_path / "vae")
    save_pretrained(registry.build("tokenizer", "flextok", {"size": "tiny"}), tmp_path / "flextok")
    with pytest.raises(ValueError, match="a VAE of 8 latent channels, accepted: 4"):
        cli(weights, described, tmp_path, "--tokenizer", tmp_path / "vae")
    with pytest.raises(ValueError, match="it holds a flextok, accepted here: a kl_vae"):
        cli(weights, described, tmp_path, "--tokenizer", tmp_path / "flextok")
