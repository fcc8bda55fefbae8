"""The checkpoints that ship with the package (one folder each), and one-call forms of what a pipeline does.

The one-call forms keep the model they loaded last, so a second call is quick.
"""

from functools import lru_cache
from typing import Any

from ..checkpoint import ZOO, Card, read_card
from ..contracts import Tokens
from ..pipeline import Pipeline, Result, load


def list_models(role: str | None = None) -> dict[str, Card]:
    """List the checkpoints that ship with the package.

    Args:
        role: Only those of this role: tokenizer, generator or judge. None lists all of them.

    Returns:
        The card of every checkpoint, by name.

    Example:
        >>> import nextok_mm as nx
        >>> nx.list_models("generator")["xar-fashion"].kind
        'xar'
    """
    cards = {folder.name: read_card(folder) for folder in sorted(ZOO.iterdir()) if (folder / "config.json").is_file()}
    return {name: card for name, card in cards.items() if role in (None, card.role)}


def generate(name: str, labels: Any = None, n: int = 1, seed: int = 0, **settings: Any) -> Result:
    """Generate n samples, such as pictures; the model stays loaded for the next call.

    Args:
        name: Name of a generator; see `load`.
        labels: Classes by number or name; None cycles through all of them.
        n: Number of samples.
        seed: Seed of the run.
        settings: Further arguments of `Pipeline.generate`, and sampling settings.

    Returns:
        The samples.

    Raises:
        ValueError: There is no such checkpoint, or an argument is not accepted.

    Example:
        >>> import nextok_mm as nx
        >>> nx.generate("xar-fashion", labels=7, n=2, steps=2).labels
        [7, 7]
    """
    return _loaded(name).generate(labels, n, seed, **settings)


def tokenize(name: str, images: Any) -> Tokens:
    """Encode pictures to tokens; the model stays loaded for the next call.

    Args:
        name: Name of a tokenizer, or of a generator, whose tokenizer it then is; see `load`.
        images: Pictures [B, C, H, W] in [0, 1], or in any form that `Pipeline.tokenize` accepts.

    Returns:
        The tokens.

    Raises:
        ValueError: There is no such checkpoint, or it does not accept the pictures.

    Example:
        >>> import torch
        >>> import nextok_mm as nx
        >>> nx.tokenize("vae-fashion", torch.zeros(1, 1, 32, 32)).grid
        (4, 4)
    """
    return _loaded(name).tokenize(images)


def detokenize(name: str, tokens: Any, seed: int | None = None, **settings: Any) -> Result:
    """Decode tokens to pictures; the model stays loaded for the next call.

    Args:
        name: Name of a tokenizer, or of a generator, whose tokenizer it then is; see `load`.
        tokens: `Tokens`, or latents or codes as a tensor, an array or a list.
        seed: Seed of the noise, for a tokenizer whose decoding draws noise.
        settings: Further arguments of `Pipeline.detokenize`, and decoding settings.

    Returns:
        The pictures.

    Raises:
        ValueError: There is no such checkpoint, or it does not accept the tokens.

    Example:
        >>> import torch
        >>> import nextok_mm as nx
        >>> nx.detokenize("vae-fashion", torch.zeros(1, 16, 16)).images.shape
        torch.Size([1, 1, 32, 32])
    """
    return _loaded(name).detokenize(tokens, seed, **settings)


def reconstruct(name: str, images: Any, **options: Any) -> Result:
    """Encode pictures and decode them again; the model stays loaded for the next call.

    Args:
        name: Name of a tokenizer, or of a generator, whose tokenizer it then is; see `load`.
        images: Pictures [B, C, H, W] in [0, 1], the name of a file, or any form that `Pipeline.tokenize` accepts.
        options: Further arguments of `Pipeline.reconstruct`.

    Returns:
        The reconstructions; a `Ladder` where `tokens` are given.

    Raises:
        ValueError: There is no such checkpoint, or an argument is not accepted.

    Example:
        >>> import torch
        >>> import nextok_mm as nx
        >>> nx.reconstruct("vae-fashion", torch.rand(2, 1, 32, 32)).save("back.png").name
        'back.png'
    """
    return _loaded(name).reconstruct(images, **options)


def predict(name: str, clips: Any, frames: int | None = None, seed: int = 0, **settings: Any) -> Result:
    """Continue clips from their first frames; the model stays loaded for the next call.

    Args:
        name: Name of a generator of clips; see `load`.
        clips: The first frames, such as [n, C, T, H, W] in [0, 1].
        frames: Number of frames of the whole clip; None generates as many as the model was trained on.
        seed: Seed of the run.
        settings: Further arguments of `Pipeline.predict`, and sampling settings.

    Returns:
        The clips, which begin with the given frames.

    Raises:
        ValueError: There is no such checkpoint, it is none of clips, or an argument is not accepted.
    """
    return _loaded(name).predict(clips, frames, seed, **settings)


@lru_cache(maxsize=1)
def _loaded(name: str) -> Pipeline:
    return load(name)
