"""Where the reference numbers are: `NEXTOK_REFERENCE`, or the copies beside this file."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("NEXTOK_REFERENCE") or Path(__file__).parent / "reference")


def pytest_generate_tests(metafunc):
    """Parametrise `<method>_pair` over every PREFIX_*.safetensors + _io.safetensors pair, the stem being the id, and
    `<method>_file` over every PREFIX_*.safetensors that holds weights (`w.`), inputs and outputs together."""
    for name in metafunc.fixturenames:
        if name.endswith("_file"):
            found = sorted(FOLDER.rglob(f"{name.removesuffix('_file')}*.safetensors"))
            metafunc.parametrize(name, found, ids=[path.stem for path in found])
        if name.endswith("_pair"):
            prefix = name.removesuffix("_pair")
            found = [
                (weights, weights.with_name(f"{weights.stem}_io.safetensors"))
                for weights in sorted(FOLDER.rglob(f"{prefix}_*.safetensors"))
                if weights.with_name(f"{weights.stem}_io.safetensors").is_file()
            ]
            metafunc.parametrize(name, found, ids=[weights.stem for weights, _ in found])
