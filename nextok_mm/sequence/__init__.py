"""The shared sequence model: layouts cut a grid into entities, one attention, one block, one backbone."""

from .attention import BACKENDS, attention, choose_backend
from .backbone import Backbone, BackboneConfig
from .cache import KVCache
from .layout import Layout, make_layout
from .masks import Mask

__all__ = [
    "BACKENDS",
    "Backbone",
    "BackboneConfig",
    "KVCache",
    "Layout",
    "Mask",
    "attention",
    "choose_backend",
    "make_layout",
]
