"""What `import nextok_mm` costs and offers."""

import subprocess
import sys

import pytest

import nextok_mm as nx

HEAVY = (
    "diffusers",
    "timm",
    "accelerate",
    "torchvision",
    "gradio",
    "huggingface_hub",
    "generators",
    "tokenizers_visual",
)


def test_importing_imports_nothing_heavy() -> None:
    code = f"import sys, nextok_mm; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert set(nx.__all__) == set(dir(nx)) and all(getattr(nx, name) is not None for name in nx.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'generat'"):
        _ = nx.generat  # type: ignore[attr-defined]
