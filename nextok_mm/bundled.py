"""Where `configs/` and `demos/` are: inside the installed wheel, or beside this package in a checkout.

The wheel carries them under nextok_mm/_bundled, since nobody may claim such general names in site-packages.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `configs` or `demos`."""
    assert name in ("configs", "demos"), name
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"{name}: not found in this installation of nextok_mm; reinstall it")


def config(name: str | Path) -> Path:
    """A config file: a path as given, or one of the bundled ones (`configs/...` or relative to that folder)."""
    path = Path(name)
    if path.is_file():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    if not path.is_absolute() and ".." not in path.parts and (folder("configs") / inside).is_file():
        return folder("configs") / inside
    known = sorted(str(p.relative_to(folder("configs").parent)) for p in folder("configs").rglob("*.yaml"))
    raise ValueError(f"config: no file {str(name)!r}; bundled: {', '.join(known)}")


def demo(module: str) -> ModuleType:
    """A module of demos/, imported as `nextok_demos.<module>`: a name of our own, whatever else is called `demos`."""
    if "nextok_demos" not in sys.modules:
        init = folder("demos") / "__init__.py"
        spec = importlib.util.spec_from_file_location(
            "nextok_demos", init, submodule_search_locations=[str(init.parent)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["nextok_demos"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"nextok_demos.{module}")
