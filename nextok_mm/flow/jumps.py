"""Jumps: a network that goes from any time of a path to any later one at once, taught by its own velocities.

X(x, t, r) = x + (r - t) v(x, t, r) is where the flow stands at r if it stood at x at t, and v(x, t, t) is the velocity
of plain flow matching. Along a true flow the end of a jump moves, as r does, with the velocity that holds there: that
is the loss below, which needs no teacher beside the network itself.

Shapes: ... any leading axes, C channels. Times: t = 0 data, t = 1 noise; a jump goes from t down to r.
Source: Lagrangian self-distillation, Boffi et al., How to build a consistency model (arXiv 2505.18825).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Jump = Callable[[Tensor, Tensor, Tensor], Tensor]
"""v(x [..., C], t [...], r [...]) -> mean velocities [..., C]."""


def residual(velocity: Jump, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """How far the ends of jumps move otherwise than the velocity there says: zero for a true flow.

    Args:
        velocity: The network, which is differentiated forward with respect to r.
        x: Where the jumps begin, [..., C].
        t: When they begin, [...].
        r: When they end, [...], at most t.

    Returns:
        d X / d r - v(X, r, r), [..., C]; the second part is a target and has no gradient.
    """

    def end_of(when: Tensor) -> Tensor:
        return x + (when - t)[..., None].to(x.dtype) * velocity(x, t, when)

    end, motion = torch.func.jvp(end_of, (r,), (torch.ones_like(r),))[:2]
    with torch.no_grad():
        target = velocity(end.detach(), r, r)
    return motion - target
