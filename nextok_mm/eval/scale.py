"""Give a trained KL tokenizer the shift and scale that make its tokens zero-mean, unit-deviation in every channel.

`python -m nextok_mm.eval.scale runs/vae-fashion/final nextok_mm/zoo/vae-fashion` measures them on the training split
and writes the checkpoint again; the weights stay as they are. Other data: kind=emoji flip=true (its training split), or
kind=image_folder path=FOLDER size=[32,32] channels=1.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import console, registry
from ..checkpoint import from_pretrained, save_pretrained
from ..config import override
from ..files import check_out
from .quality import BATCH, TRAIN
from .samples import latent_moments, opened, splits


def standardize(source: str | Path, folder: str | Path, train: Mapping[str, Any] = TRAIN) -> Path:
    """Write the tokenizer of `source` to `folder` with `scale` and `shift` measured on `train`; returns the folder."""
    model, card = from_pretrained(source, role="tokenizer")
    if not {"scale", "shift"} <= set(type(model.config).model_fields):
        raise ValueError(f"{source}: a {card.kind} has no scale and shift, accepted: kl_vae")
    plain = registry.build("tokenizer", card.kind, {**model.config.model_dump(), "scale": 1.0, "shift": 0.0}).eval()
    plain.load_state_dict(model.state_dict())
    moments = latent_moments(plain, opened(train, plain), BATCH)
    mean = moments["all.mean"].double().mean(dim=(0, 1))
    # Over all positions: the spread within each, and that of their means around the channel's.
    second = moments["all.std"].double().square() + moments["all.mean"].double().square()
    std = (second.mean(dim=(0, 1)) - mean.square()).sqrt()
    fields = {**model.config.model_dump(), "scale": _short(1 / std), "shift": _short(mean)}
    scaled = registry.build("tokenizer", card.kind, fields)
    scaled.load_state_dict(model.state_dict())
    meta = card.model_dump(include={"name", "labels", "license", "about"})
    meta["about"] = {**meta["about"], "scaled": "unit deviation per channel, measured on the training split"}
    return save_pretrained(scaled, folder, dtype=torch.float16, **meta)


def main() -> None:
    """The command."""
    source, folder, *given = sys.argv[1:]
    check_out(folder, force=True)
    print(standardize(source, folder, _train(given) if given else TRAIN))


def _short(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in values.tolist())


def _train(given: list[str]) -> dict[str, Any]:
    """What was typed, and the training split where nothing says otherwise."""
    fields = override({}, given)
    return fields if "split" in fields else splits(fields)[1]


if __name__ == "__main__":
    sys.exit(console.run(main) if len(sys.argv) >= 3 else __doc__)
