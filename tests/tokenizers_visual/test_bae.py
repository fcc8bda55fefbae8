"""What is special to BAE: bits and codes, chance by row, training terms, geometry."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.contracts import Tokens
from nextok_mm.quantizers.binary import BinaryQuantizer
from nextok_mm.rng import Rng
from tokenizers_visual._losses import FrozenFeatures


def build(**fields):
    torch.manual_seed(0)
    return registry.build("tokenizer", "bae", {"size": "tiny", **fields}).eval()


def test_bits_spell_codes_and_back():
    quantizer = BinaryQuantizer(5, 8)
    codes = torch.arange(32).view(2, 4, 4)
    bits = quantizer.to_bits(codes)
    assert torch.equal(quantizer.to_codes(bits), codes)
    assert bits[1, :, 0, 1].tolist() == [1, 0, 0, 0, 1]  # 17, the first bit counts most
    torch.testing.assert_close(quantizer.embed(bits)[1, :, 0, 1], quantizer.vectors.weight[[0, 4]].sum(0))


def test_bits_are_drawn_by_their_chance_row_by_row():
    quantizer = BinaryQuantizer(3, 8)
    chances = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, 40, 40)
    bits = quantizer.bits(chances, Rng([1, 2]))
    torch.testing.assert_close(bits.mean((0, 2, 3)), torch.tensor([0.1, 0.5, 0.9]), atol=0.03, rtol=0)
    assert torch.equal(bits[1:], quantizer.bits(chances[1:], Rng([2])))
    assert quantizer.bits(chances)[0, :, 0, 0].tolist() == [0, 0, 1]
    even = torch.stack((torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))).flatten(0, 1)
    assert quantizer.entropy(even) == pytest.approx(1) and quantizer.entropy(even[:1]) < 0.01


def test_a_certain_bit_is_drawn_in_any_precision():
    """A uniform number that bf16 would round to 1 is still below a chance of 1."""

    class Largest(Rng):
        def uniform(self, *shape, like=None):
            drawn = torch.full((len(self), *shape), 1 - 2**-24)
            return drawn if like is None else drawn.to(like)

    chances = torch.ones(2, 5, 1, 1)
    for dtype in (torch.float32, torch.bfloat16):
        assert BinaryQuantizer(5, 8).bits(chances.to(dtype), Largest([1, 2])).all()


def test_a_model_that_is_not_stochastic_draws_nothing():
    images = torch.rand(2, 1, 8, 8)
    for stochastic in (True, False):
        model = build(stochastic=stochastic)
        drawn, certain = model.encode(images, Rng([1, 2])).data, model.encode(images).data
        assert torch.equal(drawn, certain) is not stochastic


def test_every_term_of_the_loss(monkeypatch):
    model = build(bits_weight=1.0, adversarial={"width": 8, "depth": 1}, perceptual={"net": "none"}).train()
    monkeypatch.setattr(FrozenFeatures, "on", lambda self, device: type("Net", (), {"maps": lambda _, x: [x]})())
    loss = model.loss(model.example(2, Rng([1, 2])), Rng([1, 2]))
    assert set(loss.parts) == {"pixel", "undecided", "perceptual", "adversarial", "discriminator", "entropy"}
    loss.total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_published_geometry():
    with torch.device("meta"):
        model = registry.build("tokenizer", "bae", {"size": "bae20"})
    assert model.grid((256, 256)) == (16, 16) and model.num_codes == 2**20 and model.config.stride == 16
    attended = [len(getattr(block, "attentions", [])) for block in model.encoder.down_blocks]
    assert attended == [0, 0, 0, 0, 2] and len(model.decoder.up_blocks[0].resnets) == 2


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"groups": 5}, "multiples of groups 5"),
        ({"attention": (2,)}, "attention"),
        ({"image_size": (9, 8)}, "stride 2"),
    ],
)
def test_a_wrong_field_is_one_line(fields, word):
    with pytest.raises(ValueError, match=word) as error:
        build(**fields)
    assert "\n" not in str(error.value)


def test_codes_out_of_range_are_one_line():
    with pytest.raises(ValueError, match="codes: got 0 to 64, accepted: 0 to 63"):
        build().decode(Tokens(torch.arange(65)[None, -1:].repeat(1, 16) * (torch.arange(16) > 0), (4, 4)))
    with pytest.raises(ValueError, match="codes: got torch.float32"):
        build().decode(Tokens(torch.zeros(1, 16), (4, 4)))
