"""The commands that people type, in processes' own words: what they print, what they write, how they refuse."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nextok_mm import cli
from nextok_mm.checkpoint import ZOO

REFERENCE = Path(__file__).parents[1] / "parity" / "reference" / "xar_tiny.safetensors"


@pytest.fixture
def nextok(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nextok", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return run


def test_list_and_info(nextok, tiny: Path) -> None:
    code, out, _ = nextok("list")
    assert code == 0 and "vae-fashion" in out and "generator kinds: " in out and "xar" in out
    code, out, _ = nextok("info", tiny / "xar")
    assert code == 0
    for part in ("tiny-xar", "generator", "parameters", "1 bag", "config.sampling", "not stated"):
        assert part in out


def test_generate(nextok, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    line = ("generate", tiny / "xar", "--labels", "2,bag", "--n", 16, "--seed", 0, "--out", out, "--device", "cpu")
    code, said, _ = nextok(*line)
    assert code == 0 and "16 pictures, seed 0" in said
    with Image.open(out) as saved:
        assert saved.text["nextok.labels"] == str([2, 1] * 8) and saved.text["nextok.seed"] == "0"
        first = saved.tobytes()
    code, _, error = nextok(*line)
    assert code == 2 and "exists" in error and "--force" in error
    code, _, _ = nextok(*line, "--force", "--batch", 5)
    assert code == 0
    with Image.open(out) as saved:
        assert max(abs(a - b) for a, b in zip(first, saved.tobytes())) <= 1
    code, _, _ = nextok(*line, "--force", "--set", "cache=false", "--steps", 3, "--solver", "euler", "--cfg", 1)
    assert code == 0


def test_settings_reach_the_sampler_and_flags_win_over_them(nextok, tiny: Path, tmp_path: Path) -> None:
    def sampling(*more: object) -> str:
        out = tmp_path / "out.png"
        code, _, error = nextok("generate", tiny / "xar", "--n", 1, "--device", "cpu", "--out", out, "--force", *more)
        assert code == 0, error
        with Image.open(out) as saved:
            return saved.text["nextok.sampling"]

    assert "'steps': 2," in sampling()
    named = sampling("--set", "steps=3", "--set", "solver=heun", "--set", "cfg=0.5")
    assert "'steps': 3," in named and "'solver': 'heun'" in named and "'cfg': 0.5" in named
    assert "'steps': 4," in sampling("--set", "steps=3", "--steps", 4)


def test_help_says_what_is_written(nextok) -> None:
    """Nothing in brackets is lost: not an extra, not a list of choices."""
    assert "nextok_mm[demo]" in nextok("demo", "--help")[1]
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__.rstrip("_")
        if name == "bench":
            continue  # its arguments are passed on
        code, out, _ = nextok(name, "--help")
        assert code == 0 and (command.callback.__doc__ or "?").split(".")[0] in " ".join(out.split())


def test_reconstruct(nextok, tiny: Path, tmp_path: Path) -> None:
    picture, wide = tmp_path / "in.png", tmp_path / "wide.png"
    Image.new("L", (16, 16), 99).save(picture)
    Image.new("RGB", (20, 10)).save(wide)
    out = tmp_path / "both.png"
    code, said, _ = nextok("reconstruct", tiny / "vae", picture, picture, "--out", out)
    assert code == 0 and "2 pictures" in said and "PSNR" in said and out.is_file()
    code, _, error = nextok("reconstruct", tiny / "vae", wide, "--out", tmp_path / "other.png")
    assert code == 2 and "20 x 10" in error and "--crop" in error
    assert nextok("reconstruct", tiny / "vae", wide, "--crop", "--out", tmp_path / "other.png")[0] == 0


def test_convert_then_load_and_generate(nextok, tiny: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    published = tmp_path / "xAR-tiny.pth"
    torch.save({"model": load_file(REFERENCE)}, published)
    folder = tmp_path / "converted"
    code, said, error = nextok("convert", "xar", published, folder, "--tokenizer", tiny / "vae")
    assert code == 0, error
    assert str(folder) in said
    code, said, _ = nextok("info", folder)
    assert code == 0 and "none stated by the authors" in said
    code, _, error = nextok("convert", "xar", published, folder)
    assert code == 2 and "exists" in error
    code, _, error = nextok("convert", "xaar", published, tmp_path / "other")
    assert code == 2 and "accepted: " in error and "xar" in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate {tiny}/xar --out {tmp}/o.png --labels 3", "labels: got 3"),
        ("generate {tiny}/xar --out {tmp}/o.png --labels hat", "labels: got 'hat'"),
        ("generate {tiny}/xar --out {tmp}/o.png --n 0", "n: got 0"),
        ("generate {tiny}/xar --out {tmp}/o.png --columns 0", "columns: got 0"),
        ("generate {tiny}/xar --out {tmp}/o.png --steps 0", "sampling.steps"),
        ("generate {tiny}/xar --out {tmp}/o.png --set stepz=3", "did you mean 'steps'"),
        ("generate {tiny}/xar --out {tmp}/o.png --set steps", "override"),
        ("generate {tiny}/xar --out {tmp}/o.gif", "ends with .png"),
        ("generate {tiny}/vae --out {tmp}/o.png", "accepted: a generator"),
        ("generate no-such-model --out {tmp}/o.png", "no-such-model"),
        ("info {tmp}", "config.json"),
        ("reconstruct {tiny}/vae {tmp}/none.png --out {tmp}/o.png", "no file"),
        ("train no-such.yaml", "bundled: "),
        ("convert xar {tmp}/none.pth {tmp}/folder", "none.pth"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(nextok, tiny: Path, tmp_path: Path, line: str, message: str) -> None:
    code, _, error = nextok(*line.format(tiny=tiny, tmp=tmp_path).split())
    assert code == 2 and message in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "o.png").exists()


def test_doctor_and_bench_answer(nextok) -> None:
    said = nextok("doctor")[1]
    assert "shipped models: " in said and re.search(r"matmul on this CPU: fp32 \S+ GFLOP/s, bf16 \S+ GFLOP/s", said)
    assert "nextok bench" in nextok("bench")[1]


@pytest.mark.skipif(not (ZOO / "xar-fashion").is_dir(), reason="this checkout has no xar-fashion")
def test_the_readmes_command(tmp_path: Path) -> None:
    command = shutil.which("nextok", path=str(Path(sys.executable).parent)) or "nextok"
    line = [command, "generate", "xar-fashion", "--labels", "7,3", "--n", "4", "--seed", "0", "--out", "grid.png"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "grid.png") as grid:
        low, high = grid.convert("L").getextrema()
    assert low < 50 and high > 200
