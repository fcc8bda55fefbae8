"""The flow MLP: one time or two, its steps, and jumps that a known flow satisfies."""

import pytest
import torch

from nextok_mm.adapters.pocket_tts import turned
from nextok_mm.flow.jumps import residual
from nextok_mm.heads.flow import FlowMLP, TimeEmbedding


def head(times: int) -> FlowMLP:
    torch.manual_seed(0)
    made = FlowMLP(channels=4, cond=10, width=16, depth=2, times=times)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_it_begins_by_predicting_nothing():
    made = FlowMLP(channels=4, cond=10, width=16, depth=2)
    assert not made(torch.randn(3, 4), torch.randn(3, 10), torch.rand(3)).any()


@pytest.mark.parametrize("times, jumps", [(1, False), (2, False), (2, True)])
@torch.no_grad()
def test_sampling_is_euler_steps_of_the_velocity(times, jumps):
    made, noise, hidden = head(times), torch.randn(5, 4), torch.randn(5, 10)
    x = noise
    for t, after in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):
        when = (t, after if jumps else t)[:times]
        x = x + (after - t) * made(x, hidden, *[torch.full((5,), w) for w in when])
    torch.testing.assert_close(made.sample(hidden, noise, 4, jumps), x, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_guidance_goes_beyond_the_conditional_velocity():
    made, noise, hidden = head(1), torch.randn(3, 4), torch.randn(6, 10)
    one = torch.ones(3)
    conditional, without = made(noise, hidden[:3], one), made(noise, hidden[3:], one)
    expected = noise - (without + 2.5 * (conditional - without))
    torch.testing.assert_close(made.sample(hidden, noise, 1, cfg=2.5), expected, rtol=1e-4, atol=1e-5)


def test_a_known_flow_has_no_residual():
    """Between N(0, s^2) and noise on straight lines, x_t = x_1 k(t), k the deviation at t: every jump is known."""

    def deviation(t):
        return (((1 - t) * 0.3) ** 2 + t**2).sqrt()

    def slope(t):
        return (t - (1 - t) * 0.09) / deviation(t)

    def mean_velocity(x, t, r):
        same = (t - r).abs() < 1e-4
        far = torch.where(same, torch.ones_like(t), r - t)
        share = torch.where(same, slope(t) / deviation(t), (deviation(r) / deviation(t) - 1) / far)
        return x * share[..., None]

    torch.manual_seed(0)
    x, t = torch.randn(7, 4), torch.rand(7) * 0.8 + 0.1
    r = t * torch.rand(7) * 0.9
    assert residual(mean_velocity, x, t, r).abs().max() < 1e-4
    assert residual(lambda x, t, r: 1.2 * mean_velocity(x, t, r), x, t, r).abs().max() > 0.01


def test_the_residual_is_a_derivative_and_its_target_has_no_gradient():
    made, x, hidden = head(2), torch.randn(3, 4), torch.randn(3, 10)
    t, r = torch.tensor([0.9, 0.6, 0.5]), torch.tensor([0.2, 0.5, 0.1])

    def end(r):
        return x + (r - t)[:, None] * made(x, hidden, t, r)

    found = residual(lambda x, t, r: made(x, hidden, t, r), x, t, r)
    with torch.no_grad():
        expected = (end(r + 1e-2) - end(r - 1e-2)) / 2e-2 - made(end(r), hidden, r, r)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-2)
    found.square().mean().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_a_turned_time_is_the_same_embedding():
    embed = TimeEmbedding(12, scale=1.0, whole=False)
    other = TimeEmbedding(12, scale=1.0, whole=False)
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
    state = embed.state_dict()
    other.load_state_dict({**state, "up.weight": turned(state["up.weight"], rates)})
    t = torch.linspace(0, 1, 9)
    torch.testing.assert_close(other(1 - t), embed(t), rtol=1e-4, atol=1e-5)
