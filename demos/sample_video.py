"""Draw many clips into one file each, with one process or several:

    python demos/sample_video.py --model next-block-moving --n 16 --out samples
    torchrun --nproc_per_node 2 -- demos/sample_video.py --n 16 --out samples --ending gif

Everything else is as in demos/sample_image.py: the files are the same for any number of processes, and an interrupted
run continues where it stopped.
"""

import argparse
import os
import sys
from typing import Any

import sample_image

from nextok_mm import console
from nextok_mm.media import Clips
from nextok_mm.media import clips as video


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = sample_image.parser(__doc__, model="next-block-moving", batch=4)
    parser.add_argument(
        "--ending", default="mp4", choices=[ending[1:] for ending in video.ENDINGS], help="The format of the files."
    )
    parser.add_argument("--fps", type=float, default=video.FPS, help="Frame rate, in frames per second.")
    parser.add_argument("--temperature", type=float, help="Temperature; 0 takes the likeliest code.")
    parser.add_argument("--top-p", dest="top_p", type=float, help="Draw from the likeliest that make up this share.")
    return parser.parse_args(line)


def sample(given: argparse.Namespace, rank: int = 0, world: int = 1) -> int:
    """Draw this process's blocks and return how many clips were written; ValueError in one line for bad input."""

    def write(clip: Any, path: Any, settings: dict[str, Any]) -> None:
        video.save_clips(clip[None], path, settings, force=True, fps=given.fps)

    video.check_out(given.out / f"0.{given.ending}", True, given.fps)
    return sample_image.sample(given, rank, world, ("temperature", "top_p", "cfg"), given.ending, Clips, write)


def main() -> None:
    """The command."""
    here, everybody = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    options = arguments()
    made = sample(options, here, everybody)
    print(f"process {here + 1} of {everybody}: {made} new clip{'s' * (made != 1)} in {options.out}")


if __name__ == "__main__":
    sys.exit(console.run(main))
