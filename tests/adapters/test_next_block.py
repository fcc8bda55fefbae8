"""Published NBP files: Lightning's form, arguments beside the weights, other keys, blocks in raster order."""

from argparse import Namespace

import pytest
import torch

from nextok_mm import registry
from nextok_mm.adapters.next_block import block_shape, read


def official(model) -> dict[str, torch.Tensor]:
    """A model's weights under the published names."""
    state = {
        "transformer.tok_emb.weight": model.embed.table.weight,
        "transformer.pos_emb": model.backbone.positions[None],
        "transformer.ln_f.weight": model.backbone.norm_out.weight,
        "transformer.ln_f.bias": model.backbone.norm_out.bias,
        "transformer.head.weight": model.head.logits.weight,
        "first_stage_model.encoder_layers.0.conv.weight": torch.zeros(1),
    }
    if model.none is not None:
        state["transformer.uncond_embedding"] = model.none
    for index, block in enumerate(model.backbone.blocks):
        name = f"transformer.blocks.{index}"
        for part in ("weight", "bias"):
            query, key, value = getattr(block.attention.qkv, part).chunk(3)
            state |= {f"{name}.attn.query.{part}": query, f"{name}.attn.key.{part}": key}
            state |= {
                f"{name}.attn.value.{part}": value,
                f"{name}.attn.proj.{part}": getattr(block.attention.out, part),
            }
            state |= {
                f"{name}.ln1.{part}": getattr(block.norm1, part),
                f"{name}.ln2.{part}": getattr(block.norm2, part),
            }
            state |= {f"{name}.mlp.0.{part}": getattr(block.mlp.up, part)}
            state |= {f"{name}.mlp.2.{part}": getattr(block.mlp.out, part)}
    return {key: value.detach() for key, value in state.items()}


@pytest.mark.parametrize("fields", [{"start": "given"}, {"classes": 20, "condition": 8}], ids=["k600", "ucf"])
def test_a_lightning_file_is_read(tmp_path, fields):
    model = registry.build(
        "generator",
        "next_block",
        {"grid": (5, 4, 4), "block": (1, 1, 4), "width": 8, "heads": 2, "depth": 2, "positions": 100, **fields},
    )
    arguments = Namespace(sequence_length=17, resolution=32, token_number_per_step=4, n_head=2, n_embd=8)
    path = tmp_path / "x.ckpt"
    weights = {f"module.{key}": value for key, value in official(model).items()}
    torch.save({"state_dict": weights, "hyper_parameters": {"args": arguments}, "epoch": 1}, path)
    found, state = read(path)
    loaded = registry.build("generator", "next_block", found)
    loaded.load_state_dict(state)
    same = {"sampling"}
    assert loaded.config.model_dump(exclude=same) == model.config.model_dump(exclude=same)
    assert loaded.config.sampling.top_k == 16_000 and loaded.config.sampling.top_p == 0.9
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_another_file_is_one_line(tmp_path):
    torch.save({"state_dict": {"transformer.x": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="NBP checkpoint: not in the official form"):
        read(tmp_path / "x.ckpt")


def test_blocks_in_raster_order():
    grid = (5, 16, 16)
    wanted = {1: (1, 1, 1), 8: (1, 1, 8), 16: (1, 1, 16), 64: (1, 4, 16), 256: (1, 16, 16), 1280: (5, 16, 16)}
    assert {size: block_shape(size, grid) for size in wanted} == wanted
    with pytest.raises(ValueError, match="blocks of 24 codes"):
        block_shape(24, grid)
