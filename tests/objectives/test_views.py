"""The views that ship, beside their formulas in plain code: bit-equal where nothing is switched on."""

import copy

import pytest
import torch
import torch.nn.functional as F

from nextok_mm import objectives, registry
from nextok_mm.heads.categorical import split
from nextok_mm.objectives import UNSEEN, parse
from nextok_mm.rng import Rng
from nextok_mm.sequence.masks import block_causal, causal, two_way

OFF = ("autoregressive", {"kind": "autoregressive", "prompt": 0}, {"kind": "meap", "share": 0})


def build(kind, **fields):
    torch.manual_seed(0)
    model = registry.build("generator", kind, {"size": "tiny", "dropout": 0.2, **fields}).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def with_gradients(model, loss):
    """Its value and every gradient, with one seed of dropout."""
    model.zero_grad()
    torch.manual_seed(1)
    total = loss()
    total.backward()
    return [total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def same(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs))


def plain_elm(model, batch, rng):
    """ELM's loss as it was written before there were views: causal, or two-way with the masked codes asked for."""
    codes = split(batch["tokens"], model.vocabulary, model.config.groups)
    count, front = codes.shape[1], model.prefix_tokens
    masked = None
    if model.config.objective.two_way:
        rate = torch.cos(torch.pi / 2 * rng.uniform())
        hidden = (count * rate).floor().clamp(min=1)
        masked = rng.uniform(count).argsort(dim=1).argsort(dim=1) < hidden[:, None]
    dropped = rng.uniform() < model.config.condition_dropout
    prefix = model.labels(batch["labels"].where(~dropped, model.config.classes))[:, None]
    if masked is None:
        x, mask = model.embed(codes[:, :-1]), block_causal((front, *[1] * (count - 1)))
    else:
        x, mask = model.embed(torch.where(masked[..., None], model.vocabulary, codes)), two_way(front + count)
    x = model.dropout(torch.cat((prefix, x), dim=1))
    states = model.backbone(x, mask, (x.shape[1],), tokens=slice(0, x.shape[1]))
    logits = model.head(states[:, front - (masked is None) :], codes)
    each = F.cross_entropy(
        logits.flatten(0, -2), codes.flatten(), reduction="none", label_smoothing=model.config.smoothing
    )
    each = each.view(codes.shape).mean(2)
    rows = each.mean(1) if masked is None else (each * masked).sum(1) / masked.sum(1)
    return rows.mean()


@pytest.mark.parametrize("fields", [{}, {"groups": 3, "head": "chained"}, {"smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("objective", [*OFF, "masked"], ids=str)
def test_elm_is_bit_equal_to_the_plain_formula(fields, objective):
    if objective == "masked" and "head" in fields:
        fields = {"groups": 3}
    model = build("elm", objective=objective, **fields)
    batch = model.example(5, Rng(range(5)))
    ours = with_gradients(model, lambda: model.loss(batch, Rng(range(5))).total)
    assert same(ours, with_gradients(model, lambda: plain_elm(model, batch, Rng(range(5)))))


@pytest.mark.parametrize("fields", [{}, {"tied": True}], ids=str)
@pytest.mark.parametrize("objective", OFF, ids=str)
def test_a_language_model_is_bit_equal_to_the_plain_formula(fields, objective):
    model = build("language", objective=objective, **fields)
    batch = model.example(5, Rng(range(5)))
    batch["tokens"][1, 9:], batch["tokens"][3, 1:] = -1, -1

    def plain():
        tokens = batch["tokens"]
        places = torch.arange(tokens.shape[1])[:, None]
        states = model.backbone(model.table(tokens.clamp_min(0)), causal(len(places)), places_NX=places)
        logits = F.linear(states, model.table.weight if model.head is None else model.head.weight)[:, :-1]
        each = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-1, reduction="none").view(
            5, -1
        )
        return (each.sum(1) / (tokens[:, 1:] >= 0).sum(1).clamp_min(1)).mean()

    ours = with_gradients(model, lambda: model.loss(batch, Rng(range(5))).total)
    if model.unseen is not None:  # MEAP's vector, which nothing reads where the share is 0
        assert not model.unseen.grad.any()
        del ours[1 + [name for name, _ in model.named_parameters()].index("unseen")]
    assert same(ours, with_gradients(model, plain))


def test_masked_rates():
    """Published: mostly much, never nothing. Uniform: as often little as much, nothing among it."""
    tokens = torch.zeros(2000, 20, dtype=torch.long)
    shares = {}
    for kind in ("masked", "mlm_u"):
        view = parse(kind).view(tokens, Rng(range(2000)))
        assert torch.equal(view.read_BN == UNSEEN, view.weight_BN.bool()) and view.two_way and view.ahead == 0
        shares[kind] = view.weight_BN.mean(1)
    assert shares["masked"].min() > 0 and 0.6 < shares["masked"].mean() < 0.66  # 2 / pi
    assert abs(shares["mlm_u"].mean() - 0.5) < 0.03 and abs(shares["mlm_u"].std() - 0.3) < 0.05  # 1 / sqrt(12)
    assert (shares["mlm_u"] == 0).any() and (shares["mlm_u"] == 1).any()


@pytest.mark.parametrize("share, count", [(0.15, 3), (0.01, 1), (0.5, 10)])
def test_holes_of_a_context(share, count):
    tokens = torch.arange(40).view(2, 20)
    view = parse({"kind": "meap", "share": share}).view(tokens, Rng([1, 2]))
    holes = view.read_BN == UNSEEN
    assert holes.sum(1).tolist() == [count] * 2 and not holes[:, -1].any() and not torch.equal(holes[0], holes[1])
    assert torch.equal(view.target_BN, tokens) and view.weight_BN.all() and view.ahead == 1


def test_holes_reach_every_place_but_the_prompt_and_the_last():
    view = parse({"kind": "meap", "share": 0.3, "prompt": 4}).view(torch.zeros(500, 12).long(), Rng(range(500)))
    holes = (view.read_BN == UNSEEN).float().mean(0)
    assert not holes[:4].any() and holes[11] == 0 and (holes[4:11] - 2 / 7).abs().max() < 0.07
    assert view.weight_BN[:, :4].sum() == 0 and view.weight_BN[:, 4:].all()


@pytest.mark.parametrize("kind", objectives.KINDS)
def test_written_as_short_as_it_may_be(kind):
    """A kind without settings is its name, as checkpoints had it before there were any."""
    config = registry.get("generator", "elm").Config
    assert config.parse({"size": "tiny", "objective": kind}).model_dump(mode="json")["objective"] == kind
    long = config.parse({"size": "tiny", "objective": {"kind": kind, "prompt": 3}})
    plain = long.model_dump(mode="json")
    assert plain["objective"]["prompt"] == 3 and config.parse(plain) == long
    assert copy.deepcopy(long) == long and parse(long.objective) is long.objective


@pytest.mark.parametrize(
    "kind, objective, word",
    [
        ("elm", "mapped", "objective: .*kind: got 'mapped', accepted: autoregressive, .*did you mean 'masked'"),
        ("elm", 3, "objective: .*kind: got 3, accepted: autoregressive"),
        ("elm", {"share": 0.1}, "objective: kind: got None"),
        ("elm", {"kind": "meap", "share": 1.0}, "objective: share: got 1.0"),
        ("elm", {"kind": "meap", "shares": 1.0}, "objective: shares: unknown key; did you mean 'share'"),
        ("elm", {"kind": "mlm_u", "prompt": 16}, "objective.prompt: got 16, accepted: below 16"),
        ("language", "masked", "objective: got masked, accepted: autoregressive, meap"),
        ("language", "mlm_u", "objective: got mlm_u, accepted: autoregressive, meap"),
    ],
)
def test_a_wrong_objective_is_one_line(kind, objective, word):
    with pytest.raises(ValueError, match=word) as error:
        registry.build("generator", kind, {"size": "tiny", "objective": objective})
    assert "\n" not in str(error.value)
