"""What a discriminator says of what was made, for both sides of adversarial training in one backward pass.

Source: hinge loss from Lim and Ye, Geometric GAN (arXiv 1705.02894).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call


def judged(discriminator: Any, made: Tensor, real: Tensor) -> tuple[Any, Any, Any]:
    """What it makes of: `made` for its maker, the real ones, `made` for the discriminator itself.

    One backward serves both: the first sees the discriminator's weights detached, the last sees `made` detached, so
    neither side pushes the other's parameters.
    """
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    return functional_call(discriminator, frozen, (made,)), discriminator(real), discriminator(made.detach())


def hinge(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's two terms, a number per logit."""
    return F.relu(1 - real), F.relu(1 + made)
