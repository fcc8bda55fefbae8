"""Training: one loop for every registered model. `train(load("configs/train/x.yaml", ["optim.lr=3e-4"]))`."""

from .config import TrainConfig, load
from .loop import Summary, train

__all__ = ["Summary", "TrainConfig", "load", "train"]
