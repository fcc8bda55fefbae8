"""What every registered generator keeps while it samples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.rng import Rng

from .conftest import example


def run(generator, seeds, known=None, **sampling):
    labels = example(generator, range(8)).get("labels")
    labels = (
        {}
        if labels is None or "labels" not in generator.takes
        else {"labels": torch.stack([labels[seed % 8] for seed in seeds])}
    )
    few = {"steps": 3} if "steps" in generator.Sampling.model_fields else {}
    settings = generator.Sampling.parse({**generator.config.sampling.model_dump(), **few, **sampling})
    return [state.data.clone() for state in decode(generator, generator.start(labels, Rng(seeds), settings, known))]


def test_every_step_leaves_a_decodable_partial(generator):
    partials = run(generator, [1, 2])
    shape = example(generator, [1, 2])["tokens"].shape
    assert all(partial.shape == shape and torch.isfinite(partial.float()).all() for partial in partials)
    assert len(partials) == generator.layout.entities


def test_seeded_is_reproducible_in_any_batch(generator):
    both, again = run(generator, [3, 7])[-1], run(generator, [3, 7])[-1]
    assert torch.equal(both, again)
    torch.testing.assert_close(run(generator, [7])[-1], both[1:], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(both[:1], both[1:])


def test_cached_equals_uncached(generator):
    torch.testing.assert_close(run(generator, [1, 2], cache=True)[-1], run(generator, [1, 2], cache=False)[-1])


def test_finished_entities_do_not_change(generator):
    """What a partial shows stays (layouts that refine one picture are let off: there each entity is a new version)."""
    if generator.layout.kind == "scale":
        pytest.skip("every scale replaces the one before")
    partials = run(generator, [5])
    for index, partial in enumerate(partials[:-1]):
        known = generator.layout.entity_ids[generator.layout.inverse] <= index
        assert torch.equal(partial[:, known], partials[-1][:, known])


def test_nothing_leaks_from_later_entities(generator):
    """Perturb one entity: predictions for the earlier ones don't move, its own or the later ones do."""
    batch = example(generator, [1, 2])
    ids = generator.layout.entity_ids
    with torch.no_grad():
        before = generator.predict(batch, Rng([1, 2]))
        for entity in range(generator.layout.entities) if generator.layout.kind != "scale" else ():
            raster = generator.layout.order[ids == entity]
            tokens = batch["tokens"].clone()
            other = tokens[:, raster] + tokens.new_ones(())
            tokens[:, raster] = other if generator.num_codes is None else other % generator.num_codes
            after = generator.predict({**batch, "tokens": tokens}, Rng([1, 2]))
            assert torch.equal(after[:, ids < entity], before[:, ids < entity])
            last = entity + 1 == generator.layout.entities  # of which only a model of noised tokens sees anything
            assert last or not torch.equal(after[:, ids >= entity], before[:, ids >= entity])


def test_kept_tokens_stay_and_the_rest_is_new(generator):
    known = example(generator, [9])["tokens"]
    mask = torch.zeros(known.shape[1], dtype=torch.bool)
    mask[: known.shape[1] // 3 + 1] = True  # cuts through an entity where entities are larger than a token
    result = run(generator, [1, 2], known=Known(known, mask))[-1]
    assert torch.equal(result[:, mask], known.expand(2, *known.shape[1:])[:, mask])
    assert not torch.isclose(result[:, ~mask].float(), known[:, ~mask].float()).all()
    everything = run(generator, [1], known=Known(known, torch.ones_like(mask)))
    assert torch.equal(everything[-1], known)


def test_wrong_keep_is_refused(generator):
    known = example(generator, [9])["tokens"]
    mask = torch.ones(known.shape[1], dtype=torch.bool)
    other = known.long() if generator.num_codes is None else known.float()
    for data, where in (
        (known[:, :-1], mask[1:]),
        (known.repeat_interleave(3, 0), mask),
        (other, mask),
        (known, mask[0]),
    ):
        with pytest.raises(ValueError, match="known: got .* of torch.* and mask .*, accepted: .*2 or 1, "):
            run(generator, [1, 2], known=Known(data, where))
    assert torch.equal(*(run(generator, [1], known=Known(known, kind))[-1] for kind in (mask, mask.int())))


def test_a_label_out_of_range_is_refused(generator):
    classes = getattr(generator.config, "classes", 0)
    if not classes:
        pytest.skip("takes no labels")
    with pytest.raises(ValueError, match=f"labels: got {classes + 1}, accepted: 0 to {classes - 1}"):
        generator.start({"labels": torch.tensor([classes + 1])}, Rng([0]))


def test_labels_train_where_there_is_a_class_for_them_and_are_refused_elsewhere(generator):
    """Any labels at all, beside codes that fit: none is taken for "no label", none for another class."""
    classes = getattr(generator.config, "classes", 0)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(-2, classes + 2) | st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2))
    def check(labels):
        batch = example(generator, [1, 2]) | {"labels": torch.tensor(labels)}
        wrong = [label for label in labels if not 0 <= label < classes]
        with torch.no_grad():
            if classes and wrong:
                with pytest.raises(ValueError, match=f"labels: got -?[0-9]+, accepted: 0 to {classes - 1}"):
                    generator.loss(batch, Rng([1, 2]))
                with pytest.raises(ValueError, match="labels: got"):
                    generator.predict(batch, Rng([1, 2]))
            else:
                assert torch.isfinite(generator.loss(batch, Rng([1, 2])).total)

    check()


def test_tokens_that_a_model_has_no_place_for_are_refused(generator):
    batch = example(generator, [1, 2])
    wrong = [batch["tokens"][:, :-1], batch["tokens"][:, :, None], None]
    wrong += [batch["tokens"].float() if generator.num_codes else batch["tokens"].round().long()]
    wrong += (
        [batch["tokens"] + generator.num_codes, batch["tokens"] - generator.num_codes] if generator.num_codes else []
    )
    for tokens in wrong:
        other = {name: column for name, column in batch.items() if name != "tokens"}
        with pytest.raises(ValueError, match="tokens") as error:
            generator.loss(other if tokens is None else other | {"tokens": tokens}, Rng([1, 2]))
        assert "\n" not in str(error.value)


class Largest(Rng):
    """Every uniform number is the largest that there is below 1, which bf16 rounds to 1."""

    def uniform(self, *shape, like=None):
        drawn = torch.full((len(self), *shape), 1 - 2**-24)
        return drawn if like is None else drawn.to(like)


def test_labels_are_dropped_in_any_precision(generator):
    """Where every label is dropped, none is kept because its number was rounded up to 1."""
    drop = "condition_dropout"
    generator.config = generator.config.model_copy(update={drop: 1.0})
    rough, batch = generator.to(torch.bfloat16), example(generator, [1, 2])
    batch = {name: column.bfloat16() if column.is_floating_point() else column for name, column in batch.items()}
    others = [batch | {"labels": (batch["labels"] + 1) % generator.config.classes}]
    others += [{"tokens": batch["tokens"]}]
    with torch.no_grad():
        dropped = rough.predict(batch, Largest([1, 2]))
        assert all(torch.equal(dropped, rough.predict(other, Largest([1, 2]))) for other in others)
