"""The commands that people type, in processes' own words: what they print, what they write, how they refuse."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

from nextok_mm import cli, data, registry
from nextok_mm.checkpoint import ZOO, save_pretrained

REFERENCE = Path(__file__).parents[1] / "parity" / "reference" / "xar_tiny.safetensors"


def test_list_and_info(nextok, tiny: Path) -> None:
    code, out, _ = nextok("list")
    assert code == 0 and "vae-fashion" in out and "generator kinds: " in out and "xar" in out
    assert all(f"\n  {kind} " in out for kind in data.KINDS)
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
        if name in ("bench", "study"):
            continue  # their arguments are passed on
        code, out, _ = nextok(name, "--help")
        assert code == 0 and (command.callback.__doc__ or "?").split(".")[0] in " ".join(out.split())


def test_reconstruct(nextok, tiny: Path, tmp_path: Path) -> None:
    picture, wide = tmp_path / "in.png", tmp_path / "wide.png"
    Image.new("L", (16, 16), 99).save(picture)
    Image.new("RGB", (20, 10)).save(wide)
    out = tmp_path / "both.png"
    code, said, _ = nextok("reconstruct", tiny / "vae", picture, picture, "--out", out)
    assert code == 0 and "2 pictures" in said and "PSNR" in said and out.is_file()
    code, _, error = nextok("reconstruct", tiny / "vae", wide, "--fit", "exact", "--out", tmp_path / "other.png")
    assert code == 2 and "20 x 10" in error and "--crop" in error
    assert nextok("reconstruct", tiny / "vae", wide, "--crop", "--out", tmp_path / "other.png")[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "wide.png: 20 x 10 cropped to its middle 10 x 10"),
        (("--fit", "pad"), "wide.png: 20 x 10 padded with white to 20 x 20"),
    ],
)
def test_a_picture_of_another_aspect_is_fitted_and_that_is_said(nextok, tiny, tmp_path, options, said) -> None:
    wide, square = tmp_path / "wide.png", tmp_path / "square.png"
    Image.new("L", (20, 10), 0).save(wide)
    Image.new("L", (16, 16), 0).save(square)
    code, _, error = nextok("reconstruct", tiny / "vae", wide, square, *options, "--out", tmp_path / "both.png")
    assert code == 0 and error.count("\n") == 1 and said in error
    with Image.open(tmp_path / "both.png") as both:
        assert both.getpixel((48, 0)) == (255 if options else 0) and both.getpixel((48, 48)) == 0


def test_reconstruct_from_a_few_tokens(nextok, tiny: Path, tmp_path: Path) -> None:
    picture, out = tmp_path / "in.png", tmp_path / "ladder.png"
    Image.effect_noise((16, 16), 60).save(picture)
    line = ("reconstruct", tiny / "flextok", picture, picture, "--tokens", "1,4,8", "--out", out, "--device", "cpu")
    code, said, error = nextok(*line, "--set", "steps=2")
    assert code == 0 and "2 pictures" in said and re.search(r"1: \S+, 4: \S+, 8: ", said), error
    with Image.open(out) as ladder:
        assert ladder.size == (4 * 98 - 2, 16 + 2 * 98 - 2) and "'steps': 2" in ladder.text["nextok.sampling"]


def test_convert_then_load_and_generate(nextok, tmp_path: Path) -> None:
    """A file in the authors' form (the parity tests' small one), with a tokenizer of its channels."""
    published, folder, vae, out = (tmp_path / name for name in ("xAR-tiny.pth", "converted", "vae", "out.png"))
    torch.save({"model": load_file(REFERENCE)}, published)
    fields = {"size": "tiny", "latent_channels": 16, "image_size": (32, 32)}
    save_pretrained(registry.build("tokenizer", "kl_vae", fields), vae)
    code, said, error = nextok("convert", "xar", published, folder, "--tokenizer", vae)
    assert code == 0, error
    assert str(folder) in said
    code, said, _ = nextok("info", folder)
    assert code == 0 and "none stated by the authors" in said and "xAR-tiny.pth" in said
    line = ("--labels", 207, "--n", 1, "--steps", 1, "--device", "cpu", "--out", out)
    code, said, error = nextok("generate", folder, *line)
    assert code == 0 and "1 picture" in said, error
    with Image.open(out) as picture:
        assert picture.text["nextok.labels"] == "[207]"
    code, _, error = nextok("convert", "xar", published, folder)
    assert code == 2 and "exists" in error
    code, _, error = nextok("convert", "xaar", published, tmp_path / "other")
    assert code == 2 and "accepted: " in error and "xar" in error


def test_a_diffusers_folder_converts_and_reconstructs(nextok, tmp_path: Path) -> None:
    source, folder, picture, out = (tmp_path / name for name in ("theirs", "ours", "in.png", "both.png"))
    theirs = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16)
    theirs.save_pretrained(source)
    code, _, error = nextok("convert", "kl_vae", source, folder)
    assert code == 0, error
    assert "the checkpoint's own" in nextok("info", folder)[1]
    Image.effect_noise((16, 16), 60).save(picture)
    code, said, error = nextok("reconstruct", folder, picture, "--out", out, "--device", "cpu")
    assert code == 0 and "1 picture" in said and out.is_file(), error


class Evil:
    """Pickled, it makes a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_a_published_file_that_would_run_code_is_refused(nextok, tmp_path: Path) -> None:
    torch.save({"model": Evil(tmp_path / "executed")}, tmp_path / "xAR-B.pth")
    code, _, error = nextok("convert", "xar", tmp_path / "xAR-B.pth", tmp_path / "folder")
    assert code == 2 and "would run code" in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["xAR-B.pth"]


@pytest.mark.slow
def test_cache_then_train_then_generate(nextok, tiny: Path, tmp_path: Path) -> None:
    """The whole way of a user with pictures: encode them, train, stop half-way, go on, draw."""
    for number in range(8):
        path = tmp_path / "pictures" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 10 * number).save(path)
    fields = (f"path={tmp_path / 'pictures'}", "kind=image_folder", "size=8", "channels=1")
    cache = ("cache", tiny / "vae", tmp_path / "cache", *(part for field in fields for part in ("--data", field)))
    code, said, error = nextok(*cache)
    assert code == 0 and str(tmp_path / "cache") in said, error
    fields = {
        "model": {"role": "generator", "kind": "xar", "size": "tiny", "classes": 2},
        "tokenizer": str(tiny / "vae"),
        "data": {"kind": "latents", "folder": str(tmp_path / "cache")},
        "train": {"out": str(tmp_path / "run"), "steps": 4, "batch": 4, "cpu": True, "sample_every": 2, "samples": 2},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(fields))
    code, said, _ = nextok("train", tmp_path / "train.yaml", "train.max_minutes=1e-9")
    assert code == 75 and "stopped at step 1 (max_minutes)" in said
    code, said, _ = nextok("train", tmp_path / "train.yaml")
    assert code == 0 and "finished at step 4" in said
    with Image.open(tmp_path / "run" / "samples" / "step-00000004.png") as grid:
        assert grid.width > 8 and grid.height >= 8
    code, _, error = nextok("train", tmp_path / "train.yaml", "optim.lr=1")
    assert code == 2 and "train.overwrite=true" in error
    out = tmp_path / "out.png"
    line = ("--labels", "dog", "--n", 2, "--steps", 1, "--device", "cpu", "--out", out)
    code, _, error = nextok("generate", tmp_path / "run" / "final", *line)
    assert code == 0 and out.is_file(), error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generate {tiny}/xar --out {tmp}/o.png --labels 3", "labels: got '3'"),
        ("generate {tiny}/xar --out {tmp}/o.png --labels hat", "labels: got 'hat'"),
        ("generate {tiny}/xar --out {tmp}/o.png --n 0", "n: got 0"),
        ("generate {tiny}/xar --out {tmp}/o.png --columns 0", "columns: got 0"),
        ("generate {tiny}/xar --out {tmp}/o.png --steps 0", "sampling.steps"),
        ("generate {tiny}/xar --out {tmp}/o.png --set stepz=3", "did you mean 'steps'"),
        ("generate {tiny}/xar --out {tmp}/o.png --set steps", "override"),
        ("generate {tiny}/xar --out {tmp}/o.gif", "ends with .png"),
        ("generate {tiny}/xar --out {tmp}/o.png --device banana", "device: got 'banana', accepted here: cpu"),
        ("generate {tiny}/xar --out {tmp}/o.png --device meta", "device: got 'meta', accepted here: cpu"),
        ("generate {tiny}/xar --out {tmp}/o.png --device cuda:99", "device: got 'cuda:99', accepted here: cpu"),
        ("generate {tiny}/vae --out {tmp}/o.png", "accepted: a generator"),
        ("generate no-such-model --out {tmp}/o.png", "no-such-model"),
        ("info {tmp}", "config.json"),
        (
            "reconstruct {tiny}/vae {tmp}/p.png --fit foo --out {tmp}/o.png",
            "fit: got 'foo', accepted: crop, pad, exact",
        ),
        ("reconstruct {tiny}/vae {tmp}/p.png --fit pad --crop --out {tmp}/o.png", "got 'pad' and --crop"),
        ("reconstruct {tiny}/vae {tmp}/none.png --out {tmp}/o.png", "no file"),
        ("reconstruct {tiny}/flextok {tmp}/p.png --tokens 0 --out {tmp}/o.png", "tokens: got 0, accepted: "),
        ("reconstruct {tiny}/flextok {tmp}/p.png --tokens 1,9 --out {tmp}/o.png", "tokens: got 9, accepted: "),
        ("reconstruct {tiny}/flextok {tmp}/p.png --tokens 1,x --out {tmp}/o.png", "tokens: got '1,x'"),
        ("reconstruct {tiny}/flextok {tmp}/p.png --tokens 1.5 --out {tmp}/o.png", "tokens: got '1.5'"),
        ("reconstruct {tiny}/flextok {tmp}/p.png --set steps=3 --out {tmp}/o.png", "accepted: beside --tokens"),
        ("reconstruct {tiny}/vae {tmp}/p.png --tokens 1 --out {tmp}/o.png", "have no order"),
        ("train no-such.yaml", "bundled: "),
        ("convert xar {tmp}/none.pth {tmp}/folder", "none.pth"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(nextok, tiny: Path, tmp_path: Path, line: str, message: str) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "p.png")
    code, _, error = nextok(*line.format(tiny=tiny, tmp=tmp_path).split())
    assert code == 2 and message in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "o.png").exists()


def test_doctor_and_bench_answer(nextok) -> None:
    said = nextok("doctor")[1]
    assert "shipped models: " in said and re.search(r"matmul on this CPU: fp32 \S+ GFLOP/s, bf16 \S+ GFLOP/s", said)
    assert "nextok bench" in nextok("bench")[1]


@pytest.mark.slow
@pytest.mark.skipif(not (ZOO / "xar-fashion").is_dir(), reason="this checkout has no xar-fashion")
def test_the_readmes_command(tmp_path: Path) -> None:
    command = shutil.which("nextok", path=str(Path(sys.executable).parent)) or "nextok"
    line = [command, "generate", "xar-fashion", "--labels", "7,3", "--n", "4", "--seed", "0", "--out", "grid.png"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "grid.png") as grid:
        low, high = grid.convert("L").getextrema()
    assert low < 50 and high > 200


def test_a_report_that_can_not_be_written_is_refused_before_the_work(nextok, tiny: Path, tmp_path: Path, monkeypatch):
    from nextok_mm.eval import quality

    monkeypatch.setattr(quality, "evaluate", lambda *more, **named: pytest.fail("measured first"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "x.json"):
        code, _, error = nextok("eval", tiny / "xar", "--out", out)
        assert code == 2 and error.startswith("error: out: ") and error.count("\n") == 1


@pytest.mark.parametrize("module", ["nextok_mm.bench", "nextok_mm.eval.scale", "nextok_mm.train"])
def test_every_command_says_a_mistake_in_one_line_and_exits_2(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "nothing", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    "line, words",
    [
        (("generate", "{xar}", "--n", 10**12), "n: got 1000000000000, accepted: a whole number from 1 to 1000000"),
        (("generate", "{xar}", "--n", 2, "--columns", 100_000), "would make a picture of 9600000 x 96 pixels"),
        (("generate", "{xar}", "--out", "x" * 256 + ".png"), "can't be written: File name too long"),
        (("generate", "x" * 256), "File name too long"),
        (("cache", "{vae}", "x" * 256), "File name too long"),
        (("eval", "{xar}", "--n", 10**12), "n: got 1000000000000"),
        (("eval", "{xar}", "--tokens", "1,2"), "tokens: got '1,2', accepted: for a tokenizer with an order"),
        (("convert", "kl_vae", "x.ckpt", "y", "--tokenizer", "{vae}"), "accepted: none, a kl_vae is a tokenizer"),
        (("convert", "next_block", "x.ckpt", "y", "--tokenizer", "run1/final"), "'run1/final'"),
    ],
)
def test_what_no_machine_can_do_is_one_line(nextok, tiny, tmp_path, monkeypatch, line, words) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_hub)
    code, _, error = nextok(*(str(part).format(xar=tiny / "xar", vae=tiny / "vae") for part in line))
    assert code == 2 and words in error and error.count("\n") == 1 and error.startswith("error: ")


def _no_hub(name: str, **_: object) -> str:
    raise OSError("no connection")


def test_a_terminal_that_knows_no_umlaut_shows_its_number(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "xar"
    shutil.copytree(tiny / "xar", folder)
    card = folder / "config.json"
    card.write_text(card.read_text(encoding="utf8").replace("shoe", "Stöckelschuh"), encoding="utf8")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = [sys.executable, "-m", "nextok_mm.cli", "info", str(folder)]
    done = subprocess.run(run, env=plain, capture_output=True, text=True)
    assert done.returncode == 0 and "St\\xf6ckelschuh" in done.stdout, done.stderr
