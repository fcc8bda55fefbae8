"""Draw many pictures into one PNG file each, with one process or several:

    python demos/sample_image.py --model xar-fashion --n 64 --out samples
    accelerate launch --num_processes 2 --multi_gpu demos/sample_image.py --n 64 --out samples
    torchrun --nproc_per_node 2 -- demos/sample_image.py --n 64 --out samples

(torchrun needs the `--`, or it takes `--n` for the start of one of its own options; --count is another name for it.)
The files are the same for any number of processes: picture i is drawn from (seed, i), always within the same block of
`--batch` neighbors, and the processes share out whole blocks. An interrupted run continues where it stopped.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nextok_mm as nx
from nextok_mm import console
from nextok_mm.config import override
from nextok_mm.files import write_json
from nextok_mm.media import Medium, Pictures
from nextok_mm.media.pictures import save_picture, to_pil
from nextok_mm.pipeline import settings_of
from nextok_mm.pipeline.conditions import captions, listed

SETTINGS = "settings.json"


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    own = parser(__doc__, model="xar-fashion", batch=16)
    own.add_argument("--steps", type=int, help="Solver steps per entity.")
    own.add_argument("--solver", help="The solver: euler_maruyama, euler, heun or ab2.")
    return own.parse_args(line)


def parser(about: str | None, model: str, batch: int) -> argparse.ArgumentParser:
    """The options that samplers of all kinds have."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", default=model, help="A shipped model, a checkpoint folder or a hub id.")
    parser.add_argument("--tokenizer", help="Use this tokenizer instead of the one named in the checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="The folder to write into.")
    parser.add_argument("--n", "--count", dest="n", type=int, default=64, help="How many samples to draw.")
    parser.add_argument("--labels", help="The classes to draw, by number or name, cycled: 7,3 or bag,sneaker.")
    parser.add_argument("--text", action="append", help="A caption to draw; repeatable. Several are cycled.")
    parser.add_argument("--seed", type=int, default=0, help="The seed. The same seed draws the same samples.")
    parser.add_argument("--batch", type=int, default=batch, help="How many samples are computed at a time.")
    parser.add_argument("--cfg", type=float, help="Guidance weight; 1 means no guidance.")
    parser.add_argument("--set", action="append", default=[], help="A sampling setting, as name=value; repeatable.")
    parser.add_argument("--device", help="The device. By default this process's GPU if there is one.")
    return parser


def _write(image: Tensor, path: Path, settings: dict[str, Any]) -> None:
    save_picture(to_pil(image), path, settings, force=True)


def sample(
    given: argparse.Namespace,
    rank: int = 0,
    world: int = 1,
    sampling: Sequence[str] = ("steps", "cfg", "solver"),
    ending: str = "png",
    medium: type[Medium] = Pictures,
    write: Callable[[Any, Path, dict[str, Any]], None] = _write,
) -> int:
    """Draw this process's blocks and return how many files were written; ValueError in one line for bad input.

    sampling: the options that are sampling settings; medium: of the model; write: puts a sample and its settings into a
    file.
    """
    for name in ("n", "batch"):
        if getattr(given, name) < 1:
            raise ValueError(f"{name}: got {getattr(given, name)}, accepted: a whole number from 1")
    pipeline = nx.load(given.model, given.tokenizer, given.device or _device())
    if not isinstance(pipeline.medium, medium):
        raise ValueError(
            f"model: got {given.model}, accepted: a model of {medium.plural}; demos/ has a sampler of each kind"
        )
    labels = listed(given.labels)
    chosen = pipeline.condition(given.n, labels=labels, text=given.text).get("labels")
    asked = override({name: getattr(given, name) for name in sampling}, given.set)
    settings_of(pipeline.generator, asked)  # a wrong one is refused before the folder is claimed
    asked |= {"text": captions(given.text, given.n)}
    _claim(given, pipeline, sampling)
    written = 0
    for block in range(rank, -(-given.n // given.batch), world):
        rows = range(block * given.batch, min((block + 1) * given.batch, given.n))
        paths = [given.out / f"{row:06d}.{ending}" for row in rows]
        if all(path.exists() for path in paths):  # writes are atomic: what exists is whole
            continue
        *_, result = pipeline.stream(labels, given.n, given.seed, rows=rows, decode_all=False, **asked)
        for row, path, image in zip(rows, paths, result.data):
            if not path.exists():
                own = {"nextok.index": row, "nextok.labels": None if chosen is None else [int(chosen[row])]}
                own |= {} if result.text is None else {"nextok.text": result.text[row - rows.start]}
                write(image, path, result.settings() | {"nextok.n": given.n} | own)
                written += 1
    return written


def _claim(given: argparse.Namespace, pipeline: nx.Pipeline, sampling: Sequence[str]) -> None:
    """A folder holds one run: its settings are written first, and other ones are refused."""
    from nextok_mm.checkpoint import fingerprint

    names = ("model", "n", "labels", "text", "seed", "batch", "set", "fps", *sampling)
    settings: dict[str, Any] = {name: getattr(given, name) for name in names if hasattr(given, name)}
    settings["fingerprints"] = [
        fingerprint(part) for part in (pipeline.generator, pipeline.tokenizer, pipeline.words) if part
    ]
    path = given.out / SETTINGS
    try:
        there = json.loads(path.read_bytes()) if path.exists() else settings
    except ValueError:
        raise ValueError(f"out: {path} is damaged; choose another folder") from None
    if there != settings:
        differing = [name for name in settings if not isinstance(there, dict) or there.get(name) != settings[name]]
        raise ValueError(f"out: {given.out} holds another run ({', '.join(differing)} differ); choose another folder")
    if not path.exists():
        write_json(path, settings)


def _device() -> str | None:
    """Each process of a machine has its own GPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else None


def main() -> None:
    """The command."""
    here, everybody = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    options = arguments()
    made = sample(options, here, everybody)
    print(f"process {here + 1} of {everybody}: {made} new picture{'s' * (made != 1)} in {options.out}")


if __name__ == "__main__":
    sys.exit(console.run(main))
