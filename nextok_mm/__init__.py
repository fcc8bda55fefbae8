"""Next-X generation of images, video and speech: tokenizers, autoregressive generators, one backbone.

    import nextok_mm as nx
    nx.load("xar-fashion").generate(labels=[7], n=16, seed=0).save("out.png")

This is the whole public API; everything else is imported from its room.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contracts import Known, Tokens
    from .pipeline import Pipeline, Result, load
    from .pipeline.chat import Chat
    from .pipeline.ladder import Ladder
    from .zoo import detokenize, generate, list_models, predict, reconstruct, tokenize

__version__ = "0.1.0"
_HOMES = {
    **dict.fromkeys(("Known", "Tokens"), "contracts"),
    **dict.fromkeys(("Pipeline", "Result", "load"), "pipeline"),
    "Chat": "pipeline.chat",
    "Ladder": "pipeline.ladder",
    **dict.fromkeys(("detokenize", "generate", "list_models", "predict", "reconstruct", "tokenize"), "zoo"),
}
__all__ = [
    "Chat",
    "Known",
    "Ladder",
    "Pipeline",
    "Result",
    "Tokens",
    "detokenize",
    "generate",
    "list_models",
    "load",
    "predict",
    "reconstruct",
    "tokenize",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import nextok_mm` costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
