"""What a user does with a checkpoint: generate and stream, reconstruct, climb a ladder of tokens, predict."""

from .core import Pipeline, Result, load, of_clips, settings_of

__all__ = ["Pipeline", "Result", "load", "of_clips", "settings_of"]
