"""The checkpoints that ship with the package (one folder each), and one-call forms of what a pipeline does.

The one-call forms keep the model they loaded last, so a second call is quick.
"""

from functools import lru_cache
from typing import Any

from ..checkpoint import ZOO, Card, read_card
from ..contracts import Tokens
from ..pipeline import Pipeline, Result, load


def list_models(role: str | None = None) -> dict[str, Card]:
    """The shipped checkpoints by name, of one role or of all."""
    cards = {folder.name: read_card(folder) for folder in sorted(ZOO.iterdir()) if (folder / "config.json").is_file()}
    return {name: card for name, card in cards.items() if role in (None, card.role)}


def generate(name: str, labels: Any = None, n: int = 1, seed: int = 0, **settings: Any) -> Result:
    """n pictures from a generator; the arguments are those of `Pipeline.generate`."""
    return _loaded(name).generate(labels, n, seed, **settings)


def tokenize(name: str, images: Any) -> Tokens:
    """Images [B, C, H, W] in [0, 1] to the tokens of a tokenizer (or of a generator's)."""
    return _loaded(name).tokenize(images)


def detokenize(name: str, tokens: Any, seed: int | None = None, **settings: Any) -> Result:
    """Tokens to pictures; the arguments are those of `Pipeline.detokenize`."""
    return _loaded(name).detokenize(tokens, seed, **settings)


def reconstruct(name: str, images: Any, **options: Any) -> Result:
    """Pictures there and back: a tensor [B, C, H, W] in [0, 1], or a file's name; a Ladder where `tokens` are given.

    The options are those of `Pipeline.reconstruct`.
    """
    return _loaded(name).reconstruct(images, **options)


def predict(name: str, clips: Any, frames: int | None = None, seed: int = 0, **settings: Any) -> Result:
    """Clips that go on from their first frames; the arguments are those of `Pipeline.predict`."""
    return _loaded(name).predict(clips, frames, seed, **settings)


@lru_cache(maxsize=1)
def _loaded(name: str) -> Pipeline:
    return load(name)
