"""Published NBP files: Lightning's form, arguments beside the weights, other keys, blocks in raster order."""

from argparse import Namespace

import pytest
import torch

from nextok_mm import registry
from nextok_mm.adapters.next_block import block_shape, read
from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.rng import Rng


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


def class_first(positions: int):
    """A model whose class is known and whose first frame is given, and its official weights with their spare id."""
    torch.manual_seed(0)
    fields = {"grid": (5, 4, 4), "block": (1, 1, 4), "width": 8, "heads": 2, "depth": 2, "positions": positions}
    model = registry.build("generator", "next_block", {**fields, "classes": 7, "start": "given"})
    weights = official(model)
    for table in ("transformer.tok_emb.weight", "transformer.head.weight"):
        weights[table] = torch.cat((weights[table], torch.full((1, 8), 9.0)))
    return model, weights


@pytest.mark.parametrize("told", [{"hybrid": False, "class_cond_dim": 7}, {"hybrid": False}, {"class_cond_dim": 7}, {}])
def test_a_model_of_classes_whose_first_frames_are_given_is_no_hybrid_one(tmp_path, told):
    shapes_tell = "hybrid" not in told  # too few places for the begin and the fillers of a hybrid input
    model, weights = class_first(80 if shapes_tell else 100)
    arguments = Namespace(sequence_length=17, resolution=32, token_number_per_step=4, n_head=2, **told)
    torch.save({"state_dict": weights, "hyper_parameters": {"args": arguments}}, tmp_path / "x.ckpt")
    found, state = read(tmp_path / "x.ckpt")
    assert (found["start"], found["classes"], found["condition"]) == ("given", 7, 1)
    loaded = registry.build("generator", "next_block", found)
    loaded.load_state_dict(state)
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    "told, words",
    [
        ({"hybrid": False, "starts_with_bov": True}, "starts_with_bov: got true without hybrid"),
        ({"hybrid": False, "class_cond_dim": 9}, "for 9 classes"),
        ({"hybrid": True, "class_cond_dim": 7}, "for 7 classes"),
    ],
)
def test_what_the_arguments_and_the_shapes_say_has_to_agree(tmp_path, told, words):
    _, weights = class_first(100)
    arguments = Namespace(sequence_length=17, resolution=32, token_number_per_step=4, n_head=2, **told)
    torch.save({"state_dict": weights, "hyper_parameters": {"args": arguments}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=words) as error:
        read(tmp_path / "x.ckpt")
    assert "\n" not in str(error.value)


def plain_logits(w: dict[str, torch.Tensor], ids: torch.Tensor, block: int) -> torch.Tensor:
    """The official network by its description: [class | block 0 | block 1 ...], the class seen by all, blocks whole."""
    length = len(ids)
    part = (torch.arange(length) + block - 1) // block  # the class is part 0
    seen = part[:, None] >= part[None]
    x = w["transformer.tok_emb.weight"][ids] + w["transformer.pos_emb"][0, :length]
    layer = torch.nn.functional
    for index in range(2):
        name = f"transformer.blocks.{index}"

        def linear(y: torch.Tensor, part: str, name: str = name) -> torch.Tensor:
            return layer.linear(y, w[f"{name}.{part}.weight"], w[f"{name}.{part}.bias"])

        y = layer.layer_norm(x, (8,), w[f"{name}.ln1.weight"], w[f"{name}.ln1.bias"])
        heads = [linear(y, f"attn.{what}").view(length, 2, 4).transpose(0, 1) for what in ("query", "key", "value")]
        scores = (heads[0] @ heads[1].transpose(1, 2) / 2).masked_fill(~seen, float("-inf"))
        x = x + linear((scores.softmax(-1) @ heads[2]).transpose(0, 1).reshape(length, 8), "attn.proj")
        y = layer.layer_norm(x, (8,), w[f"{name}.ln2.weight"], w[f"{name}.ln2.bias"])
        x = x + linear(layer.gelu(linear(y, "mlp.0")), "mlp.2")
    x = layer.layer_norm(x, (8,), w["transformer.ln_f.weight"], w["transformer.ln_f.bias"])
    return layer.linear(x, w["transformer.head.weight"])


def test_a_class_then_given_frames_is_what_the_official_network_computes():
    model, weights = class_first(100)
    model.eval()
    codes, labels = torch.randint(64_000, (2, 80)), torch.tensor([[3], [6]])
    ours = model.logits(codes, labels, torch.zeros(2, dtype=torch.bool))
    for row in range(2):
        ids = torch.cat((labels[row], codes[row, :-4] + 7))
        theirs = plain_logits(weights, ids, block=4)[1:, :-1]  # without the spare id
        torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-5)
    known = Known(codes, torch.arange(80) < 16)
    greedy = {"temperature": 0.0, "special": False}
    plain, uncached = (
        list(
            decode(
                model, model.start({"labels": labels[:, 0]}, Rng([1, 2]), model.Sampling(**greedy, cache=cache), known)
            )
        )[-1].data
        for cache in (True, False)
    )
    assert torch.equal(plain, uncached) and torch.equal(plain[:, :16], codes[:, :16])
    again = model.logits(plain, labels, torch.zeros(2, dtype=torch.bool))[:, 12:, 7:].argmax(-1)
    assert torch.equal(again, plain[:, 16:])
    with pytest.raises(ValueError, match="accepted: its codes; next_block with start 'given'"):
        model.start({"labels": labels[:, 0]}, Rng([1, 2]))


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
