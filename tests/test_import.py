"""What `import nextok_mm` costs and offers."""

import subprocess
import sys
from pathlib import Path

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


def test_drawing_pictures_imports_neither_other_libraries_of_models_nor_a_compiler(tmp_path: Path) -> None:
    """The first picture waits for torch and for little else; `torch._dynamo` and sympy alone take as long as torch."""
    unneeded = ("diffusers", "transformers", "timm", "torchvision", "accelerate", "huggingface_hub")
    unneeded += ("torch._dynamo", "sympy", "scipy", "matplotlib", "torchmetrics", "av")
    out = str(tmp_path / "out.png")
    commands = (
        ["generate", "xar-fashion", "--labels", "7", "--n", "1", "--steps", "1", "--out", out],
        ["reconstruct", "flextok-fashion", out, "--tokens", "1", "--out", out, "--force"],
    )
    for command in commands:
        code = f"import sys; from nextok_mm.cli import app; app({command!r}, standalone_mode=False)\n"
        code += f"print([name for name in {unneeded!r} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", command
