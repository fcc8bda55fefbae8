"""Speech as latents with the phonemes that are said and how long each lasts, to learn from where a model is told them.

    python -m nextok_mm.data.speech_latents DATA TOKENIZER OUT.safetensors

DATA is a folder that `speech` reads, with a `phonemes.jsonl` beside its sounds; every sound is encoded once, whole. A
row begins with a sentence and goes on with others, until it is as long as all rows are: nothing is filled up, and a
model also learns how one sentence follows another. Which others those are is drawn from the row's seed.

Shapes: B batch, N latents of a row, P phonemes, C channels, n sentences, T latents of all of them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..checkpoint import fingerprint, from_pretrained, read_weights
from ..console import run
from ..contracts import Batch, Tokenizer
from ..files import write_whole
from ..inference import inference
from ..media.spelling import SILENCE, Spelling
from ..rng import Rng, mix
from ..sequence.reading import padded
from .source import Source, SourceConfig


class Config(SourceConfig):
    """Encoded speech of one file."""

    kind: Literal["speech_latents"] = Field(
        default="speech_latents", description="Name of this kind of source, which selects this config."
    )
    path: str = Field(min_length=1, description="The .safetensors file, as the module's command writes it.")
    length: int = Field(128, ge=1, le=1 << 16, description="Number of latents per row.")

    def open(self) -> "SpeechLatents":
        """The file, in memory."""
        return SpeechLatents(self)


class SpeechLatents(Source):
    """Rows of sentences. words: what spells text in the same phonemes; tokenizer: the fingerprint of what encoded the
    sounds; per_latent: units of duration that a latent covers."""

    draws = frozenset({"sample"})

    def __init__(self, config: Config):
        self.config, where = config, f"data.path {config.path}"
        path = Path(config.path).expanduser()
        if path.suffix != ".safetensors" or not path.is_file():
            raise ValueError(f"data.path: got {config.path!r}, accepted: a .safetensors file that is there")
        found, about = read_weights(path), _about(path)
        missing = {"tokens", "lengths", "phonemes", "counts", "durations"} - found.keys()
        if missing or not about:
            raise ValueError(
                f"{where}: no {min(missing or {'description'})}, accepted: what this module's command writes"
            )
        self.words, self.tokenizer = Spelling(str(about["alphabet"])), str(about["tokenizer"])
        self.per_latent = int(about["per_latent"])
        self.tokens = list(found["tokens"].split(found["lengths"].tolist()))
        self.phonemes, self.durations = (
            list(found[name].long().split(found["counts"].tolist())) for name in ("phonemes", "durations")
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def check(self, tokenizer: Tokenizer[Any]) -> None:
        """See `Source.check`."""
        if fingerprint(tokenizer) != self.tokenizer:
            raise ValueError(
                f"data.path {self.config.path}: made by tokenizer {self.tokenizer}, not by {fingerprint(tokenizer)}; "
                "encode the speech again with this one"
            )

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """`tokens` [B, N, C], `text` [B, P] (-1 behind a row's end), `durations` [B, P]. Without seeds a row goes on
        with the sentences that come next."""
        rows = [self._row(index, None if seeds is None else seeds[at]) for at, index in enumerate(indices)]
        tokens, phonemes, durations = zip(*rows)
        return {"tokens": torch.stack(tokens), "text": padded(phonemes, -1), "durations": padded(durations)}

    def _row(self, index: int, seed: int | None) -> tuple[Tensor, Tensor, Tensor]:
        chosen, length = [index], self.config.length
        while sum(len(self.tokens[i]) for i in chosen) < length:
            step = len(chosen)
            drawn = index + step if seed is None else int(Rng([mix(seed, step)]).integers(len(self)))
            chosen.append(drawn % len(self))
        phonemes, durations = (torch.cat([part[i] for i in chosen]) for part in (self.phonemes, self.durations))
        begins = durations.cumsum(0) - durations
        inside = begins < length * self.per_latent  # the last of them may go on behind the row's end
        return torch.cat([self.tokens[i] for i in chosen])[:length].float(), phonemes[inside], durations[inside]


def _about(path: Path) -> dict[str, Any]:
    """What a file says of itself."""
    opened: Any = safe_open(path, "pt")
    with opened as file:
        try:
            return json.loads((file.metadata() or {}).get("speech", "{}"))
        except ValueError:
            return {}


def build(data: str | Path, tokenizer: str | Path, out: str | Path, force: bool = False) -> int:
    """Encode a folder of speech.

    Args:
        data: Folder of sounds with a `phonemes.jsonl`.
        tokenizer: Checkpoint of a tokenizer of sounds with continuous tokens.
        out: The .safetensors file; an existing one is kept unless `force`.
        force: Replace the file.

    Returns:
        The number of sentences.

    Raises:
        ValueError: There are no lengths of phonemes, or they don't fit the sounds or the tokenizer.
    """
    from .speech import Config as Speech

    model: Any = from_pretrained(tokenizer, role="tokenizer")[0]
    rate, samples = model.config.rate, model.samples_per_token
    source = Speech(path=str(data), rate=rate, size=samples).open()
    if source.timed is None:
        raise ValueError(f"data: {data} has no phonemes.jsonl, accepted: speech that says how long each phoneme lasts")
    alphabet = "".join(sorted({letter for phonemes, _ in source.timed for letter in phonemes} | {SILENCE}))
    unit = source.sound(0).shape[2] // sum(source.timed[0][1])
    if samples % unit:
        raise ValueError(f"tokenizer: got {samples} samples per token, accepted: a multiple of a unit's {unit}")
    per_latent = samples // unit
    columns: dict[str, list[Tensor]] = {"tokens": [], "phonemes": [], "durations": []}
    for row, (phonemes, units) in enumerate(source.timed):
        with inference(model):
            tokens = model.encode(source.sound(row)).data[0]
        last = -sum(units) % per_latent  # a sentence ends with a whole latent
        durations = torch.tensor([*units[:-1], units[-1] + last], dtype=torch.int16)
        if len(tokens) * per_latent != int(durations.sum()):
            raise ValueError(f"data: {source.paths[row]} has {len(tokens)} latents for {sum(units)} units")
        columns["tokens"].append(tokens.half())
        columns["phonemes"].append(torch.tensor([alphabet.index(letter) for letter in phonemes], dtype=torch.int16))
        columns["durations"].append(durations)
    joined = {name: torch.cat(parts) for name, parts in columns.items()}
    joined["lengths"], joined["counts"] = (torch.tensor([len(p) for p in columns[n]]) for n in ("tokens", "phonemes"))
    about = {"alphabet": alphabet, "tokenizer": fingerprint(model), "per_latent": per_latent}
    payload = save(joined, metadata={"speech": json.dumps(about, ensure_ascii=False)})
    write_whole(out, lambda file: file.write(payload), force)
    return len(columns["tokens"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m nextok_mm.data.speech_latents", description="encode speech once")
    parser.add_argument("data", help="folder of sounds with phonemes.jsonl")
    parser.add_argument("tokenizer", help="checkpoint of a tokenizer of sounds")
    parser.add_argument("out", type=Path, help="the .safetensors file")
    parser.add_argument("--force", action="store_true", help="replace the file")
    args = parser.parse_args(arguments)

    def work() -> None:
        print(f"{build(args.data, args.tokenizer, args.out, args.force)} sentences in {args.out}")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
