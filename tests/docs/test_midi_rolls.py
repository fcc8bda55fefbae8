"""docs/examples/midi_rolls, a medium of somebody else's package, from its own folder through every room of ours."""

import configparser
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nextok_mm as nx
from nextok_mm import data, registry
from nextok_mm.contracts import Tokens
from nextok_mm.eval import quality
from nextok_mm.train import load, train

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "midi_rolls"
SMALL = ("train.cpu=true", "train.log_every=1000", "optim.warmup=5")


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The package is there as pip would put it there: its folder on the path, its entry points beside it."""
    site, project = tmp_path_factory.mktemp("site"), configparser.ConfigParser()
    project.read_string((FOLDER / "pyproject.toml").read_text())
    wanted = "project.entry-points."
    lines = []
    for section in project.sections():
        if section.startswith(wanted):
            lines.append("[" + section.removeprefix(wanted).strip('"') + "]")
            lines += [f"{name} = " + value.strip('"') for name, value in project[section].items()]
    info = site / "midi_rolls-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: midi-rolls\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.syspath_prepend(str(site))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A tokenizer and an ELM on its codes, by the shipped configs, trained for a few dozen steps."""
    out = tmp_path_factory.mktemp("runs")
    own = (f"train.out={out / 'rolls'}", "train.steps=80", "ema.decay=0.9", "train.sample_every=40")
    assert train(load(FOLDER / "configs" / "rolls.yaml", (*SMALL, *own))).exit_code == 0
    tokenizer = out / "rolls" / "final"
    own = (f"train.out={out / 'elm'}", "train.steps=20", "model.width=32", "model.depth=1", f"tokenizer={tokenizer}")
    assert train(load(FOLDER / "configs" / "elm-rolls.yaml", (*SMALL, *own, "train.sample_every=20"))).exit_code == 0
    return out


@pytest.fixture(scope="module")
def rolls() -> torch.Tensor:
    return data.parse({"kind": "rolls", "rows": 8}).open().batch(range(4))["images"]


@pytest.fixture
def medium():
    return registry.build("tokenizer", "roll_fsq", {"size": "small"}).medium


@pytest.mark.slow
def test_it_is_found_and_trained_and_shown(runs: Path) -> None:
    assert "roll_fsq" in registry.kinds("tokenizer") and "rolls" in data.kinds()
    for run, steps in (("rolls", (40, 80)), ("elm", (20,))):
        shown = [runs / run / "samples" / f"step-{step:08d}.png" for step in steps]
        assert all(Image.open(path).size[0] > 64 for path in shown)


@pytest.mark.slow
def test_there_and_back(runs: Path, rolls: torch.Tensor, tmp_path: Path) -> None:
    pipeline = nx.load(runs / "rolls" / "final", device="cpu")
    result = pipeline.reconstruct(rolls)
    assert repr(result).startswith("<Result: 4 rolls of 128 x 64 by rolls")
    silence = rolls.square().mean()
    assert (result.data - rolls).square().mean() < 0.7 * silence  # it has learned something
    assert result.tokens is not None and result.tokens.grid == (16,)
    file = nx.load(runs / "rolls" / "final", device="cpu").medium.save(rolls[:1], tmp_path / "a.mid")
    assert torch.equal(pipeline.reconstruct(file).given, pipeline.reconstruct(rolls[:1]).given)
    again = pipeline.detokenize(Tokens(result.tokens.data, (16,), result.tokens.source))
    assert torch.equal(again.data, result.data)


@pytest.mark.slow
def test_elm_makes_rolls_and_goes_on_from_them(runs: Path, rolls: torch.Tensor, tmp_path: Path) -> None:
    pipeline = nx.load(runs / "elm" / "final", device="cpu")
    assert "predict" in pipeline.tasks
    made = pipeline.generate(labels=["minor arpeggios", 0], n=3, seed=0)
    assert made.data.shape == (3, 128, 64) and made.labels == [3, 0, 3]
    alone = pipeline.generate(labels=[3, 0], n=3, seed=0, batch=1)
    torch.testing.assert_close(alone.data, made.data)
    assert made.save(tmp_path / "a.mid").stat().st_size > 40 and made.save(tmp_path / "a.png").is_file()
    longer = pipeline.predict(rolls[:2, :, :16], frames=100, seed=1)
    assert longer.data.shape == (2, 128, 100) and torch.equal(longer.data[:, :, :16], rolls[:2, :, :16])
    with pytest.raises(ValueError, match=r"accepted: 4, 8, 12"):
        pipeline.predict(rolls[:2, :, :17])
    with pytest.raises(ValueError, match=r"accepted: \[n, pitches, 1 or more steps\]"):
        pipeline.predict(rolls[:2, :, :0])


@pytest.mark.slow
def test_the_cache_takes_them(runs: Path, tmp_path: Path) -> None:
    from nextok_mm.data.latents import build_cache

    tokenizer = nx.load(runs / "rolls" / "final", device="cpu").tokenizer
    assert tokenizer is not None
    folder = build_cache(tokenizer, data.parse({"kind": "rolls", "rows": 8}), tmp_path / "cache", progress=False)
    assert data.parse({"kind": "latents", "folder": str(folder)}).open().batch([0])["tokens"].shape == (1, 16)


@pytest.mark.slow
def test_what_has_no_place_for_rolls_says_so(runs: Path) -> None:
    name = str(runs / "rolls" / "final")
    with pytest.raises(ValueError, match="a tokenizer of rolls, accepted: models of pictures, clips"):
        quality.evaluate(name)
    pytest.importorskip("gradio")
    from demos import app

    with pytest.raises(ValueError, match="which makes rolls, accepted: those of pictures or clips"):
        app.build([str(runs / "elm" / "final")])


def test_pictures_for_a_tokenizer_of_rolls_are_refused() -> None:
    model = registry.build("tokenizer", "roll_fsq", {"size": "tiny"})
    with pytest.raises(ValueError, match=r"images: got shape \(1, 1, 8, 8\), accepted: \[batch, 128, steps\]"):
        model.check({"images": torch.zeros(1, 1, 8, 8)})
    with pytest.raises(ValueError, match=r"accepted: \[batch, 128, steps\]"):
        model.check({"images": torch.zeros(1, 127, 16)})


@given(seed=st.integers(0, 1 << 30), rate=st.sampled_from([4.0, 8.0, 10.0, 31.25]))
@settings(max_examples=15, deadline=None)
def test_a_file_is_what_was_written(tmp_path_factory, seed: int, rate: float) -> None:
    from midi_rolls.medium import Rolls

    draw, medium = torch.Generator().manual_seed(seed), Rolls((16,), rate)
    loud = torch.randint(32, 128, (1, 128, 16), generator=draw) * (torch.rand(1, 128, 16, generator=draw) < 0.1)
    path = medium.save(loud / 127, tmp_path_factory.mktemp("midi") / "a.mid", {"what": "Übung"})
    assert torch.equal((medium.read(path) * 127).round().long(), loud)


@given(content=st.binary(max_size=60), header=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_roll_or_one_line(tmp_path_factory, content: bytes, header: bool) -> None:
    from midi_rolls.medium import Rolls

    path = tmp_path_factory.mktemp("midi") / "a.mid"
    begin = b"MThd" + struct.pack(">IHHh", 6, 0, 1, 480) + b"MTrk" + struct.pack(">I", len(content))
    path.write_bytes(begin + content if header else content)
    for fit in ("crop", "pad"):
        try:
            assert Rolls((16,)).read(path, fit).shape == (1, 128, 16)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_hostile_files_are_refused_in_one_line(medium, tmp_path: Path) -> None:
    def header(form: int, division: int) -> bytes:
        return b"MThd" + struct.pack(">IHHh", 6, form, 1, division)

    endless = b"\xff\x51\x03\xff\xff\xff" + b"\xff\xff\xff\x7f\xff\x01\x00" * 9
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "loud.npy", np.full((128, 64), 2.0))
    np.save(tmp_path / "long.npy", np.zeros((128, 8)))
    (tmp_path / "forms.mid").write_bytes(header(2, 480))
    (tmp_path / "frames.mid").write_bytes(header(0, -6000))
    track = b"\x00" + endless
    (tmp_path / "endless.mid").write_bytes(header(0, 1) + b"MTrk" + struct.pack(">I", len(track)) + track)
    for name, words in {
        "pickle.npy": "allow_pickle=False",
        "loud.npy": "beyond [0, 1]",
        "long.npy": "8 steps",
        "forms.mid": "format 2",
        "frames.mid": "SMPTE",
        "endless.mid": "lasts",
        "none.mid": "no file",
        "a.wav": "no file",
    }.items():
        with pytest.raises(ValueError) as error:
            medium.take(tmp_path / name)
        assert words in str(error.value) and "\n" not in str(error.value), name
    for wrong in (torch.zeros(127, 4), [], np.array(["a"]), torch.full((128, 2), float("nan")), object()):
        with pytest.raises(ValueError, match="rolls: got"):
            medium.take(wrong)


def test_tempo_running_status_and_drums(medium) -> None:
    from midi_rolls import midi

    track = b"\x00\xff\x51\x03" + (250_000).to_bytes(3, "big")  # twice as fast
    track += b"\x00\x90\x3c\x40\x00\x40\x50" + b"\x00\x99\x24\x7f"  # two notes by one message, and a drum
    track += b"\x83\x60\x80\x3c\x00" + b"\x00\x40\x00" + b"\x00\xff\x2f\x00"  # after 480 ticks
    file = b"MThd" + struct.pack(">IHHh", 6, 0, 1, 480) + b"MTrk" + struct.pack(">I", len(track)) + track
    assert midi.parse(file) == ([(60, 0.0, 0.25, 64), (64, 0.0, 0.25, 80)], 0.25)
