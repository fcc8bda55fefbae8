"""What every objective keeps, with every model that takes it: no leak, draws from the row's own stream, rows without a
target, and codes that nobody may sample."""

import pytest
import torch

from nextok_mm import objectives, registry
from nextok_mm.decoding import decode
from nextok_mm.heads.categorical import compared
from nextok_mm.objectives import UNSEEN, View, autoregressive, parse
from nextok_mm.rng import Rng

SEEDS = [3, 7, 11]
PAIRS = [
    (kind, objective)
    for kind in ("elm", "language")
    for objective in objectives.KINDS
    if kind == "elm" or not parse(objective).two_way
]


@pytest.fixture(params=PAIRS, ids="-".join)
def trained(request):
    """A model on an objective, with a prompt of three tokens."""
    kind, objective = request.param
    return build(kind, {"kind": objective, "prompt": 3})


def build(kind, objective):
    torch.manual_seed(0)
    model = registry.build("generator", kind, {"size": "tiny", "objective": objective}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_every_file_is_listed():
    from importlib.resources import files

    modules = {path.name.removesuffix(".py") for path in files(objectives).iterdir() if path.name.endswith(".py")}
    assert set(objectives.KINDS) == modules - {"__init__", "view"}
    assert all(parse(kind).kind == kind for kind in objectives.KINDS)


def leaks(model, seeds=SEEDS) -> int:
    """How many predictions that are asked for move when their own target does."""
    batch, moved = model.example(len(seeds), Rng(seeds)), 0
    view, weights = model._view(batch, Rng(seeds)), None
    ahead = 1 if registry.get("generator", "language") is type(model) else 0  # its logits are those of what follows
    with torch.no_grad():
        before = model.predict(batch, Rng(seeds))
        for place in range(ahead, view.read_BN.shape[1]):
            tokens = batch["tokens"].clone()
            tokens[:, place] = (tokens[:, place] + 1) % model.num_codes
            after = model.predict({**batch, "tokens": tokens}, Rng(seeds))
            weights = view.weight_BN[:, place] > 0
            moved += int((after[:, place - ahead] != before[:, place - ahead]).flatten(1).any(1)[weights].sum())
    return moved


def test_nothing_leaks_from_a_target_to_its_prediction(trained):
    assert leaks(trained) == 0


class Leaky(autoregressive.Config):
    """Asks for what it shows: two-way, with nothing masked."""

    def view(self, tokens_BN, rng):
        return View(tokens_BN, tokens_BN, self.asked(tokens_BN).float(), two_way=True)


def test_a_leak_would_be_found():
    model = build("elm", "autoregressive")
    model.config = model.config.model_copy(update={"objective": Leaky()})
    assert leaks(model) == len(SEEDS) * 16


def test_a_view_depends_on_the_row_alone(trained):
    """And on no token: what is drawn is drawn from the row's stream."""
    batch = trained.example(3, Rng(SEEDS))
    view = trained._view(batch, Rng(SEEDS))
    for row, seed in enumerate(SEEDS):
        own = trained._view({"tokens": batch["tokens"][row : row + 1]}, Rng([seed]))
        for name in ("read_BN", "target_BN", "weight_BN"):
            assert torch.equal(getattr(own, name), getattr(view, name)[row : row + 1])
    other = trained._view({"tokens": (batch["tokens"] + 1) % trained.num_codes}, Rng(SEEDS))
    assert torch.equal(other.read_BN == UNSEEN, view.read_BN == UNSEEN)
    assert torch.equal(other.weight_BN, view.weight_BN)


def test_rows_keep_their_losses_in_any_batch(trained):
    trained.train()  # no dropout in a tiny model; conditions are dropped by the row's own stream
    batch = trained.example(3, Rng(SEEDS))
    rows = trained.loss(batch, Rng(SEEDS)).rows
    for row, seed in enumerate(SEEDS):
        own = {name: column[row : row + 1] for name, column in batch.items()}
        torch.testing.assert_close(trained.loss(own, Rng([seed])).rows, rows[row : row + 1], rtol=1e-4, atol=1e-5)


def test_a_prompt_is_shown_and_never_asked_for(trained):
    batch = trained.example(3, Rng(SEEDS))
    view = trained._view(batch, Rng(SEEDS))
    assert torch.equal(view.read_BN[:, :3], batch["tokens"][:, :3])
    assert not view.weight_BN[:, :3].any() and view.weight_BN[:, 3:].any()


def test_a_row_without_a_target_gives_nothing(trained):
    """No number that isn't one, and no gradient; its neighbor is what it is alone."""
    objective, tokens = trained.config.objective, torch.full((2, 12), -1)
    tokens[1] = torch.arange(12)
    view = objective.view(tokens, Rng([1, 2]))
    assert not view.weight_BN[0].any()
    logits = torch.randn(2, 12, 1, 20, requires_grad=True)
    loss = compared(logits, view.target_BN[..., None].clamp_min(0), view.weight_BN)
    loss.total.backward()
    assert loss.rows[0] == 0 and torch.isfinite(loss.rows).all() and loss.parts["accuracy"] <= 1
    assert not logits.grad[0].any() and logits.grad.isfinite().all()
    short = objective.view(torch.zeros(2, 2, dtype=torch.long), Rng([1, 2]))  # all of it prompt
    assert not short.weight_BN.any() and not (short.read_BN == UNSEEN).any()


def test_the_unseen_code_is_never_sampled(trained):
    """There is no logit of it, even where its embedding is the likeliest of all."""
    if trained.open_ended:
        state = trained.start({"tokens": [[5], [6, 7]]}, Rng([1, 2]), trained.Sampling(tokens=30, temperature=2.0))
    else:
        with torch.no_grad():
            trained.embed.table.weight.view(trained.config.groups, -1, 32)[:, -1] += 5.0
        state = trained.start(None, Rng(range(40)), trained.Sampling(temperature=2.0))
    *_, last = decode(trained, state)
    assert 0 <= int(last.data.min()) <= int(last.data.max()) < trained.num_codes
    logits = trained.predict(trained.example(2, Rng([1, 2])), Rng([1, 2]))
    assert logits.shape[-1] == getattr(trained, "vocabulary", trained.num_codes)


def test_every_parameter_gets_a_gradient_and_the_loss_falls(trained):
    """On rows of three codes in turn, which sixty steps are enough for."""
    trained.train()
    batch = trained.example(8, Rng(range(8)))
    batch["tokens"] = (7 * torch.arange(batch["tokens"].shape[1]) % 3 + 5).expand(8, -1)
    optimizer, history = torch.optim.AdamW(trained.parameters(), lr=3e-3), []
    for step in range(60):
        loss = trained.loss(batch, Rng([step * 8 + row for row in range(8)])).total
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert not [n for n, p in trained.named_parameters() if p.grad is None or not p.grad.any()]
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-10:]) < 0.9 * sum(history[:10]), (history[:3], history[-3:])


def test_a_released_model_samples_the_same(trained, tmp_path):
    from nextok_mm.checkpoint import from_pretrained, save_pretrained

    save_pretrained(trained, tmp_path / "saved")
    loaded, _ = from_pretrained(tmp_path / "saved")
    assert loaded.config.objective == trained.config.objective
    assert torch.equal(*(list(decode(m, m.start(None, Rng([1, 2]))))[-1].data for m in (trained, loaded)))
