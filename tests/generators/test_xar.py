"""What is special to xAR: its entity kinds, its two contexts, guidance that skips what it can, in-painting."""

import pytest
import torch

from generators.xar import XAR, Sampling
from nextok_mm import registry
from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.flow.guidance import Guidance
from nextok_mm.rng import Rng
from nextok_mm.sequence.masks import block_causal
from tests.contract.test_models import check_on_a_fake_gpu
from tests.contract.test_rows import KNOWN, check_rows, masks

KINDS = [("patch", None), ("cell", 2), ("cell", (1, 6)), ("subsample", 2), ("scale", None), ("image", None)]


def build(seed: int = 0, **fields) -> XAR:
    torch.manual_seed(seed)
    model = registry.build("generator", "xar", {"size": "tiny", "grid": (4, 6), **fields}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def sample(model: XAR, seeds=(1, 2), known=None, **sampling) -> torch.Tensor:
    labels = torch.arange(len(seeds)) % model.config.classes if model.config.classes else None
    begun = model.start({"labels": labels}, Rng(seeds), Sampling(**{"steps": 3, "cfg": 2.0, **sampling}), known)
    *_, done = decode(model, begun)
    return done.data


@pytest.mark.parametrize("solver", ["euler_maruyama", "euler", "heun", "ab2"])
@pytest.mark.parametrize("kind, size", KINDS)
def test_every_entity_kind_trains_and_samples(kind, size, solver):
    model = build(entity=kind, entity_size=size)
    batch = model.example(2, Rng([1, 2]))
    model.loss(batch, Rng([1, 2])).total.backward()
    assert model.embed.weight.grad.abs().sum() > 0
    cached, uncached = (sample(model, solver=solver, cache=cache) for cache in (True, False))
    assert cached.shape == (2, 24, 4)
    torch.testing.assert_close(cached, uncached, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("context", ["noisy", "clean"])
@pytest.mark.parametrize("kind, size", KINDS)
def test_every_entity_kind_runs_on_a_fake_gpu(kind, size, context):
    """With both contexts, a path with times in its derivative, and cached guidance."""
    fields = {"entity": kind, "entity_size": size, "context": context, "path": "cosine"}
    check_on_a_fake_gpu(build(**fields, sampling={"steps": 2, "cfg": 2.0}))


def test_unconditional():
    model = build(classes=0)
    assert sample(model, cfg=1.0).shape == (2, 24, 4)
    assert torch.isfinite(model.loss({"tokens": torch.randn(2, 24, 4)}, Rng([1, 2])).total)
    with pytest.raises(ValueError, match="no classes"):
        model.start({"labels": torch.tensor([1])}, Rng([1]))


def test_sampling_sees_what_training_would_with_clean_context():
    """Teacher forcing and sampling agree: a noisy entity after clean ones has the same velocity in both."""
    model = build(context="clean")
    x0, eps = torch.randn(2, 1, 24, 4)
    times, labels = torch.full((1, model.layout.entities), 0.5), torch.tensor([1])
    with torch.no_grad():
        trained = model.velocity(x0, eps, times, labels)
        entity = 2
        start, stop = model.layout.span(entity)
        state = model.start({"labels": labels}, Rng([0]), Sampling(steps=2, cfg=1.0))
        state.sequence_BSC, state.finished = x0, entity
        sampled = model._pass(state, (0.5 * x0 + 0.5 * eps)[:, start:stop], 0.5, both=False)
    torch.testing.assert_close(sampled, trained[:, start:stop], rtol=1e-4, atol=1e-5)


def test_noisy_context_sees_the_noised_neighbours():
    """In training with noisy context the noise of an earlier entity matters, with clean context it doesn't."""
    for context, matters in (("noisy", True), ("clean", False)):
        model = build(context=context)
        x0, eps = torch.randn(2, 1, 24, 4)
        other = eps.clone()
        other[:, :4] += 1  # the first entity's noise
        times, labels = torch.full((1, model.layout.entities), 0.5), torch.tensor([1])
        with torch.no_grad():
            a, b = (model.velocity(x0, e, times, labels)[:, 4:] for e in (eps, other))
        assert torch.equal(a, b) is not matters


def count_rows(model: XAR, monkeypatch, **sampling) -> list[int]:
    rows = []
    forward = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x, *args: rows.append(len(x)) or forward(x, *args))
    sample(model, seeds=(1,), **sampling)
    return rows


def test_the_unconditional_branch_is_skipped_where_its_weight_is_zero(monkeypatch):
    model = build(entity="cell", entity_size=2)  # six entities
    assert count_rows(model, monkeypatch, cfg=1.0, steps=3) == [1] * 18
    linear = count_rows(model, monkeypatch, cfg=3.0, cfg_schedule="linear", steps=3)
    assert linear == [1] * 3 + [2] * 15
    interval = count_rows(model, monkeypatch, cfg=3.0, cfg_schedule="constant", cfg_interval=(0.0, 0.6), steps=3)
    # every entity's first pass takes in the context for both; t = 1 is outside the interval
    assert interval == [1, 2, 2] + [2, 2, 2] * 5


def test_skipping_changes_nothing():
    """Guidance of weight one by computing both halves, and by skipping one, are the same picture."""
    model = build()
    skipped = sample(model, cfg=1.0)
    forced = sample(model, cfg=1.0 + 1e-12, cfg_schedule="constant")
    torch.testing.assert_close(skipped, forced, rtol=1e-4, atol=1e-4)


def test_a_weight_of_zero_is_the_unconditional_picture():
    model = build()
    zero = sample(model, cfg=0.0, cfg_schedule="constant")
    *_, plain = decode(model, model.start(None, Rng((1, 2)), Sampling(steps=3, cfg=1.0)))
    torch.testing.assert_close(zero, plain.data, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(zero, sample(model, cfg=1.0), atol=1e-2)


def test_modulations_are_the_same_under_a_small_budget(monkeypatch):
    model = build()
    whole = sample(model)
    monkeypatch.setattr("generators.xar.Conditions.BUDGET", 1)
    torch.testing.assert_close(sample(model), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, size", KINDS)
def test_in_painting_keeps_what_is_known(kind, size):
    model = build(entity=kind, entity_size=size)
    known = torch.randn(1, 24, 4)
    mask = torch.rand(24, generator=torch.Generator().manual_seed(0)) < 0.5
    for solver in ("euler_maruyama", "ab2"):
        out = sample(model, known=Known(known, mask), solver=solver)
        assert torch.equal(out[:, mask], known[:, mask].expand(2, -1, -1))
        assert not torch.isclose(out[:, ~mask], known[:, ~mask]).any(dim=-1).all()


@pytest.mark.parametrize("backend", ["slices", "sdpa", "flex"])
def test_backends_draw_the_same_picture(backend):
    model = build()
    expected = sample(model)
    model.backbone.backend = backend
    assert model.backend == backend
    with torch.no_grad():
        torch.testing.assert_close(sample(model), expected, rtol=1e-3, atol=1e-4)


def test_published_sizes():
    """B as the paper says (172M); L 608M as it says; H comes to 1.186B where the paper says 1.1B."""
    for size, millions in {"B": 172.638, "L": 608.398, "H": 1186.024}.items():
        with torch.device("meta"):
            model = registry.build("generator", "xar", {"size": size})
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.001)
        assert model.layout.sizes == (64, 64, 64, 64)


def test_backend_is_named_for_the_mask_it_runs():
    assert build(entity="patch", entity_size=None).backend == "slices"
    assert block_causal([1] * 24).last(1).full


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"entity": "cell", "entity_size": 5}, "entity_size"),
        ({"entity": "row"}, "entity"),
        ({"width": 0}, "width"),
        ({"dept": 4}, "did you mean 'depth'"),
        ({"sampling": {"stepz": 4}}, "did you mean 'steps'"),
        ({"sampling": {"cfg_interval": (0.9, 0.1)}}, "cfg_interval"),
    ],
)
def test_a_wrong_field_is_one_line(fields, word):
    with pytest.raises(ValueError, match=word) as error:
        build(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("solver", ["euler_maruyama", "heun"])
@pytest.mark.parametrize("kind, size", KINDS)
def test_a_row_of_every_entity_kind_is_the_same_alone(kind, size, solver):
    model, seeds = build(entity=kind, entity_size=size), (3, 4, 5, 6)
    for kinds in (("nothing", "all", "the first half", "some entities"), KNOWN[1:]):
        check_rows(model, seeds, {"labels": torch.tensor([0, 1, 2, 0])}, masks(model, kinds, 7), cfg=2.0, solver=solver)


def test_one_row_that_knows_its_first_half_beside_one_that_knows_nothing():
    """The smallest case: the row's own stream moved on through an entity that it knew."""
    model = build(grid=(1, 6), entity_size=(1, 2))
    check_rows(model, (3, 4), {"labels": torch.tensor([0, 1])}, masks(model, ("the first half", "nothing"), 0))


@pytest.mark.parametrize("cache", [True, False])
def test_guidance_is_decided_once_not_for_every_entity_anew(cache, monkeypatch):
    """The work between two network calls doesn't grow with the number of entities."""
    asked = []
    at = Guidance.at
    monkeypatch.setattr(Guidance, "at", lambda self, *place: asked.append(place) or at(self, *place))
    model = build(entity="patch", entity_size=None)
    begun = model.start({"labels": torch.tensor([1])}, Rng([1]), Sampling(steps=3, cfg=2.0, cache=cache))
    *_, done = decode(model, begun)
    assert done.calls == 3 * 24 and len(asked) <= done.calls + 3
