"""What every shipped checkpoint draws, and how it measures: what a change of the code must not change.

    nextok bench zoo --pictures --json before.json              the pictures of fixed seeds: some seconds, no data
    nextok bench zoo --n 500 --json before.json                 each checkpoint's own evaluation as well (`nextok eval`)
    nextok bench zoo --pictures --against before.json --exact   exit code 1 where a picture is another one
    nextok bench zoo --figures --only text-tiny --resume --json docs/benchmarks/results/zoo.json

A generator draws its first classes or a few captions, a tokenizer reconstructs discs, a language model goes on with a
few words, whose letters are compared as pixels are. Pictures are compared as they are saved, in 8 bits per channel, and
made on one thread: how many share a sum changes its last bit. Processors differ in that too, so the file from before
has to come from the same kind of machine. A judge draws nothing: it has figures only. The file is written after each
checkpoint, and keeps those that it has with --resume: after a kill, or where one of them wants another --n.
"""

import base64
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import Card
from ..machine import describe
from ..media import Pictures, Sounds, Words
from ..pipeline import Pipeline, load
from .harness import options, read_json, write_json

CAPTIONS = ["red heart", "green apple", "blue circle", "smiling cat"]
TESTS: dict[str, dict[str, Any]] = {"flextok-emoji": {"kind": "emoji", "split": "test", "tones": False}}
"""Test data of those whose evaluation has to be told."""
TEXTS: dict[str, dict[str, Any]] = {"text-tiny": {"path": "runs/python-docs", "split": "test"}}
"""The held-out pages of language models; where the folder isn't there, they have no figures."""
PROMPTS = ["import", "The following", "class "]


def main(arguments: list[str]) -> None:
    """Draw and measure every checkpoint, print both and the differences."""
    from .. import zoo

    parser = options("bench zoo", __doc__)
    parser.add_argument("--n", type=int, default=500, help="samples or pictures of an evaluation (default 500)")
    parser.add_argument("--seed", type=int, default=0)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pictures", action="store_true", help="leave the evaluations out")
    which.add_argument("--figures", action="store_true", help="leave the pictures out")
    parser.add_argument("--only", action="append", choices=list(zoo.list_models()), help="one checkpoint; repeatable")
    parser.add_argument("--json", type=Path, help="write everything to this file, after each checkpoint")
    parser.add_argument("--resume", action="store_true", help="keep what --json has, measure the rest")
    parser.add_argument("--against", type=Path, metavar="JSON", help="a file that --json wrote before")
    parser.add_argument("--exact", action="store_true", help="exit code 1 where a picture of --against is another one")
    given = parser.parse_args(arguments)
    if given.exact and not given.against:
        raise ValueError("exact: got no file to compare with; give one with --against JSON")
    if given.resume and not given.json:
        raise ValueError("resume: got no file to go on with; give one with --json FILE")
    print(f"now on {describe()}")
    before = _before(given.against, given.seed, "against") if given.against else {}
    found: dict[str, dict[str, Any]] = {}
    if given.resume and given.json.is_file():
        found = _before(given.json, given.seed, "json")
    for name, card in zoo.list_models().items():
        if given.only and name not in given.only:
            continue
        row: dict[str, Any] = {}
        has = found.get(name, {})
        if card.role != "judge" and not given.figures and "pictures" not in has:
            row["pictures"] = stored(pictures(load(name, device="cpu"), given.seed))
        if not given.pictures and "figures" not in has and (measured := figures(name, card, given.n, given.seed)):
            row |= (
                {"figures": measured} if card.role == "judge" or name in TEXTS else {"n": given.n, "figures": measured}
            )
        if row:
            found[name] = has | row
            print(*_lines(name, row, before.get(name)), sep="\n", flush=True)
        if given.json:
            write_json(given.json, {"machine": describe(), "seed": given.seed, "checkpoints": found})
    if given.exact:
        _check(found, before, given.only)


def pictures(pipeline: Pipeline, seed: int) -> Tensor:
    """A few pictures [n, C, H, W] or clips [n, C, T, H, W] of a pipeline: drawn, or of a tokenizer reconstructed."""
    n, threads = 2 if pipeline.medium.temporal else 4, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if pipeline.generator is None:
            tokenizer: Any = pipeline.tokenizer
            if pipeline.medium.name == Sounds.name:
                return pipeline.reconstruct(glides(n, pipeline.medium.channels, tokenizer.size[0])).data * 0.5 + 0.5
            return pipeline.reconstruct(discs(n, tokenizer.config.image_channels, tokenizer.size)).data
        if isinstance(pipeline.medium, Words):
            return letters(pipeline.generate(text=PROMPTS, seed=seed, tokens=40).data)
        if pipeline.medium.name == Sounds.name:
            return pipeline.generate(n=n, seed=seed, tokens=20).data * 0.5 + 0.5
        text = CAPTIONS if "text" in pipeline.generator.takes else None
        return pipeline.generate(n=n, seed=seed, text=text).data
    finally:
        torch.set_num_threads(threads)


def letters(texts: Sequence[str]) -> Tensor:
    """The bytes of texts as grey pixels [n, 1, 1, L], black behind a shorter one's end."""
    rows = [torch.frombuffer(bytearray(text.encode("utf8") or b"\0"), dtype=torch.uint8) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, None, None] / 255


def discs(n: int, channels: int, size: tuple[int, ...]) -> Tensor:
    """A soft disc in each [n, C, *size], of different place, radius and tint; over time it moves to the right."""
    rows, columns = size[-2:]
    frames = size[0] if len(size) == 3 else 1
    found = torch.empty(n, channels, frames, rows, columns)
    y, x = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
    for i in range(n):
        for t in range(frames):
            away = ((x - 0.3 - 0.1 * i - 0.3 * t / frames) ** 2 + (y - 0.6 + 0.08 * i) ** 2).sqrt()
            disc = ((0.15 + 0.05 * i - away) * 20).sigmoid()
            found[i, :, t] = disc * torch.linspace(1, 0.4, channels).roll(i)[:, None, None]
    return found if len(size) == 3 else found[:, :, 0]


def glides(n: int, channels: int, samples: int) -> Tensor:
    """A tone in each [n, C, T] that rises over two octaves, from different pitches."""
    turns = torch.linspace(0, 2, samples).exp2().cumsum(0) * torch.linspace(0.006, 0.01, n)[:, None]
    return (0.3 * torch.sin(2 * torch.pi * turns))[:, None].expand(n, channels, samples).contiguous()


def figures(name: str, card: Card, n: int, seed: int) -> dict[str, float]:
    """The checkpoint's own evaluation, without baselines, as `pictures: figure (feature space)`."""
    from ..eval import quality
    from ..pipeline import medium_of

    if name in TEXTS:
        if not Path(TEXTS[name]["path"]).is_dir():
            print(f"{name:18s} no figures: {TEXTS[name]['path']} isn't there (python -m nextok_mm.data.python_docs)")
            return {}
        given: dict[str, Any] = {"data": TEXTS[name]}
    elif (medium_of(name) or Pictures(3, (1, 1))).name == Sounds.name:
        return {}  # `nextok bench sounds` and `nextok eval` measure these, with packages of others
    else:
        given = {} if card.role == "judge" else {"n": n, "seed": seed}
        given |= {"baselines": False} if card.role == "generator" or getattr(medium_of(name), "temporal", False) else {}
        given |= {"test": TESTS[name]} if name in TESTS else {}
    return {
        f"{row}: {figure} ({space})": value
        for row, spaces in quality.evaluate(name, **given)["figures"].items()
        for space, values in spaces.items()
        for figure, value in values.items()
    }


def stored(images: Tensor) -> dict[str, Any]:
    """Pictures as JSON keeps them: shape, SHA-256 and content in 8 bits per channel."""
    pixels = (images.clamp(0, 1) * 255).round().byte().contiguous().numpy().tobytes()
    packed = base64.b64encode(zlib.compress(pixels, 9)).decode()
    return {"shape": list(images.shape), "sha256": hashlib.sha256(pixels).hexdigest(), "pixels": packed}


def difference(now: dict[str, Any], before: dict[str, Any]) -> str:
    """How far two stored sets of pictures are from each other, in words; empty where they are the same."""
    if now["sha256"] == before["sha256"] and now["shape"] == before["shape"]:
        return ""
    if now["shape"] != before["shape"]:
        return f"shape {now['shape']}, before {before['shape']}"
    one, other = (
        torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(row["pixels"]))), dtype=torch.uint8).int()
        for row in (now, before)
    )
    away = (one - other).abs()
    share = float((away > 0).double().mean())
    return f"{100 * share:.3g} % of the values differ, by at most {int(away.max())} of 255"


def _lines(name: str, row: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """A checkpoint's table: pictures and figures, beside those from before and the difference."""
    lines = []
    if "pictures" in row:
        line = f"{name:18s} pictures {row['pictures']['sha256'][:12]}"
        if before and "pictures" in before:
            apart = difference(row["pictures"], before["pictures"])
            line += f"  before {before['pictures']['sha256'][:12]}  {apart or 'the same'}"
        lines.append(line)
    old = (before or {}).get("figures", {})
    for figure, value in row.get("figures", {}).items():
        line = f"{name:18s} {figure:60s} {value:10.5g}"
        lines.append(line + (f"  before {old[figure]:10.5g}  {value - old[figure]:+.3g}" if figure in old else ""))
    return lines


def _before(path: Path, seed: int, option: str) -> dict[str, Any]:
    """The checkpoints in a file of this seed that an earlier run wrote."""
    found = read_json(path)
    if "checkpoints" not in found:
        raise ValueError(f"{option}: {str(path)!r} has no checkpoints, accepted: a file that nextok bench zoo wrote")
    if found["seed"] != seed:
        raise ValueError(f"{option}: {str(path)!r} was drawn with seed {found['seed']}, accepted: the same, got {seed}")
    print(f"before on {found['machine']}")
    return found["checkpoints"]


def _check(found: dict[str, Any], before: dict[str, Any], only: list[str] | None) -> None:
    """Exit code 1 where a checkpoint draws something else than before, or nothing any more."""
    drawn = {name: row["pictures"] for name, row in before.items() if "pictures" in row}
    changed = [
        name
        for name, old in drawn.items()
        if (not only or name in only) and (name not in found or difference(found[name]["pictures"], old))
    ]
    if changed:
        print(f"changed: {', '.join(changed)}")
        raise SystemExit(1)
