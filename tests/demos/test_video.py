"""The Video tab's limits and its server's answer, and the sampler of clips."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nextok_mm import bundled

pytest.importorskip("av")
SCRIPT = bundled.folder("demos") / "sample_video.py"


def command(tiny: Path, out: Path, ending: str) -> list[str]:
    line = f"{SCRIPT} --model {tiny / 'clips'} --out {out} --n 3 --batch 2 --labels bag --seed 5 --device cpu"
    return [sys.executable, *line.split(), "--ending", ending]


@pytest.mark.slow
def test_clips_are_written_one_a_file_and_a_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    done = subprocess.run(command(tiny, out, "gif"), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "3 new clips" in done.stdout, done.stderr
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"settings.json", "000000.gif", "000001.gif", "000002.gif"}
    (out / "000001.gif").unlink()
    again = subprocess.run(command(tiny, out, "gif"), capture_output=True, text=True, timeout=100)
    assert "1 new clip" in again.stdout
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    for line, words in (
        ([*command(tiny, out, "gif"), "--fps", "4"], "fps differ"),
        ([*command(tiny, tmp_path / "new", "gif"), "--set", "top_p=0"], "top_p"),
        ([*command(tiny, tmp_path / "new", "gif"), "--model", str(tiny / "xar")], "accepted: a model of clips"),
    ):
        refused = subprocess.run(line, capture_output=True, text=True, timeout=100)
        assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr
    assert not (tmp_path / "new").exists()


def test_limits_hold_without_gradios_own_checks(tiny: Path) -> None:
    gr = pytest.importorskip("gradio")
    import nextok_mm as nx

    tab = bundled.demo("video_tab")
    loaded = {"m": nx.load(tiny / "clips")}
    good = dict(model="m", label="bag", n=4, frames=9, seed=1, temperature=1, top_p=0.9, cfg=2)
    assert tab.checked(loaded, **good)[1]["labels"] == [1]
    left = tab.checked(loaded, **{**good, **dict.fromkeys(("frames", "temperature", "top_p", "cfg"))})[1]
    assert left == {"n": 4, "frames": 5, "seed": 1, "labels": [1]}  # the model's own
    for name, values in {
        "model": ("other", None, ["m"]),
        "label": ("hat", None, 1),
        "n": (0, 10, float("nan"), True, "4", 1.5),
        "frames": (0, 66, 1.5, "9"),
        "seed": (-1, 2**31, None),
        "temperature": (-1, 4.1, float("nan"), "1", True),
        "top_p": (0, 1.1, "1"),
        "cfg": (-1, 21, "1"),
    }.items():
        for value in values:
            with pytest.raises(gr.Error, match="accepted: "):
                tab.checked(loaded, **{**good, name: value})


def test_frames_come_as_they_are_final_then_the_clips(tiny: Path) -> None:
    pytest.importorskip("gradio")
    import nextok_mm as nx

    tab = bundled.demo("video_tab")
    loaded = {"m": nx.load(tiny / "clips")}
    pipeline, arguments = tab.checked(loaded, "m", "bag", 2, 8, 1, 1.0, 1.0, 1.0)
    *partial, (path, strip, words) = [
        (played, strip and strip_size(strip), words) for played, strip, words in tab._shown(pipeline, arguments)
    ]
    assert [size is not None for _, size, _ in partial] == [False] * 3 + [True] * 11
    assert words == "Done: 8 frames, seed 1" and strip == (8 * 10 - 2, 2 * 10 - 2) and path.endswith(".webp")


def strip_size(path: str) -> tuple[int, int]:
    with Image.open(path) as strip:
        return strip.size


def test_the_app_has_a_tab_for_each_kind(tiny: Path) -> None:
    pytest.importorskip("gradio")
    page = bundled.demo("app").build([str(tiny / "xar"), str(tiny / "clips")])
    labels = [block.label for block in page.blocks.values() if type(block).__name__ == "Tab"]
    assert labels == ["Image", "Video"]
