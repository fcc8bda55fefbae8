"""What a user does with a checkpoint: generate and stream, reconstruct, climb a ladder of tokens, predict."""

from .core import Pipeline, load, medium_of, settings_of
from .result import Result

__all__ = ["Pipeline", "Result", "load", "medium_of", "settings_of"]
