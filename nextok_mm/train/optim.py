"""AdamW with weight decay where it belongs, the learning rate as a function of the step, and the running mean."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .config import EMA, Optim


def build_optimizer(model: nn.Module, config: Optim) -> torch.optim.AdamW:
    """AdamW over the trainable parameters: decay for those of two dimensions and more, none for the others."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("model: it has no trainable parameter")
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(step: int, steps: int, config: Optim) -> float:
    """The rate of step 0 .. steps-1. A function, not a scheduler: there is no state to lose at a resume."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    return config.lr * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def build_ema(model: nn.Module, config: EMA) -> AveragedModel | None:
    """The running mean of a model's parameters and buffers, or None where the config wants none."""
    if not config.decay:
        return None

    def average(means: list[Tensor], now: list[Tensor], updates: Tensor | int) -> None:
        n = int(updates)
        weight = 1 - (min(config.decay, (1 + n) / (10 + n)) if config.warmup else config.decay)
        torch._foreach_lerp_(means, now, weight)

    return AveragedModel(model, multi_avg_fn=average).requires_grad_(False).eval()
