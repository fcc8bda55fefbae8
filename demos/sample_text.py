"""Write many texts into one file each, with one process or several:

    python demos/sample_text.py --model text-tiny --text "The list" --n 16 --out samples
    torchrun --nproc_per_node 2 -- demos/sample_text.py --text "The list" --n 16 --out samples --tokens 100

Everything else is as in demos/sample_image.py: the files are the same for any number of processes, and an interrupted
run continues where it stopped.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import sample_image

from nextok_mm import console
from nextok_mm.media import Words


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = sample_image.parser(__doc__, model="text-tiny", batch=8)
    parser.add_argument(
        "--ending", default="txt", choices=["txt", "md", "jsonl"], help="The format; jsonl keeps the settings."
    )
    parser.add_argument("--tokens", type=int, help="The largest number of new tokens per text.")
    parser.add_argument("--temperature", type=float, help="Temperature; 0 takes the likeliest token.")
    parser.add_argument("--top-p", dest="top_p", type=float, help="Draw from the likeliest that make up this share.")
    return parser.parse_args(line)


def write(text: Any, path: Path, settings: dict[str, Any]) -> None:
    """One text with its settings, in a file."""
    Words().save([text], path, settings, force=True)


def sample(given: argparse.Namespace, rank: int = 0, world: int = 1) -> int:
    """Write this process's blocks and return how many texts were written; ValueError in one line for bad input."""
    return sample_image.sample(given, rank, world, ("tokens", "temperature", "top_p"), given.ending, Words, write)


def main() -> None:
    """The command."""
    here, everybody = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    options = arguments()
    made = sample(options, here, everybody)
    print(f"process {here + 1} of {everybody}: {made} new text{'s' * (made != 1)} in {options.out}")


if __name__ == "__main__":
    sys.exit(console.run(main))
