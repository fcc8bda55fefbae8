"""From noise (t = 1) to data (t = 0): ODE solvers and the SDE sampler, each a pure function.

`velocity(x, t)` is the only thing they know of a model. `nfe` below counts its calls for a budget of S steps.

| solver          | order | nfe    | notes                                                                          |
|-----------------|-------|--------|--------------------------------------------------------------------------------|
| euler           | 1     | S      |                                                                                |
| heun            | 2     | 2S - 1 | its last step is an Euler step: the end needs no correction                    |
| ab2             | 2     | S      | Adams-Bashforth on uneven grids: a second order step for the price of one call |
| euler_maruyama  | 1     | S      | the SDE with diffusion 2t, from 1 to `last`, then one noiseless step to 0      |

Sources: SiT (arXiv 2401.08740), appendix D, for the SDE; Hairer, Norsett, Wanner, Solving ODEs I, III.1 and III.5.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from .paths import PATHS, Path

Velocity = Callable[[Tensor, float], Tensor]
Project = Callable[[Tensor, float], Tensor]


def euler(velocity: Velocity, x: Tensor, times: Sequence[float], project: Project) -> Tensor:
    """One call a step."""
    for t, after in pairwise(times):
        x = project(x + (after - t) * velocity(x, t), after)
    return x


def heun(velocity: Velocity, x: Tensor, times: Sequence[float], project: Project) -> Tensor:
    """Euler's guess, corrected with the slope at its end."""
    for t, after in pairwise(times):
        v = velocity(x, t)
        guess = x + (after - t) * v
        if after > 0:
            guess = x + (after - t) * (v + velocity(guess, after)) / 2
        x = project(guess, after)
    return x


def ab2(velocity: Velocity, x: Tensor, times: Sequence[float], project: Project) -> Tensor:
    """The slope extrapolated from this call and the one before; the first step is Euler's."""
    before, step_before = None, 0.0
    for t, after in pairwise(times):
        step, v = after - t, velocity(x, t)
        lean = 0.0 if before is None else step / (2 * step_before)
        slope = v if before is None else v + lean * (v - before)
        x = project(x + step * slope, after)
        before, step_before = v, step
    return x


def euler_maruyama(
    velocity: Velocity,
    x: Tensor,
    times: Sequence[float],
    project: Project,
    noise: Callable[[], Tensor],
    path: Path,
) -> Tensor:
    """dx = (v - w score / 2) dt + sqrt(w) dW with w = 2t, run backwards; the last step leaves out the noise."""
    for t, after in pairwise(times):
        step, diffusion = after - t, 2 * t
        v = velocity(x, t)
        drift = v - 0.5 * diffusion * path.to_score(v, x, t)
        x = x + drift * step
        if after > 0:
            x = x + (diffusion * -step) ** 0.5 * noise()
        x = project(x, after)
    return x


SOLVERS = ("euler", "heun", "ab2", "euler_maruyama")


def time_grid(solver: str, steps: int, last: float = 0.04) -> list[float]:
    """The steps + 1 times from 1 to 0; the SDE spreads its steps from 1 to `last` and ends with last -> 0."""
    if solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}, accepted: {', '.join(SOLVERS)}")
    if steps < 1:
        raise ValueError(f"steps: got {steps}, accepted: at least 1")
    if solver == "euler_maruyama":
        return [1.0 + (last - 1.0) * i / max(steps - 1, 1) for i in range(steps)] + [0.0]
    return [1.0 - i / steps for i in range(steps + 1)]


def solve(
    solver: str,
    velocity: Velocity,
    x: Tensor,
    times: Sequence[float],
    noise: Callable[[], Tensor] | None = None,
    path: Path = PATHS["linear"],
    project: Project = lambda x, t: x,
) -> Tensor:
    """Integrate x from times[0] to times[-1]. `noise` draws like x for the SDE; `project` is applied after each step
    (in-painting puts the known tokens back there)."""
    if solver == "euler_maruyama":
        assert noise is not None, "the SDE needs noise"
        return euler_maruyama(velocity, x, times, project, noise, path)
    return {"euler": euler, "heun": heun, "ab2": ab2}[solver](velocity, x, times, project)
