"""What every registered tokenizer, generator and judge keeps: training, saving, precision, devices."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nextok_mm import registry
from nextok_mm.checkpoint import from_pretrained, save_pretrained
from nextok_mm.rng import Rng
from nextok_mm.sequence.attention import _dense
from nextok_mm.train.config import Optim
from nextok_mm.train.optim import build_optimizer

from .conftest import example


def loss_of(model, seeds, batch=None):
    return model.loss(batch or example(model, seeds), Rng(seeds))


def test_loss_is_a_finite_scalar_with_parts(model):
    loss = loss_of(model, range(3))
    assert loss.total.shape == () and torch.isfinite(loss.total)
    assert loss.parts and all(part.shape == () and not part.requires_grad for part in loss.parts.values())


def test_a_batch_of_two_is_two_of_one(model):
    """No row of a batch touches another, and noise belongs to the row: the mean of the parts is the whole."""
    model.train()
    both = loss_of(model, [3, 7]).total
    torch.testing.assert_close(both, (loss_of(model, [3]).total + loss_of(model, [7]).total) / 2, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(model):
    model.train()
    loss_of(model, range(16)).total.backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent


@pytest.mark.parametrize("decay", ["weights", "matrices"])
def test_the_optimizer_takes_every_parameter_once(model, decay):
    """And decays what its rule says: no bias, no norm, no table, no learned vector is among the weights."""
    groups = build_optimizer(model, Optim(weight_decay=0.5, decay=decay)).param_groups
    taken = [parameter for group in groups for parameter in group["params"]]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(taken) == len(trained) and {id(p) for p in taken} == {id(p) for p in trained.values()}
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    tables = (
        "bias",
        "positions",
        "positions_midway",
        "none",
        "token",
        "registers",
        "table.weight",
        "labels.weight",
        "vectors.weight",
    )
    for name, parameter in trained.items():
        exempt = parameter.ndim < 2 or (decay == "weights" and name.endswith(tables))
        assert (id(parameter) in decayed) is not exempt, name


def test_loss_falls_on_eight_samples(model):
    model.train()
    batch = example(model, range(8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(60):
        loss = loss_of(model, [step * 8 + row for row in range(8)], batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(Rng([step]))
        history.append(loss.item())
    assert sum(history[-10:]) < 0.9 * sum(history[:10]), (history[:3], history[-3:])


def test_save_and_load_give_the_same_bits(model, tmp_path):
    save_pretrained(model, tmp_path / "saved")
    loaded, _ = from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(model) and loaded.config == model.config
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert torch.equal(loss_of(model, [1, 2]).total, loss_of(loaded, [1, 2]).total)


def test_bf16_agrees_with_fp32(model):
    exact = loss_of(model, range(4)).total
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss_of(model, range(4)).total
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)


def test_every_config_field_is_read(model):
    """A field that nothing reads is deleted."""
    seen: set[str] = set()
    fields = type(model.config).model_fields

    class Spy(type(model.config)):
        def __getattribute__(self, name):
            if name in fields:
                seen.add(name)
            return super().__getattribute__(name)

    Spy.__name__ = type(model.config).__name__
    spied = type(model)(Spy(**{name: getattr(model.config, name) for name in fields})).eval()
    batch = example(spied, range(2))
    spied.loss(batch, Rng(range(2)))
    if model.role == "tokenizer":
        spied.decode(spied.encode(batch["images"]))
        spied.grid(tuple(batch["images"].shape[2:]))
        assert spied.medium.rank == batch["images"].dim()
    if model.role == "generator":
        state = spied.start({"labels": batch.get("labels")} if "labels" in spied.takes else None, Rng(range(2)))
        spied.step(state)
    assert not set(fields) - seen


def to_fake_gpu(model):
    """Swap every parameter and buffer for a fake one on `cuda` (Module.to can't: fake and real tensors don't swap)."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty(parameter.shape, device="cuda"))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


def test_nothing_is_made_on_the_wrong_device(model):
    """A fake GPU: a tensor made on the CPU in the middle of a forward pass raises here, with no GPU at hand."""
    check_on_a_fake_gpu(model)


def check_on_a_fake_gpu(model):
    """The loss's forward pass, a reconstruction, and a sampling of two entities."""
    batch = example(model, range(2))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            fake = to_fake_gpu(model)
            batch = {name: value.to("cuda") for name, value in batch.items()}
            loss = fake.loss(batch, Rng(range(2)))
            assert loss.total.device.type == "cuda"
            if model.role == "tokenizer":
                assert fake.decode(fake.encode(batch["images"])).device.type == "cuda"
            if model.role == "generator" and not fake.open_ended:  # which rows end is known by value
                state = fake.start(None, Rng(range(2)))  # labels are checked by value, and a fake tensor has none
                while state.finished < min(2, state.total):
                    state = fake.step(state)
                    assert state.data.device.type == "cuda"
    finally:
        _dense.cache_clear()  # it may hold a fake mask


def sizes():
    for role in registry.ROLES:
        for kind in registry.kinds(role):
            for size in registry.get(role, kind).Config.SIZES:
                yield pytest.param(role, kind, size, id=f"{role}-{kind}-{size}")


@pytest.mark.parametrize("role, kind, size", list(sizes()))
def test_published_sizes_build_on_the_meta_device(role, kind, size):
    with torch.device("meta"):
        model = registry.build(role, kind, {"size": size})
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_real_gpu_agrees_with_the_cpu(model):
    batch = example(model, range(4))
    expected = loss_of(model, range(4), batch).total
    on_gpu = model.to("cuda")
    loss = on_gpu.loss({name: value.to("cuda") for name, value in batch.items()}, Rng(range(4))).total
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
