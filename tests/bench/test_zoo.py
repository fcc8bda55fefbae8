"""`nextok bench zoo`: the same checkpoint is the same, one bit elsewhere in its weights is seen."""

import json
from unittest.mock import create_autospec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextok_mm import bench, pipeline
from nextok_mm.bench import zoo
from nextok_mm.checkpoint import Card, read_card
from nextok_mm.eval import quality
from nextok_mm.media import Clips
from nextok_mm.zoo import list_models


@pytest.fixture
def shipped(tiny, monkeypatch):
    """The tiny checkpoints in place of the shipped ones."""
    names = ("vae", "xar", "flextok", "video", "clips", "text")
    monkeypatch.setattr("nextok_mm.zoo.list_models", lambda: {name: read_card(tiny / name) for name in names})
    monkeypatch.setattr(zoo, "load", lambda name, device: pipeline.load(tiny / name, device=device))
    return names


def run(*arguments):
    bench.main(["zoo", *map(str, arguments)])


def test_what_was_written_is_compared(shipped, tmp_path, capsys, monkeypatch):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    run("--pictures", "--json", before)
    found = json.loads(before.read_text())
    assert set(found["checkpoints"]) == set(shipped) and found["seed"] == 0
    hashes = [row["pictures"]["sha256"] for row in found["checkpoints"].values()]
    assert len(set(hashes)) == len(hashes)
    run("--pictures", "--against", before, "--json", after, "--exact")
    assert capsys.readouterr().out.count("the same") == len(shipped)
    assert json.loads(after.read_text()) == found

    real = zoo.load

    def changed(name, device):
        loaded = real(name, device)
        if name == "vae":
            with torch.no_grad():
                for parameter in loaded.tokenizer.parameters():
                    parameter.mul_(1.02)
        return loaded

    monkeypatch.setattr(zoo, "load", changed)
    run("--pictures", "--against", before)  # said, but no failure
    said = capsys.readouterr().out
    assert said.count("the same") == len(shipped) - 1 and "% of the values differ, by at most" in said
    with pytest.raises(SystemExit) as stop:
        run("--pictures", "--against", before, "--exact")
    assert stop.value.code == 1 and "changed: vae\n" in capsys.readouterr().out
    run("--pictures", "--against", before, "--exact", "--only", "xar")


def test_a_checkpoint_that_is_gone_is_a_change(shipped, tmp_path, capsys):
    before = tmp_path / "before.json"
    run("--pictures", "--only", "vae", "--json", before)
    found = json.loads(before.read_text())
    found["checkpoints"]["gone"] = found["checkpoints"]["vae"]
    before.write_text(json.dumps(found))
    with pytest.raises(SystemExit):
        run("--pictures", "--against", before, "--exact")
    assert "changed: gone" in capsys.readouterr().out


def test_pictures_do_not_depend_on_the_number_of_threads(shipped, tmp_path):
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            run("--pictures", "--only", "xar", "--json", tmp_path / f"{count}.json")
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    one, two = (json.loads((tmp_path / f"{count}.json").read_text())["checkpoints"] for count in (1, 2))
    assert one == two


def test_figures_are_those_of_the_own_evaluation(shipped, tmp_path, capsys, monkeypatch):
    asked, value = {}, 1.0

    def evaluate(name, **options):
        asked[name] = options
        return {"figures": {name: {"pixels": {"psnr": value}}}}

    monkeypatch.setattr(quality, "evaluate", evaluate)
    clips = Clips(1, (5, 8, 8))
    monkeypatch.setattr(pipeline, "medium_of", lambda name: clips if name in ("video", "clips") else None)
    run("--n", 7, "--seed", 3, "--json", tmp_path / "before.json")
    assert asked["vae"] == {"n": 7, "seed": 3}
    assert asked["xar"] == asked["video"] == asked["clips"] == {"n": 7, "seed": 3, "baselines": False}
    capsys.readouterr()
    value = 1.25
    run("--n", 7, "--seed", 3, "--against", tmp_path / "before.json", "--exact", "--only", "vae")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "psnr" in line]
    assert line.split()[-4:] == ["1.25", "before", "1", "+0.25"]


def test_a_run_goes_on_where_it_stopped(shipped, tmp_path, monkeypatch, capsys):
    """After a kill, for what was left out, and with another number of samples for one of them."""
    asked = []

    def figures(name, card, n, seed):
        if len(asked) == 2 and name == "flextok":
            raise KeyboardInterrupt
        asked.append((name, n))
        return {f"{name}: psnr (pixels)": float(n)}

    monkeypatch.setattr(zoo, "figures", figures)
    path = tmp_path / "zoo.json"
    with pytest.raises(KeyboardInterrupt):
        run("--figures", "--n", 7, "--json", path)
    assert asked == [("vae", 7), ("xar", 7)]
    asked.append(None)
    run("--figures", "--n", 9, "--only", "video", "--resume", "--json", path)
    run("--figures", "--n", 7, "--resume", "--json", path)
    assert asked[3:] == [("video", 9), ("flextok", 7), ("clips", 7), ("text", 7)]
    found = json.loads(path.read_text())["checkpoints"]
    assert {name: row["n"] for name, row in found.items()} == dict.fromkeys(shipped, 7) | {"video": 9}
    assert not any("pictures" in row for row in found.values())
    run("--resume", "--only", "xar", "--json", path)
    row = json.loads(path.read_text())["checkpoints"]["xar"]
    assert row["figures"] == found["xar"]["figures"] and row["pictures"]["sha256"]
    run("--figures", "--n", 7, "--only", "xar", "--json", path)  # without --resume the file begins anew
    assert list(json.loads(path.read_text())["checkpoints"]) == ["xar"]


MEASURED = [name for name in list_models() if name not in ("vocoder-speech", "flow-omni-tiny")]
"""Without those that need packages which aren't ours to name: `nextok bench sounds`, `nextok eval flow-omni-tiny`."""


@pytest.mark.parametrize("name", MEASURED)
def test_every_shipped_checkpoint_is_asked_what_its_evaluation_takes(name, monkeypatch, tmp_path):
    """Nothing is measured: the arguments are held against the real functions."""
    asked, measures = {}, dict(quality.MEASURES)
    for module, function in (
        (quality, "evaluate_generator"),
        (quality, "evaluate_tokenizer"),
        (quality, "evaluate_judge"),
        (quality.captions, "evaluate"),
        (quality.clips, "evaluate"),
        (quality.speech, "evaluate"),
        (quality.texts, "evaluate"),
    ):
        real = getattr(module, function)
        fake = create_autospec(real, return_value={"figures": {"it": {"space": {"psnr": 1.0}}}})
        monkeypatch.setattr(module, function, fake)
        measures = {what: fake if run is real else run for what, run in measures.items()}
        asked[fake] = f"{module.__name__.split('.')[-1]}.{function}"
    monkeypatch.setattr(quality, "MEASURES", measures)
    monkeypatch.setattr(quality, "load", lambda name: name)
    pages = {each: fields | {"path": str(tmp_path)} for each, fields in zoo.TEXTS.items()}
    monkeypatch.setattr(zoo, "TEXTS", pages)
    assert zoo.figures(name, list_models()[name], 50, 1) == {"it: psnr (space)": 1.0}
    (function,) = [name for fake, name in asked.items() if fake.called]
    wanted = {"elm-emoji": "captions.evaluate", "video-moving": "clips.evaluate", "next-block-moving": "clips.evaluate"}
    wanted |= {"text-tiny": "texts.evaluate"}
    assert function == wanted.get(name, f"quality.evaluate_{list_models()[name].role}")


def test_pages_that_are_not_there_leave_their_figures_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(zoo, "TEXTS", {"it": {"path": str(tmp_path / "pages"), "split": "test"}})
    assert zoo.figures("it", create_autospec(Card, role="generator"), 5, 0) == {}
    assert "no figures: " in capsys.readouterr().out


def test_letters_are_pixels_that_come_back():
    stored = zoo.stored(zoo.letters(["naïve", "", "one longer"]))
    assert stored["shape"] == [3, 1, 1, 10]
    other = zoo.stored(zoo.letters(["naïve", "", "one longes"]))
    assert zoo.difference(stored, other) == "3.33 % of the values differ, by at most 1 of 255"


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 15))
def test_a_difference_is_counted_in_grey_levels(one, other, place):
    before = torch.full((1, 1, 4, 4), one / 255)
    now = before.clone()
    now.view(-1)[place] = other / 255
    said = zoo.difference(zoo.stored(now), zoo.stored(before))
    assert said == ("" if one == other else f"6.25 % of the values differ, by at most {abs(one - other)} of 255")


def test_discs_are_pictures_that_differ_and_move():
    clips = zoo.discs(2, 3, (5, 8, 8))
    assert clips.shape == (2, 3, 5, 8, 8) and 0 <= clips.min() < 0.2 and 0.8 < clips.max() <= 1
    assert not torch.equal(clips[0], clips[1]) and not torch.equal(clips[:, :, 0], clips[:, :, 4])
    assert zoo.discs(3, 1, (8, 16)).shape == (3, 1, 8, 16)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--exact"], "exact: got no file to compare with; give one with --against"),
        (["--resume"], "resume: got no file to go on with; give one with --json"),
        (["--resume", "--json", "{seven}"], "json: .* was drawn with seed 7, accepted: the same, got 0"),
        (["--against", "/no.json"], "results: '/no.json' can't be read"),
        (["--against", "{other}"], "against: .* has no checkpoints"),
        (["--against", "{seven}"], "was drawn with seed 7, accepted: the same, got 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_drawn(arguments, message, shipped, tmp_path, monkeypatch):
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "seven.json").write_text('{"seed": 7, "checkpoints": {}, "machine": ""}')
    monkeypatch.setattr(zoo, "load", None)
    names = {name: tmp_path / f"{name}.json" for name in ("other", "seven")}
    with pytest.raises(ValueError, match=message):
        run("--pictures", *(argument.format(**names) for argument in arguments))


def test_sounds_of_a_tokenizer_are_kept_in_eight_bits(tmp_path):
    """A tone that glides, there and back, as numbers from 0 to 1; its figures are another bench's."""
    from nextok_mm import registry
    from nextok_mm.checkpoint import save_pretrained
    from nextok_mm.pipeline import load

    save_pretrained(registry.build("tokenizer", "mel", {"size": "tiny"}), tmp_path / "mel")
    pipeline = load(tmp_path / "mel", device="cpu")
    made = zoo.pictures(pipeline, 0)
    assert made.shape == (2, 1, 320) and 0 <= made.min() and made.max() <= 1
    assert zoo.figures(str(tmp_path / "mel"), pipeline.card, 5, 0) == {}
