"""What goes in and comes out: one file a medium. What comes in is untrusted; nothing is silently replaced."""

from .clips import Clips
from .medium import Fit, Medium, Saving
from .pictures import Pictures
from .sounds import Sounds
from .texts import Words

VISUAL: tuple[type[Medium], ...] = (Pictures, Clips)
"""The media that `images` of a batch may be."""

__all__ = ["VISUAL", "Clips", "Fit", "Medium", "Pictures", "Saving", "Sounds", "Words"]
