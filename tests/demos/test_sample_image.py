"""The same files from one process, from two, and from a run that was interrupted."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nextok_mm import bundled

SCRIPT = bundled.folder("demos") / "sample_image.py"


def command(tiny: Path, out: Path) -> list[str]:
    line = f"{SCRIPT} --model {tiny / 'xar'} --out {out} --count 11 --batch 3 --labels bag,0 --seed 5 --device cpu"
    return line.split()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_process_or_two_and_interrupted(tiny: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *command(tiny, one)], check=True, timeout=100)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*torchrun, *command(tiny, two)], check=True, timeout=100)
    whole = files(one)
    assert len(whole) == 12 and files(two) == whole
    with Image.open(one / "000010.png") as last:
        assert last.text["nextok.index"] == "10" and last.text["nextok.labels"] == "[1]"
        assert last.size == (8, 8)
    for name in ("000001.png", "000010.png"):
        (one / name).unlink()
    sampler = bundled.demo("sample_image")
    assert sampler.sample(sampler.arguments(command(tiny, one)[1:])) == 2
    assert files(one) == whole


def test_another_run_in_the_same_folder_is_refused(tiny: Path, tmp_path: Path) -> None:
    sampler = bundled.demo("sample_image")
    line = command(tiny, tmp_path / "out")[1:]
    assert sampler.sample(sampler.arguments(line)) == 11
    for more in ("--seed 6", "--steps 3", "--n 12"):
        with pytest.raises(ValueError, match="holds another run"):
            sampler.sample(sampler.arguments(line + more.split()))
    for more, message in (("--n 0", "n: got 0"), ("--labels hat", "labels: got 'hat'")):
        with pytest.raises(ValueError, match=message):
            sampler.sample(sampler.arguments([*line, *more.split()]))
