"""Kinds are found by name: ours wherever a stranger of the same package name lies, and broken ones in one line."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nextok_mm import registry

TOP = Path(__file__).parents[1]
SCRIPT = """
import sys; sys.path.insert(0, {folder!r}); sys.path.append({top!r})
{first}
import nextok_mm as nx
from nextok_mm import registry
assert "xar" in registry.kinds("generator") and "kl_vae" in registry.kinds("tokenizer")
assert nx.load("xar-fashion", device="cpu").generate(n=1, steps=1).images.shape == (1, 1, 32, 32)
registry.build("tokenizer", "video_vq", {{"size": "tiny"}})
import generators, tokenizers_visual
assert generators.MINE and tokenizers_visual.MINE
"""


@pytest.mark.parametrize("form, first", [("package", "import generators, tokenizers_visual"), ("module", "")])
def test_a_user_s_own_package_hides_nothing(tmp_path: Path, form: str, first: str) -> None:
    for name in ("generators", "tokenizers_visual"):
        path = tmp_path / f"{name}.py"
        if form == "package":
            (tmp_path / name).mkdir()
            path = tmp_path / name / "__init__.py"
        path.write_text("MINE = True")
    script = SCRIPT.format(folder=str(tmp_path), top=str(TOP), first=first)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["no.such.module:Model", "no_such_module", ".relative", "", "with space"])
def test_an_entry_point_to_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    points = [EntryPoint("strange", value, "nextok_mm.generator")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "nextok_mm.generator" else [])
    assert "strange" in registry.kinds("generator")
    with pytest.raises(ValueError) as error:
        registry.build("generator", "strange")
    assert "\n" not in str(error.value) and "strange" in str(error.value)
