"""`python -m nextok_mm.cli`, the same as `nextok`."""

from . import main

if __name__ == "__main__":
    main()
