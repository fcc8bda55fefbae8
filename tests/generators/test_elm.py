"""What is special to ELM: groups, the chained head, captions, the masked model, early stopping, published sizes."""

import pytest
import torch

from generators import elm
from generators.elm import ELM, Sampling
from nextok_mm import objectives, registry
from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.decoding.masked import least_sure, masked_after
from nextok_mm.objectives import UNSEEN, View
from nextok_mm.rng import Rng
from tests.contract.test_models import check_on_a_fake_gpu
from tests.contract.test_rows import KNOWN, check_rows, masks

TEXT = {"classes": 0, "text": {"encoder": "letters", "width": 6, "length": 3}}
VARIANTS = {
    "one group": {"groups": 1},
    "three groups": {"groups": 3},
    "chained": {"groups": 3, "head": "chained"},
    "ada": {"ada": True},
    "one axis": {"grid": (16,)},
    "rope by sequence": {"rope": "sequence"},
    "text": TEXT,
    "masked": {"objective": "masked", "smoothing": 0.1},
    "unconditional": {"classes": 0},
    "any order": {"objective": "mlm_u"},
    "any order behind a prompt": {"objective": {"kind": "mlm_u", "prompt": 3}, "groups": 1},
    "holes": {"objective": {"kind": "meap", "share": 0.3}},
}


class Letters:
    """Stands in for a text encoder."""

    width = 6

    def encode(self, captions, length):
        text, counts = torch.zeros(len(captions), length, 6), torch.zeros(len(captions), dtype=torch.long)
        for row, caption in enumerate(captions):
            if len(caption) > length:
                raise ValueError(f"text: {caption!r} is {len(caption)} tokens long, accepted: {length} at most")
            counts[row] = len(caption)
            for place, letter in enumerate(caption):
                text[row, place] = torch.sin(torch.arange(6.0) * ord(letter))
        return text, counts


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    monkeypatch.setattr(elm, "load_text", lambda name: Letters())


def build(seed: int = 0, **fields) -> ELM:
    torch.manual_seed(seed)
    model = registry.build("generator", "elm", {"size": "tiny", **fields}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def condition(model: ELM, n: int):
    if "text" in model.takes:
        return {"text": ["ab", "c", "", "abc"][:n]}
    return {"labels": torch.arange(n) % model.config.classes} if model.config.classes else None


def run(model: ELM, seeds=(1, 2), known=None, **sampling) -> torch.Tensor:
    settings = Sampling(**{"cfg": 2.0, "passes": 4, **sampling})
    *_, done = decode(model, model.start(condition(model, len(seeds)), Rng(seeds), settings, known))
    return done.data


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_samples(name):
    model = build(**VARIANTS[name])
    batch = model.example(8, Rng(range(8)))
    model.loss(batch, Rng(range(8))).total.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    codes = run(model)
    assert codes.shape == (2, 16) and codes.dtype == torch.int64 and 0 <= codes.min() and codes.max() < 64
    assert torch.equal(codes, run(model, cache=False)) and not torch.equal(codes[0], codes[1])
    assert torch.equal(codes[1:], torch.cat([run(model, seeds=(1, 2, 3))[1:2]]))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs_on_a_fake_gpu(name):
    model = build(**VARIANTS[name], sampling={"cfg": 2.0, "top_p": 0.9, "min_p": 0.01, "top_k": 5})
    check_on_a_fake_gpu(model)


def test_chained_groups_see_the_earlier_ones_and_only_those():
    model = build(groups=3, head="chained")
    hidden, codes = torch.randn(2, 5, 32), torch.randint(4, (2, 5, 3))
    with torch.no_grad():
        logits = model.head(hidden, codes)
        for group in range(3):
            other = codes.clone()
            other[..., group] = (other[..., group] + 1) % 4
            moved = (model.head(hidden, other) != logits).flatten(0, 1).any(-1).any(0)
            assert moved.tolist() == [later > group for later in range(3)]
        chosen = model.head.choose(hidden, lambda logits: logits.argmax(-1))
        assert torch.equal(chosen, model.head(hidden, chosen).argmax(-1))


def test_sampling_sees_what_training_would():
    """The hidden state of a step, cached or not, is the one that training computes at that place."""
    for fields in ({}, TEXT, {"groups": 3, "head": "chained"}):
        model = build(**fields)
        codes = run(model, cfg=1.0, temperature=0)
        with torch.no_grad():
            prefix = model._conditions(condition(model, 2), 2, guided=False)
            view = model.config.objective.view(codes, Rng([1, 2]))
            assert torch.equal(model.logits(view, *prefix).argmax(-1), model._split(codes))


def test_captions_change_the_picture_and_an_empty_one_is_no_condition():
    model = build(**TEXT)
    settings = Sampling(cfg=1.0)

    def draw(captions):
        *_, done = decode(model, model.start({"text": captions}, Rng([5]), settings))
        return done.data

    assert not torch.equal(draw(["ab"]), draw(["xyz"]))
    assert torch.equal(draw([""]), draw(None))


def test_stopping_early_gives_the_first_codes():
    model = build(grid=(16,))
    whole, part = run(model), run(model, tokens=5)
    assert torch.equal(part[:, :5], whole[:, :5]) and not part[:, 5:].any()
    for fields, tokens, accepted in (({}, 5, "16, all of them"), ({"grid": (16,)}, 17, "1 to 16")):
        with pytest.raises(ValueError, match=f"tokens: got {tokens}, accepted: {accepted}"):
            run(build(**fields), tokens=tokens)


def test_greedy_needs_no_seed():
    model = build()
    labels = torch.tensor([1, 1])
    *_, done = decode(model, model.start({"labels": labels}, Rng([1, 2]), Sampling(temperature=0)))
    assert torch.equal(done.data[0], done.data[1])


def test_rows_may_keep_different_codes():
    known, mask = torch.randint(64, (2, 16)), torch.rand(2, 16) < 0.5
    for fields in ({"groups": 1}, {"objective": "masked"}):
        codes = run(build(**fields), known=Known(known, mask))
        assert torch.equal(codes[mask], known[mask]) and not torch.equal(codes, known)


def test_the_masked_model_finds_every_code_in_the_passes_it_has():
    model = build(objective="masked")
    for passes in (1, 3, 30):
        partial = list(decode(model, model.start(None, Rng([1]), Sampling(passes=passes))))
        assert len(partial) == passes
    state = model.start({"labels": torch.tensor([1])}, Rng([1]), Sampling(passes=4))
    hidden = []
    while not state.done:
        with torch.no_grad():
            state = model.step(state)
        hidden.append(int((~state.known_BN).sum()))
    assert hidden == [14, 11, 6, 0] == [masked_after(step, 4, 16) for step in range(1, 5)]


@pytest.mark.parametrize("order", ["sequence", "reverse", "random", "confidence"])
def test_codes_are_filled_in_in_any_order(order):
    """Through the one loop, one after another; each as the model predicts it from those that are there."""
    model = build(objective="mlm_u")
    known = Known(torch.arange(16)[None], torch.arange(16) % 5 == 0)
    settings = Sampling(order=order, pace="even", passes=16, temperature=0, noise=0)
    there, seen = known.mask, []
    begun = model.start({"labels": torch.tensor([1, 1])}, Rng([1, 2]), settings, known)
    for state in decode(model, begun):
        new = state.known_BN & ~there
        if not new.any():
            continue
        there, rows = state.known_BN.clone(), new.float().argmax(1)
        assert new.sum(1).tolist() == [1, 1]
        before = torch.where(new, UNSEEN, torch.where(there, state.data, UNSEEN))
        with torch.no_grad():
            view = View(before, state.data, new.float(), two_way=True)
            logits = model.logits(view, *model._conditions({"labels": torch.tensor([1, 1])}, 2, guided=False))
        assert torch.equal(logits.argmax(-1)[new], model._split(state.data)[new])
        seen.append(rows.tolist())
    free = [place for place in range(16) if place % 5]
    first, second = zip(*seen)
    assert sorted(first) == sorted(second) == free and state.known_BN.all()
    expected = {"sequence": free, "reverse": free[::-1]}.get(order)
    assert expected is None or list(first) == list(second) == expected
    assert order != "random" or (first != second and list(first) != free)


def test_even_passes_are_even():
    model = build(objective="mlm_u")
    begun = model.start(None, Rng([1]), Sampling(pace="even", passes=4))
    left = [int((~state.known_BN).sum()) for state in decode(model, begun)]
    assert left == [12, 8, 4, 0] == [masked_after(step, 4, 16, "even") for step in range(1, 5)]
    assert [masked_after(step, 21, 21, "even") for step in range(22)] == list(range(21, -1, -1))


def test_masks_of_training_and_of_decoding():
    mask = objectives.parse("masked").masked(Rng(range(400)), 16)
    assert mask.any(1).all() and 0.55 < mask.float().mean() < 0.7  # the mean of cos(pi/2 u) is 2 / pi
    hidden = torch.tensor([[True, True, False, True]])
    assert least_sure(torch.tensor([[3.0, 1.0, 0.0, 2.0]]), hidden, torch.tensor([2])).tolist() == [[0, 1, 0, 1]]


def test_published_sizes():
    """Half of each published file's bytes over four: L-1-16 is 1.77 GB, L-2-8 1.25 GB, 2B-2-12 7.64 GB."""
    expected = {
        ("B", 2, 10): 90.048,
        ("L", 1, 16): 443.574,
        ("L", 2, 8): 312.502,
        ("L", 2, 10): 315.648,
        ("XL", 2, 10): 741.276,
        ("XXL", 2, 12): 1390.525,
        ("2B", 2, 12): 1909.458,
    }
    for (size, groups, bits), millions in expected.items():
        with torch.device("meta"):
            model = registry.build(
                "generator", "elm", {"size": size, "groups": groups, "num_codes": 2 ** (groups * bits)}
            )
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.001)


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"groups": 5}, "groups: got 5 for 64 codes, accepted: 1, 2, 3, 6"),
        ({"classes": 3, "text": {}}, "classes: got 3 beside text"),
        ({"objective": "masked", "head": "chained"}, "objective: masked goes with"),
        ({"objective": "mlm_u", "head": "chained"}, "objective: mlm_u goes with head: independent"),
        ({"sampling": {"order": "left"}}, "sampling.order: got 'left'"),
        ({"heads": 5}, "heads: got 5 for width 32, accepted: even width / heads"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p: got 0"),
        ({"sampling": {"cfg_schedule": "cubic"}}, "sampling.cfg_schedule: got 'cubic'"),
    ],
)
def test_a_wrong_field_is_one_line(fields, word):
    with pytest.raises(ValueError, match=word) as error:
        build(**fields)
    assert "\n" not in str(error.value)


def test_a_wrong_condition_is_one_line():
    with pytest.raises(ValueError, match="labels: got 3, accepted: 0 to 2"):
        build().start({"labels": torch.tensor([3])}, Rng([0]))
    with pytest.raises(ValueError, match="labels: got a condition, accepted: text"):
        build(**TEXT).start({"labels": torch.tensor([0])}, Rng([0]))
    with pytest.raises(ValueError, match="'abcd' is 4 tokens long, accepted: 3 at most"):
        build(**TEXT).start({"text": ["abcd"]}, Rng([0]))
    with pytest.raises(ValueError, match=r"tokens: got \(1, 15\)"):
        build().loss({"tokens": torch.zeros(1, 15, dtype=torch.long)}, Rng([0]))
    with pytest.raises(ValueError, match="data: got no text, accepted: captions"):
        build(**TEXT).loss({"tokens": torch.zeros(1, 16, dtype=torch.long)}, Rng([0]))
    with pytest.raises(ValueError, match="known: got codes 0 to 64, accepted: 0 to 63"):
        run(build(), known=Known(torch.full((1, 16), 64), torch.arange(16) < 3))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_row_of_every_variant_is_the_same_alone(name):
    model, seeds = build(**VARIANTS[name]), (3, 4, 5, 6)
    for kinds in (("nothing", "all", "the first half", "some tokens"), KNOWN[1:]):
        for sampling in ({"cfg": 2.0, "passes": 4}, {"top_k": 9, "temperature": 0.7, "cache": False}):
            check_rows(model, seeds, condition(model, 4), masks(model, kinds, 7), **sampling)


def test_a_row_that_stops_early_is_the_same_alone():
    model = build(grid=(16,))
    check_rows(model, (3, 4, 5, 6), condition(model, 4), masks(model, KNOWN[:4], 8), tokens=5)
