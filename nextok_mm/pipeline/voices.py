"""Whose voice a model speaks with: recordings, or states of the model that have heard one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..contracts import Generator, State, Tokenizer
from ..decoding.states import load_state
from ..inference import inference

SAVED = ".safetensors"


def read(
    generator: Generator | None, tokenizer: Tokenizer | None, name: str, given: Any, n: int
) -> Mapping[str, list[Any]]:
    """The voices of n samples, one or several given taken in turn.

    Args:
        generator: What speaks.
        tokenizer: What encodes recordings.
        name: Of the checkpoint, in messages.
        given: Names of sound files, sounds in any form that the tokenizer's medium takes, names of files of states
            (`decoding.states.save_state`), or such states; one, or a list.
        n: Number of samples.

    Returns:
        `voice` for each sample: latents [V, C], or a state.

    Raises:
        ValueError: The generator hears no voice, or one of them can't be read.
    """
    if generator is None or tokenizer is None or "voice" not in generator.takes:
        raise ValueError(f"voice: got one, accepted: none, {name} has no voice but its own")
    each = list(cast(list[Any], given)) if isinstance(given, list) else [given]
    if not each:
        raise ValueError("voice: got none in the list, accepted: at least one")
    heard = [_one(generator, tokenizer, voice) for voice in each]
    return {"voice": [heard[row % len(heard)] for row in range(n)]}


def _one(generator: Generator, tokenizer: Tokenizer, given: Any) -> Any:
    if isinstance(given, State):
        return given
    if isinstance(given, str | Path) and Path(given).suffix == SAVED:
        return load_state(generator, given)
    sound = tokenizer.medium.take(given)
    if len(sound) != 1:
        raise ValueError(f"voice: got {len(sound)} sounds in one, accepted: a list of voices, or one")
    with inference(tokenizer):
        return tokenizer.encode(sound.to(tokenizer.device)).data[0]
