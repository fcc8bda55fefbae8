"""What was measured once is kept on disk: features of real pictures and of baselines, keyed by everything they hang on.

The folder is `$NEXTOK_CACHE/measured`, or `~/.cache/nextok_mm/measured`; deleting it costs time and nothing else.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ..checkpoint import read_weights
from ..files import write_files

_logger = logging.getLogger(__name__)
VERSION = 1
"""Raised whenever the computation behind a key changes."""


def folder() -> Path:
    """Where measurements are kept."""
    return Path(os.environ.get("NEXTOK_CACHE") or "~/.cache/nextok_mm").expanduser() / "measured"


def remembered(key: tuple[object, ...], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors kept under `key`, computed and kept where there are none yet, or damaged ones.

    Where they can't be kept, a warning says so: what was measured counts for more than its memory.
    """
    name = hashlib.sha256(repr((VERSION, *key)).encode()).hexdigest()[:32] + ".safetensors"
    try:
        return read_weights(folder() / name)
    except ValueError:
        tensors = {part: tensor.contiguous() for part, tensor in compute().items()}
        try:
            write_files(folder(), {name: save(tensors)})
        except ValueError as error:
            _logger.warning("this measurement can't be kept for the next time: %s", error)
        return tensors
