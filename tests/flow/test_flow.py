"""Paths invert, solvers converge at their order and equal torchdiffeq, guidance says when it is needed."""

import math

import pytest
import torch

from nextok_mm.flow import PATHS, SOLVERS, sample_times, solve, time_grid
from nextok_mm.flow.guidance import GROWTH, Guidance, Projected, guide, guide_halves
from nextok_mm.flow.times import bounded_noise
from nextok_mm.rng import Rng


@pytest.mark.parametrize("name", PATHS)
def test_every_prediction_converts_to_every_other(name):
    path = PATHS[name]
    x0, eps = torch.randn(2, 5, 3, dtype=torch.float64)
    for t in (0.3, torch.rand(5, 1, dtype=torch.float64) * 0.8 + 0.1):
        x, v = path.mix(x0, eps, t), path.velocity(x0, eps, t)
        torch.testing.assert_close(path.to_x0(v, x, t), x0)
        torch.testing.assert_close(path.to_eps(v, x, t), eps)
        torch.testing.assert_close(path.from_x0(x0, x, t), v)
        torch.testing.assert_close(path.from_eps(eps, x, t), v)
        torch.testing.assert_close(path.from_score(path.to_score(v, x, t), x, t), v)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_derivative(name):
    path, h = PATHS[name], 1e-6
    x0, eps = torch.randn(2, 4, dtype=torch.float64)
    slope = (path.mix(x0, eps, 0.4 + h) - path.mix(x0, eps, 0.4 - h)) / (2 * h)
    torch.testing.assert_close(path.velocity(x0, eps, 0.4), slope, rtol=1e-6, atol=1e-6)


def gaussian_velocity(mean: float, std: float):
    """The exact velocity of the linear path when the data is N(mean, std^2): everything can be checked against it."""

    def velocity(x, t):
        variance = (1 - t) ** 2 * std**2 + t**2
        residual = (x - (1 - t) * mean) / variance
        return -mean + (t - (1 - t) * std**2) * residual

    return velocity


def exact(x1: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """The flow of that velocity carries N(0, 1) onto N(mean, std^2) in order."""
    return mean + std * x1


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_order_of_convergence(solver, order):
    x1 = torch.linspace(-2, 2, 9, dtype=torch.float64)
    velocity = gaussian_velocity(1.5, 0.5)
    errors = [
        (solve(solver, velocity, x1, time_grid(solver, steps)) - exact(x1, 1.5, 0.5)).abs().max().item()
        for steps in (40, 80)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_uneven_grids_keep_the_order_of_ab2():
    x1 = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (40, 80):
        times = (torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 1.5).tolist()
        errors.append((solve("ab2", gaussian_velocity(1.5, 0.5), x1, times) - exact(x1, 1.5, 0.5)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) > 1.6


def test_euler_equals_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    velocity, x1 = gaussian_velocity(1.0, 0.3), torch.randn(50)
    times = time_grid("euler", 12)
    theirs = torchdiffeq.odeint(lambda t, x: velocity(x, t), x1, torch.tensor(times), method="euler")[-1]
    torch.testing.assert_close(solve("euler", velocity, x1, times), theirs, rtol=1e-5, atol=1e-6)


def test_the_sde_samples_the_data():
    rng = Rng(range(4))
    x1 = rng.normal(5000)
    x0 = solve(
        "euler_maruyama", gaussian_velocity(1.5, 0.5), x1, time_grid("euler_maruyama", 80), lambda: rng.normal(5000)
    )
    assert x0.mean().item() == pytest.approx(1.5, abs=0.03) and x0.std().item() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("solver", SOLVERS)
def test_calls_are_what_the_table_says(solver):
    times_called = []

    def velocity(x, t):
        times_called.append(t)
        return -x

    solve(solver, velocity, torch.ones(2), time_grid(solver, 6), noise=lambda: torch.zeros(2))
    assert len(times_called) == {"heun": 11}.get(solver, 6)
    assert times_called[0] == 1.0 and min(times_called) > 0


def test_project_is_applied_after_every_step():
    seen = []

    def project(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    assert solve("euler", lambda x, t: x, torch.ones(2), time_grid("euler", 4), project=project).sum() == 0
    assert seen == time_grid("euler", 4)[1:]


def test_time_samplers():
    rng = Rng(range(50))
    logit = sample_times("logit_normal", rng, 400)
    assert logit.shape == (50, 400) and 0 < logit.min() and logit.max() < 1
    assert torch.logit(logit).std().item() == pytest.approx(1, abs=0.02)
    assert sample_times("uniform", rng, 400).mean().item() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="time sampler"):
        sample_times("normal", rng, 4)


def test_guidance_schedules_and_intervals():
    linear = Guidance(weight=3.0, schedule="linear")
    assert [linear.at(0.5, e, 5) for e in range(5)] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert linear.at(0.5, 0, 1) == 3.0
    for schedule in GROWTH:
        weights = [Guidance(weight=3.0, schedule=schedule).grown(r / 10) for r in range(11)]
        assert weights[-1] == pytest.approx(3.0) and weights == sorted(weights)
        assert weights[0] == pytest.approx(3.0 if schedule == "constant" else 1.0)
    assert Guidance(weight=2.0, schedule="cosine").grown(1 / 3) == pytest.approx(1.5)
    interval = Guidance(weight=2.0, interval=(0.2, 0.8))
    assert [interval.at(t) for t in (0.1, 0.2, 0.8, 0.9)] == [1.0, 2.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="low <= high"):
        Guidance.parse({"interval": [0.8, 0.2]})
    a, b = torch.randn(2, 3)
    torch.testing.assert_close(guide(a, b, 1.0), a)
    torch.testing.assert_close(guide(a, b, 0.0), b)


@pytest.mark.parametrize("solver, steps, word", [("rk45", 4, "solver"), ("euler", 0, "steps")])
def test_wrong_grids_name_their_field(solver, steps, word):
    with pytest.raises(ValueError, match=word):
        time_grid(solver, steps)


def test_projected_guidance_without_its_limits_is_plain_guidance():
    conditional, unconditional = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    free = Projected(3.0, momentum=0.0, norm=1e9, eta=1.0)
    torch.testing.assert_close(free(conditional, unconditional), guide(conditional, unconditional, 3.0))


def test_projected_guidance_leaves_the_length_along_the_prediction_alone():
    conditional, unconditional = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    change = Projected(7.5, norm=2.5)(conditional, unconditional) - conditional
    assert (change * conditional).flatten(1).sum(1).abs().max() < 1e-4
    assert change.flatten(1).norm(dim=1).max() <= 6.5 * 2.5 + 1e-4


@pytest.mark.parametrize("schedule", GROWTH)
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.4), (0.45, 0.46)])
@pytest.mark.parametrize("weight", [0.0, 1.0, 1.0 + 1e-9, 3.0])
def test_whether_guidance_is_ever_needed_is_the_same_for_every_entity(schedule, interval, weight):
    guidance, times = Guidance(weight=weight, schedule=schedule, interval=interval), time_grid("euler", 5)[:-1]
    for entities in (1, 2, 7):
        for entity in range(entities):
            left = range(entity, entities)
            assert guidance.ever(times) == any(guidance.at(t, e, entities) != 1.0 for e in left for t in times)


def test_halves_are_guided_as_two_predictions_are():
    conditional, unconditional = torch.randn(2, 3, 4)
    both = torch.cat((conditional, unconditional))
    assert torch.equal(guide_halves(both, 3.0), guide(conditional, unconditional, 3.0))


def test_temperature_and_clamp_bound_the_noise():
    like = torch.empty(0)
    bounded = bounded_noise(Rng(range(4000)), 4, 0.81, 0.5, like)
    expected = torch.nn.init.trunc_normal_(torch.empty(200_000), std=0.9, a=-0.5, b=0.5)
    assert bounded.abs().max() <= 0.5 and abs(bounded.std() - expected.std()) < 0.01
    assert not bounded_noise(Rng([0]), 4, 0.0, 0.5, like).any()
    assert abs(bounded_noise(Rng(range(4000)), 4, 0.25, None, like).std() - 0.5) < 0.02
