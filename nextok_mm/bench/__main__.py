"""`python -m nextok_mm.bench WHAT`."""

import sys

from .. import console
from . import main

sys.exit(console.run(lambda: main(sys.argv[1:])))
