"""`nextok study WHAT`: a paper's analysis, made again at small scale: one JSON and plots.

Like bench/, a room that may know a method's name: a study is about one.
"""

from importlib import import_module

STUDIES = {
    "elm": "image codes as a language: entropy, locality, size, vocabulary split, masked, guidance and top-k",
    "objectives": "what objectives are good for: paths through mazes (mlm_u), recall from a context (meap)",
}


def main(arguments: list[str]) -> None:
    """Run one study; the first argument names it, the rest are its own."""
    name = arguments[0] if arguments else ""
    if name not in STUDIES:
        raise ValueError(f"study: got {name!r}, accepted: {', '.join(STUDIES)}")
    if not {"-h", "--help"} & set(arguments):
        import_module("matplotlib")  # every study ends with plots: missing, that is said before the hours of work
    import_module(f"{__name__}.{name}").main(arguments[1:])
