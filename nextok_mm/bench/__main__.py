"""`python -m nextok_mm.bench WHAT`."""

import sys

from . import main

main(sys.argv[1:])
