"""What a user does with a checkpoint: generate and stream, reconstruct, climb a ladder of tokens, predict."""

from .core import Pipeline
from .loading import load, medium_of
from .result import Result
from .settings import settings_of

__all__ = ["Pipeline", "Result", "load", "medium_of", "settings_of"]
