"""The block and the backbone: against plain formulas, torch's own modules, and every switch of the config."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nextok_mm.sequence import Backbone, BackboneConfig, KVCache, make_layout
from nextok_mm.sequence.blocks import BlockConfig, Modulation, Norm
from nextok_mm.sequence.masks import block_causal, causal
from nextok_mm.sequence.rope import rope_table, rotate

LAYOUT = make_layout("cell", (4, 4), 2)
BASE = dict(width=32, heads=2, depth=3, mlp_hidden=48, positions=16, midway=2, norm_in=True, modulated=True)


def backbone(**fields) -> Backbone:
    torch.manual_seed(0)
    model = Backbone(BackboneConfig(**{**BASE, **fields}), LAYOUT.positions).eval()
    with torch.no_grad():  # norm weights start at one and biases at zero: move them, so that their absence shows
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(model: Backbone, x: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    return model(x, block_causal(LAYOUT.sizes), LAYOUT.sizes, cond)


def test_norms_equal_torch():
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(Norm(16)(x), nn.RMSNorm(16, eps=1e-6)(x))
    torch.testing.assert_close(Norm(16, "layer")(x), nn.LayerNorm(16, eps=1e-6)(x))
    assert Norm(16, affine=False).weight is None


def test_rope_turns_pairs_by_position():
    table = rope_table(LAYOUT.positions, 16)
    x = torch.randn(1, 16, 1, 16)
    as_complex = torch.view_as_complex(x.unflatten(-1, (8, 2)))
    rates = 10000.0 ** (-torch.arange(4) / 4)
    angle = torch.cat([LAYOUT.positions[:, :1] * rates, LAYOUT.positions[:, 1:] * rates], dim=-1)
    expected = torch.view_as_real(as_complex * torch.polar(torch.ones_like(angle), angle)[None, :, None]).flatten(-2)
    torch.testing.assert_close(rotate(x, table), expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rope_depends_on_distance_alone(axes):
    """<rotate(q, m), rotate(k, n)> is the same for all pairs m, n at the same distance, and another at another."""
    positions = torch.arange(8.0)[:, None].expand(8, axes) * torch.tensor([1.0, 2.0, 3.0][:axes])
    q, k = torch.randn(2, 1, 1, 1, 20).expand(2, 1, 8, 1, 20)
    table = rope_table(positions, 20)
    scores, nearer = ((rotate(q, table) * rotate(k, table).roll(-by, 1)).sum(-1)[0, :5, 0] for by in (3, 1))
    torch.testing.assert_close(scores, scores[:1].expand(5), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(scores, nearer).any()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rope_gives_every_axis_channels_of_its_own(axes):
    """A step along one axis turns that axis' pairs and no other's."""
    still = rope_table(torch.zeros(1, axes), 12)
    owners = []
    for axis in range(axes):
        turned = rope_table(torch.eye(axes)[axis : axis + 1], 12)
        owners.append((turned != still).any(-1)[0])
    assert (
        torch.stack(owners).sum(0).tolist() == [1] * 6 and [int(owner.sum()) for owner in owners] == [6 // axes] * axes
    )


def test_rope_refuses_a_head_that_cannot_turn():
    with pytest.raises(ValueError, match="head dim"):
        rope_table(torch.zeros(4, 3), 4)


def test_modulation_of_even_and_uneven_entities():
    vectors = torch.randn(2, 2, 6, 8)
    x = torch.randn(2, 6, 8)
    for sizes in ((3, 3), (1, 5)):
        m = Modulation(vectors, sizes)
        per_token = vectors.repeat_interleave(torch.tensor(sizes), dim=1)
        torch.testing.assert_close(m.enter(x, m.attention), x * (1 + per_token[:, :, 2]) + per_token[:, :, 4])
        torch.testing.assert_close(m.leave(x, 2 * x, m.mlp), x + 2 * x * per_token[:, :, 1])


@pytest.mark.parametrize(
    "field, value",
    [
        ("mlp", "geglu"),
        ("mlp", "gelu"),
        ("mlp_hidden", 40),
        ("norm", "layer"),
        ("norm_affine", False),
        ("norm_eps", 0.1),
        ("qk_norm", True),
        ("bias", False),
        ("modulated", False),
        ("positions", 0),
        ("rope", False),
        ("rope_theta", 10.0),
        ("midway", 0),
        ("norm_in", False),
        ("depth", 4),
        ("heads", 4),
    ],
)
def test_every_switch_changes_the_function(field, value):
    x, cond = torch.randn(1, 16, 32), torch.randn(1, 4, 32)
    other = backbone(**{field: value})
    same_names = {n: p for n, p in backbone().state_dict().items() if n in other.state_dict()}
    other.load_state_dict({n: p for n, p in same_names.items() if p.shape == other.state_dict()[n].shape}, strict=False)
    assert not torch.allclose(run(other, x, cond), run(backbone(), x, cond), atol=1e-4)


def test_dropout_acts_in_training_only():
    model, x, cond = backbone(dropout=0.5), torch.randn(1, 16, 32), torch.randn(1, 4, 32)
    assert torch.equal(run(model, x, cond), run(model, x, cond))
    model.train()
    assert not torch.allclose(run(model, x, cond), run(model, x, cond))


def test_modulations_at_once_equal_block_by_block():
    model, x, cond = backbone(), torch.randn(2, 16, 32), torch.randn(2, 4, 32)
    at_once = model(x, block_causal(LAYOUT.sizes), LAYOUT.sizes, modulations=model.modulations(cond))
    torch.testing.assert_close(at_once, run(model, x, cond))


def test_cached_passes_equal_one_pass():
    model, x, cond = backbone(), torch.randn(2, 16, 32), torch.randn(2, 4, 32)
    whole = run(model, x, cond)
    cache = KVCache(3, 2, 2, 16, 16, like=x)
    for start, stop in ((0, 4), (4, 12), (12, 16)):
        mask = block_causal(LAYOUT.sizes[: stop // 4]).last(stop - start)
        entities = slice(start // 4, stop // 4)
        part = model(
            x[:, start:stop], mask, LAYOUT.sizes[entities], cond[:, entities], tokens=slice(start, stop), cache=cache
        )
        cache.commit(stop - start)
        torch.testing.assert_close(part, whole[:, start:stop])


def test_gradient_checkpointing_gives_the_same_gradients():
    x, cond = torch.randn(1, 16, 32), torch.randn(1, 4, 32)
    plain, frugal = backbone(), backbone()
    frugal.gradient_checkpointing()
    for model in (plain, frugal):
        F.mse_loss(run(model, x, cond), x).backward()
    for a, b in zip(plain.parameters(), frugal.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads: got 5"):
        BlockConfig.parse(dict(width=32, heads=5, mlp_hidden=8))


@pytest.mark.parametrize("cached", [False, True])
def test_the_last_tokens_alone_are_what_they_are_among_all(cached):
    torch.manual_seed(0)
    config = BackboneConfig.parse({"width": 32, "heads": 4, "kv_heads": 2, "depth": 2, "mlp_hidden": 48})
    made = Backbone(config).eval()
    x, places = torch.randn(2, 9, 32), torch.arange(9)[:, None]
    whole = made(x, causal(9), places_NX=places)
    for last in (1, 3, 9):
        cache = made.cache(2, 9, like=x) if cached else None
        torch.testing.assert_close(made(x, causal(9), cache=cache, places_NX=places, last=last), whole[:, -last:])
