"""Pictures drawn while training: reconstructions of a tokenizer, samples of a generator."""

from pathlib import Path
from typing import Any

import torch

from ..contracts import Condition, Generator, Tokens
from ..data import Source
from ..decoding import decode
from ..files import write_whole
from ..rng import Rng, mix
from .config import TrainConfig


@torch.no_grad()
def write_grid(model: Any, tokenizer: Any, source: Source, config: TrainConfig, folder: Path, step: int) -> None:
    """`folder/step-00001000.png`: pairs (picture, reconstruction), or samples, of classes or captions in turn.

    ValueError in one line where the disk is full.
    """
    from torchvision.utils import save_image

    count, seed = config.train.samples, config.train.seed
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        if config.model.role == "tokenizer":
            images = source.batch(range(min(count, len(source))))["images"].to(device)
            pictures = torch.stack([images, model.decode(model.encode(images))], dim=1).flatten(0, 1)
        elif config.model.role == "generator" and tokenizer is not None:
            rng = Rng([mix(seed, "sample", row) for row in range(count)])
            for state in decode(model, model.start(_condition(model, source, count, device), rng)):
                last = state
            pictures = tokenizer.decode(Tokens(last.data, model.layout.grid))
        else:
            return
    finally:
        model.train(training)
    columns = 8
    if pictures.dim() == 5:  # a clip is a row of its frames
        columns = pictures.shape[2]
        pictures = pictures.transpose(1, 2).flatten(0, 1)
    pictures = pictures.cpu().clamp(0, 1)
    name = f"step-{step:08d}.png"
    write_whole(folder / name, lambda file: save_image(pictures, file, format="png", nrow=columns), force=True)


def _condition(model: Generator, source: Source, count: int, device: torch.device) -> Condition:
    """Classes in turn, or captions from all over the data."""
    if model.conditioned_on == "text" and source.captions:
        return [source.captions[row * len(source) // count] for row in range(count)]
    classes = len(source.class_names or ())
    return torch.arange(count, device=device) % classes if classes else None
