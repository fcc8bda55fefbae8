"""The one loop over entities: every generator of this package is sampled by `decode` and by nothing else."""

from collections.abc import Callable, Iterator
from typing import Any

from ..contracts import Generator, State
from ..inference import inference
from ..sequence.packed import packed

Progress = Callable[[int, int], None]


def decode(generator: Generator[Any, Any], state: State, progress: Progress | None = None) -> Iterator[State]:
    """Step until done, handing out the state after every entity; each is decodable (`state.data`).

    progress(finished, total) is called after every entity. Stop iterating to stop early: nothing is left behind. Steps
    run in eval mode and without gradients; between them both are as the caller has them.
    """
    with packed(generator):
        while not state.done:
            with inference(generator):
                state = generator.step(state)
            if progress is not None:
                progress(state.finished, state.total)
            yield state
