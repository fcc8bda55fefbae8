"""Train any registered model: `python -m nextok_mm.train CONFIG group.field=value ...`.

It does what `nextok train` does, and can also be started by `accelerate launch -m` and `torchrun -m`. The same command
resumes a run that was stopped.

Example: accelerate launch -m nextok_mm.train configs/generators/xar-fashion.yaml train.steps=1000
"""

import sys

from .. import bundled, console
from . import load, train


def main() -> int:
    """0 finished; 75 stopped, saved, to be resumed by the same command; 2 a mistake, said in one line."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if len(sys.argv) > 1 else 2
    return console.run(lambda: train(load(bundled.config(sys.argv[1]), sys.argv[2:]), progress=True).exit_code)


if __name__ == "__main__":
    sys.exit(main())
