"""`nextok bench WHAT`: speed, always side by side in one run, as ratios and as shares of what the machine can do.

Besides adapters/, this is the one room of nextok_mm that may know a method's name: a benchmark is about one.
"""

from importlib import import_module

BENCHES = {
    "machine": "the machine's matmul rate and memory bandwidth",
    "blocks": "next-block claims at small scale: trains and measures tokens, rows and frames",
    "next_block": "next-block video by block size: seconds a clip, steps, frames a second, against the official code",
    "xar": "xAR-B at 256 x 256: sampling and training, against the arithmetic and (--against PATH) the official code",
    "elm": "ELM-B: cached decoding beside transformers' and (--against PATH) the official sampler",
    "language": "SmolLM2-135M: first token and tokens a second, beside transformers (and llama.cpp where it is there)",
    "flextok": "FlexTok d12-d12: encoding, decoding, memory, the official code; and how few network calls will do",
    "claims": "xAR's claims at small scale: trains and measures eight small models",
    "ladder": "FlexTok: reconstruction against the number of tokens, nested dropout, and a 2-D grid",
    "speech": "speech: time to the first sound, real-time factor and memory of Pocket TTS's shape, or of a checkpoint",
    "steps": "how few steps will do: Frechet distance against network calls",
    "zoo": "every shipped checkpoint: its pictures' hash and its own figures, beside those from before a change",
    "text": "bits per byte of held-out pages: a language model beside 5-grams and xz -9",
    "table": "writes the Markdown table of a bench's JSON into docs/benchmarks, or prints it",
    "sounds": "tokenizers of sound: what comes back of held-out recordings, and what it costs",
    "sampling": "a shipped or tiny xAR: cached against uncached, attention backends, images a second, training",
}
PLOTTED = ("blocks", "claims", "ladder", "steps")
"""Those that end with a plot: what draws it is asked for before the work, not after it."""


def main(arguments: list[str]) -> None:
    """Run one benchmark; the first argument names it, the rest are its own."""
    name = arguments[0] if arguments else ""
    if name not in BENCHES:
        raise ValueError(f"bench: got {name!r}, accepted: {', '.join(BENCHES)}")
    if name in PLOTTED and not {"-h", "--help"} & set(arguments):
        import_module("matplotlib")
    import_module("nextok_mm.machine" if name == "machine" else f"{__name__}.{name}").main(arguments[1:])
