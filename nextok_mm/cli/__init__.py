"""`nextok`: everything that the package does, from a terminal. One file per group of commands.

A mistake is one line and exit code 2 (NEXTOK_DEBUG=1 shows the whole traceback). Heavy imports stay inside the
commands, so that `nextok --help` answers at once.
"""

import sys

from .. import console
from . import checkpoints, draw, installation, language, measure, training
from .base import app, run

__all__ = ["app", "checkpoints", "draw", "installation", "language", "main", "measure", "training"]


def main() -> None:
    """The `nextok` command."""
    sys.exit(console.run(run))
