"""The same files from one process, from two, and from a run that was interrupted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nextok_mm import bundled

pytestmark = pytest.mark.slow

SCRIPT = bundled.folder("demos") / "sample_image.py"
LAUNCHERS = {  # two processes each; torchrun would take `--n` for an option of its own but for the `--`
    "torchrun": "torch.distributed.run --standalone --nproc_per_node 2 --",
    "accelerate": f"accelerate.commands.launch --config_file {bundled.config('configs/accelerate/ddp_cpu.yaml')}",
}


def command(tiny: Path, out: Path) -> list[str]:
    line = f"{SCRIPT} --model {tiny / 'xar'} --out {out} --n 11 --batch 3 --labels bag,0 --seed 5 --device cpu"
    return line.split()


def launched(launcher: str, line: list[str]) -> str:
    """What two processes say."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    whole = [sys.executable, "-m", *LAUNCHERS[launcher].split(), *line]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def one(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process makes."""
    folder = tmp_path_factory.mktemp("one") / "pictures"
    subprocess.run([sys.executable, *command(tiny, folder)], check=True, timeout=100)
    return folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_make_the_files_of_one(tiny: Path, tmp_path: Path, one: Path, launcher: str) -> None:
    said = launched(launcher, command(tiny, tmp_path))
    assert "process 1 of 2: 6 new pictures" in said and "process 2 of 2: 5 new pictures" in said
    assert len(files(one)) == 12 and files(tmp_path) == files(one)


def test_an_interrupted_run_goes_on_where_it_stopped(tiny: Path, tmp_path: Path, one: Path) -> None:
    out = tmp_path / "resumed"
    shutil.copytree(one, out)
    with Image.open(out / "000010.png") as last:
        assert last.text["nextok.index"] == "10" and last.text["nextok.labels"] == "[1]"
        assert last.size == (8, 8)
    for name in ("000001.png", "000010.png"):
        (out / name).unlink()
    sampler = bundled.demo("sample_image")
    assert sampler.sample(sampler.arguments(command(tiny, out)[1:])) == 2
    assert files(out) == files(one)


def test_another_run_in_the_same_folder_is_refused(tiny: Path, tmp_path: Path) -> None:
    sampler = bundled.demo("sample_image")
    line = command(tiny, tmp_path / "out")[1:]
    assert sampler.sample(sampler.arguments(line)) == 11
    for more in ("--seed 6", "--steps 3", "--n 12"):
        with pytest.raises(ValueError, match="holds another run"):
            sampler.sample(sampler.arguments(line + more.split()))
    assert sampler.arguments([*line, "--count", "7"]).n == 7
    for more, message in (("--n 0", "n: got 0"), ("--labels hat", "labels: got 'hat'")):
        with pytest.raises(ValueError, match=message):
            sampler.sample(sampler.arguments([*line, *more.split()]))
