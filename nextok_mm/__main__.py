"""`python -m nextok_mm`, the same as `nextok`."""

from .cli import main

if __name__ == "__main__":
    main()
