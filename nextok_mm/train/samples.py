"""Pictures drawn while training: reconstructions of a tokenizer, samples of a generator."""

from pathlib import Path
from typing import Any

import torch

from ..contracts import Condition, Generator, Known, Tokens
from ..data import Source
from ..data.latents import Latents
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
            images = _pictures(model, source, min(count, len(source)), device)
            made = torch.stack([images, model.decode(model.encode(images))], dim=1).flatten(0, 1)
        elif config.model.role == "generator" and tokenizer is not None:
            rng = Rng([mix(seed, "sample", row) for row in range(count)])
            condition, known = _condition(model, source, count, device), _given(model, tokenizer, source, count, device)
            for state in decode(model, model.start(condition, rng, known=known)):
                last = state
            made = tokenizer.decode(Tokens(last.data, model.layout.grid))
        else:
            return
    finally:
        model.train(training)
    medium = (tokenizer or model).medium
    tiles, columns = medium.tiles(made.cpu().clamp(medium.low, 1))
    name = f"step-{step:08d}.png"
    write_whole(folder / name, lambda file: save_image(tiles, file, format="png", nrow=columns or 8), force=True)


def _pictures(model: Any, source: Source, count: int, device: torch.device) -> torch.Tensor:
    """The first rows' pictures; of a cache, what the model's own VAE makes of its latents."""
    batch = source.batch(range(count))
    if isinstance(source, Latents):
        return model.vae.decode(Tokens(batch["tokens"].to(device), source.manifest.grid))
    return batch["images"].to(device)


def _condition(model: Generator, source: Source, count: int, device: torch.device) -> Condition:
    """The classes that the data has, in turn, or captions from all over it, whichever the model takes."""
    if "text" in model.takes and source.captions:
        return {"text": [source.captions[row * len(source) // count] for row in range(count)]}
    labels = source.found_labels() if "labels" in model.takes else []
    return (
        {"labels": torch.tensor([labels[row % len(labels)] for row in range(count)], device=device)} if labels else None
    )


def _given(model: Generator, tokenizer: Any, source: Source, count: int, device: torch.device) -> Known | None:
    """What the first rows begin with, for a model that only goes on from something."""
    if not model.given:
        return None
    batch = source.batch([row % len(source) for row in range(count)])
    tokens = batch["tokens"] if "tokens" in batch else tokenizer.encode(batch["images"].to(device)).data
    return Known(tokens.to(device), model.layout.entity_ids[model.layout.inverse] < model.given)
