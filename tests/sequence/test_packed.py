"""Packed weights give the same numbers, leave nothing behind, and stay out of the way of training."""

import copy
import threading

import pytest
import torch
from torch import nn

from nextok_mm.sequence.packed import SharedTable, packed


@pytest.mark.parametrize("bias", [True, False])
def test_same_numbers_and_nothing_left(bias):
    model = nn.Sequential(nn.Linear(64, 96, bias), nn.GELU(), nn.Linear(96, 64, bias))
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        expected = model(x)
        with packed(model):
            assert "forward" in model[0].__dict__
            torch.testing.assert_close(model(x), expected)
    assert "forward" not in model[0].__dict__


def test_gradients_and_half_precision_go_the_plain_way():
    model = nn.Sequential(nn.Linear(64, 64))
    with packed(model):
        model(torch.randn(2, 64)).sum().backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert model(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert model[0].weight.grad is not None


def test_an_error_inside_unpacks():
    model = nn.Sequential(nn.Linear(64, 64))
    with pytest.raises(RuntimeError, match="stop"), packed(model):
        raise RuntimeError("stop")
    assert "forward" not in model[0].__dict__


def test_other_dtypes_are_left_alone():
    model = nn.Sequential(nn.Linear(64, 64)).double()
    with packed(model):
        assert "forward" not in model[0].__dict__


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_few_rows_are_the_same_numbers(rows):
    """As many as one sample, with guidance or without, has when it is decoded token by token."""
    model = nn.Linear(64, 96)
    for x in (torch.randn(rows, 64), torch.randn(rows, 1, 64)):
        with torch.no_grad(), packed(model):
            torch.testing.assert_close(model(x), nn.functional.linear(x, model.weight, model.bias))


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (64, 64)])
def test_one_row_is_multiplied_by_what_runs_longest(shape):
    """A weight that is wider than high is taken as it is; of another one a copy is made, at the first product."""
    model, x = nn.Linear(*shape), torch.randn(1, 1, shape[0])
    with torch.no_grad(), packed(model):
        call = model.__dict__["forward"]
        assert not call.copies
        for _ in range(2):
            torch.testing.assert_close(model(x), nn.functional.linear(x, model.weight, model.bias))
        assert len(call.copies) == (shape[1] > shape[0])
        model(torch.randn(2, shape[0]))
        assert len(call.copies) == (shape[1] > shape[0]) + 1


def test_a_table_that_is_the_output_layer_too_is_packed_as_one():
    table = SharedTable(96, 64)
    assert list(table.state_dict()) == ["weight"]
    for rows in (1, 3, 8):
        x = torch.randn(rows, 64)
        with torch.no_grad(), packed(nn.Sequential(table)):
            assert "logits" in table.__dict__ and "forward" not in table.__dict__
            torch.testing.assert_close(table.logits(x), x @ table.weight.t())
            assert torch.equal(table(torch.tensor([5])), table.weight[5:6])
    assert "logits" not in table.__dict__


def packed_layers(model: nn.Module) -> int:
    return sum("forward" in module.__dict__ for module in model.modules())


def test_whoever_leaves_first_leaves_the_weights_to_the_others():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    one, two, inner = packed(model), packed(model), packed(model[1])
    for block in (one, two, inner):
        block.__enter__()
    for block, left in ((one, 2), (inner, 2), (two, 0)):
        block.__exit__(None, None, None)
        assert packed_layers(model) == left


def test_threads_compute_the_same_bits_as_alone():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(192, 192) for _ in range(4)])
    x = torch.randn(3, 192)

    def run(times: int) -> list[torch.Tensor]:
        with torch.no_grad(), packed(model):
            return [model(x) for _ in range(times)]

    (alone,), found = run(1), []
    threads = [threading.Thread(target=lambda times=times: found.extend(run(times))) for times in (20, 60, 100, 140)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 320 and all(torch.equal(result, alone) for result in found) and not packed_layers(model)


def test_a_weight_that_changes_meanwhile_counts():
    """In place, replaced, or behind autograd's back before somebody else comes in."""
    model, x = nn.Sequential(nn.Linear(64, 64)), torch.randn(5, 64)
    layer = model[0]

    def check() -> None:
        torch.testing.assert_close(model(x), nn.functional.linear(x, layer.weight, layer.bias))

    with torch.no_grad(), packed(model):
        layer.weight.mul_(2)
        check()
        layer.weight = nn.Parameter(torch.randn(64, 64))
        check()
        model.load_state_dict({name: torch.randn_like(value) for name, value in model.state_dict().items()})
        check()
        layer.weight.data.mul_(3)
        with packed(model):
            check()
        check()


def test_what_is_compiled_is_left_to_the_compiler():
    model = nn.Sequential(nn.Sequential(nn.Linear(64, 64)), nn.Linear(64, 64))
    x, expected = torch.randn(5, 64), None
    with torch.no_grad():
        expected = model(x)
        model[0].compile(backend="eager")
        with packed(model):
            assert packed_layers(model) == 1 and "forward" in model[1].__dict__
            torch.testing.assert_close(model(x), expected)
            whole = torch.compile(lambda x: model[1](model[0](x)), backend="eager")  # meets a packed layer
            torch.testing.assert_close(whole(x), expected)
        wrapped = nn.Sequential(torch.compile(nn.Linear(64, 64), backend="eager"))
        with packed(wrapped):
            assert "forward" not in wrapped[0]._orig_mod.__dict__


def test_another_s_forward_stays():
    model = nn.Sequential(nn.Linear(64, 64))
    model[0].forward = hooked = lambda x: x + 1
    with torch.no_grad(), packed(model):
        assert torch.equal(model(torch.zeros(2, 64)), torch.ones(2, 64))
    assert model[0].forward is hooked


def test_a_model_may_be_copied_meanwhile():
    model, x = nn.Sequential(nn.Linear(64, 64)), torch.randn(5, 64)
    with torch.no_grad(), packed(model):
        other = copy.deepcopy(model)
        other[0].weight.mul_(2)
        other[0].bias.mul_(2)
        torch.testing.assert_close(other(x), 2 * model(x))
    with torch.no_grad(), packed(other):
        torch.testing.assert_close(other(x), 2 * model(x))
    assert not packed_layers(model) and not packed_layers(other)


@pytest.mark.parametrize("inside", [True, False])
def test_weights_made_under_inference_mode(inside):
    with torch.inference_mode(inside):
        model = nn.Sequential(nn.Linear(64, 64))
    with torch.inference_mode(not inside), torch.no_grad(), packed(model):
        x = torch.randn(5, 64)
        torch.testing.assert_close(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
