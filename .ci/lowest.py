"""Dependencies at their lower bounds, one requirement a line: what CI installs once, so that no bound is a guess.

    python .ci/lowest.py [EXTRA ...]       the core's, and those of these extras

Only `name>=1.2` (and `,!=1.3`) is accepted in pyproject.toml, and becomes `name==1.2`. PyTorch's packages are left
out: .ci/run installs them first. (tomllib: Python 3.11.)
"""

import re
import sys
from pathlib import Path

import tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf8"))["project"]
rows = [*project["dependencies"], *(row for extra in sys.argv[1:] for row in project["optional-dependencies"][extra])]
for row in rows:
    match = re.fullmatch(r"([\w.-]+)>=([\d.]+)(,!=[\d.]+)*", row)
    if match is None and not row.startswith("nextok_mm["):
        sys.exit(f"pyproject.toml: {row!r} has no lower bound of the form name>=1.2")
    if match is not None and match[1] not in ("torch", "torchvision"):
        print(f"{match[1]}=={match[2]}")
