"""Published xAR files: what is read, what is refused, and that a converted folder loads to the same model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nextok_mm import registry
from nextok_mm.adapters import xar
from nextok_mm.checkpoint import from_pretrained, save_pretrained

OFFICIAL = Path(__file__).parents[1] / "parity" / "reference" / "xar_tiny.safetensors"


@pytest.fixture
def official():
    return load_file(OFFICIAL)


def test_a_training_checkpoint_gives_its_averaged_weights(official, tmp_path):
    averaged = {key: value + 1 for key, value in official.items()}
    torch.save({"model": official, "model_ema": averaged, "epoch": 799}, tmp_path / "xAR.pth")
    fields, state = xar.read(tmp_path / "xAR.pth")
    assert torch.equal(state["embed.weight"], averaged["z_proj.weight"])
    assert fields["width"] == 96 and fields["depth"] == 4 and fields["heads"] == 4 and fields["classes"] == 1000


def test_a_converted_folder_loads(official, tmp_path):
    torch.save(official, tmp_path / "xAR.pth")
    fields, state = xar.read(tmp_path / "xAR.pth")
    model = registry.build("generator", "xar", fields)
    model.load_state_dict(state)
    save_pretrained(model, tmp_path / "converted", name="xar-tiny", license=xar.LICENSE)
    loaded, card = from_pretrained(tmp_path / "converted")
    assert card.license == xar.LICENSE
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in state.items())


def test_keys_of_parallel_training_are_understood(official, tmp_path):
    torch.save({f"module.{key}": value for key, value in official.items()}, tmp_path / "xAR.pth")
    assert torch.equal(xar.read(tmp_path / "xAR.pth")[1]["embed.weight"], official["z_proj.weight"])


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda w: w.update(surprise=torch.zeros(1)), "surprise"),
        (lambda w: w.pop("encoder_pos_embed_learned"), "encoder_pos_embed_learned"),
        (lambda w: w.pop("decoder_blocks.1.mlp.fc1_g.weight"), "decoder_blocks.1.mlp.fc1_g.weight"),
        (lambda w: w.update(encoder_pos_embed_learned=torch.zeros(1, 250, 96)), "positions"),
    ],
)
def test_another_form_is_refused_by_name(official, damage, word):
    damage(official)
    with pytest.raises(ValueError, match=word) as error:
        xar.convert(official)
    assert "xAR checkpoint" in str(error.value) and "\n" not in str(error.value)
