"""The one loop over entities: every generator of this package is sampled by `decode` and by nothing else."""

from collections.abc import Callable, Iterator

import torch

from ..contracts import Generator, State
from ..sequence.packed import packed

Progress = Callable[[int, int], None]


def decode(generator: Generator, state: State, progress: Progress | None = None) -> Iterator[State]:
    """Step until done, handing out the state after every entity; each is decodable (`state.data`).

    progress(done, entities) is called after every entity. Stop iterating to stop early: nothing is left behind.
    """
    with packed(generator):
        while not state.done:
            with torch.no_grad():
                state = generator.step(state)
            if progress is not None:
                progress(state.entity, state.entities)
            yield state
