"""What the benches share: a results file that survives kills and other processes, options, trainings, plots."""

import importlib
import json
import os
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextok_mm import bench, study
from nextok_mm.bench import harness
from nextok_mm.bench.harness import Results


def test_a_half_finished_file_is_gone_on_with(tmp_path):
    path = tmp_path / "some" / "claims.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"a": {"psnr": 1.5}}, indent=2) + "\n")  # as the benches wrote it before
    results = Results(path)
    assert results.fill("a", lambda: pytest.fail("measured again")) == {"psnr": 1.5}
    assert results.fill("b", lambda: {"psnr": 2.0}) == {"psnr": 2.0}
    assert path.read_text() == json.dumps({"a": {"psnr": 1.5}, "b": {"psnr": 2.0}}, indent=2) + "\n"


def test_parts_lie_one_level_down_as_a_study_wrote_them(tmp_path):
    path = tmp_path / "elm.json"
    path.write_text('{"entropy": {"elm": 1}}')
    results = Results(path)
    assert results.fill("elm", lambda: 2, part="entropy") == 1
    assert results.fill("elm", lambda: 3, part="sweeps") == 3
    assert json.loads(path.read_text()) == {"entropy": {"elm": 1}, "sweeps": {"elm": 3}}


def test_what_another_process_wrote_meanwhile_stays(tmp_path):
    first, second = Results(tmp_path / "blocks.json"), Results(tmp_path / "blocks.json")
    first.fill("token", lambda: second.fill("row", lambda: 1) + 1)
    assert json.loads((tmp_path / "blocks.json").read_text()) == {"row": 1, "token": 2}
    assert second.fill("token", lambda: pytest.fail("measured again")) == 2 and second.figures == first.figures


def test_a_kill_while_writing_leaves_the_figures_before(tmp_path, monkeypatch):
    results = Results(tmp_path / "steps.json")
    results.fill("a", lambda: 1)

    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        results.fill("b", lambda: 2)
    monkeypatch.undo()
    assert Results(tmp_path / "steps.json").figures == {"a": 1} and os.listdir(tmp_path) == ["steps.json"]


@pytest.mark.parametrize("content", ['{"a": {"psnr": 1', "[1, 2]", ""])
def test_a_broken_file_is_one_line_and_stays(tmp_path, content):
    path = tmp_path / "ladder.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"results: '.*ladder.json'") as error:
        Results(path)
    assert "\n" not in str(error.value) and path.read_text() == content


def test_without_matplotlib_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"matplotlib is not installed; pip install 'nextok_mm\[eval\]'"):
        Results(tmp_path / "claims.json")


def test_a_training_that_stops_ends_the_program_with_its_code(tmp_path, monkeypatch):
    asked = []
    summary = SimpleNamespace(status="finished", exit_code=75, loss=1.0)
    monkeypatch.setattr("nextok_mm.train.train", lambda config: summary)
    monkeypatch.setattr("nextok_mm.train.load", lambda path, overrides: asked.append((path, overrides)))
    folder = tmp_path / "run"
    assert harness.trained("generators/xar-fashion.yaml", ("train.steps=3",), folder) == str(folder / "final")
    path, overrides = asked[0]
    assert path.is_file() and overrides == ["train.steps=3", f"train.out={folder}", "train.sample_every=0"]
    summary.status = "stopped"
    with pytest.raises(SystemExit) as stop:
        harness.trained("generators/xar-fashion.yaml", (), folder)
    assert stop.value.code == 75


@settings(deadline=None, max_examples=20)
@given(st.text(max_size=30))
def test_a_slug_is_one_folder_whose_letters_are_kept(name):
    slug = harness.slug(name)
    assert len(slug) == len(name) and not set(slug) & set("/\\:*. ,()") and slug == harness.slug(slug)
    assert all(a == b for a, b in zip(slug, name) if b.isalnum())


def test_variants_keep_their_folders():
    """Trainings of before are found again only under the same names."""
    assert harness.slug("cells, noisy context (xAR)") == "cells--noisy-context--xAR-"
    assert harness.slug("2-D grid") == "2-D-grid"


def test_figures_in_one_line():
    assert harness.shown({"psnr": 12.34567, "rows": [{"n": 3}, {"n": 12345}]}) == "psnr 12.35  rows n 3; n 12345"


def test_a_plot_is_written_whole_or_not_at_all(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    path = tmp_path / "some.png"
    for _ in range(2):  # an older one is replaced
        with harness.plot(path, (4, 2), 2) as (left, right):
            left.plot([1, 2])
            right.plot([2, 1])
    whole = path.read_bytes()
    assert whole[:4] == b"\x89PNG"
    with pytest.raises(ZeroDivisionError), harness.plot(path, (4, 2)):
        raise ZeroDivisionError
    assert path.read_bytes() == whole and not pyplot.get_fignums() and os.listdir(tmp_path) == ["some.png"]


@pytest.mark.parametrize("name", bench.BENCHES)
def test_every_bench_has_a_help(name, capsys):
    with pytest.raises(SystemExit) as done:
        bench.main([name, "--help"])
    said = capsys.readouterr().out
    assert done.value.code == 0 and said.startswith(f"usage: nextok bench {name} ")
    if name != "machine":
        assert importlib.import_module(f"nextok_mm.bench.{name}").__doc__.splitlines()[0] in said


def test_the_study_has_one_too(capsys):
    with pytest.raises(SystemExit):
        study.main(["elm", "--help"])
    assert capsys.readouterr().out.startswith("usage: nextok study elm ")


@pytest.mark.parametrize("group, names", [("bench", bench.BENCHES), ("study", study.STUDIES)])
def test_the_command_lists_its_names_or_passes_all_on(group, names, monkeypatch):
    from typer.testing import CliRunner

    from nextok_mm.cli import app

    for arguments in ([group], [group, "--help"]):
        said = CliRunner().invoke(app, arguments).output
        assert [line.split()[2] for line in said.splitlines()] == list(names) and f"nextok {group} elm" in said
    asked = []
    monkeypatch.setattr(f"nextok_mm.{group}.main", asked.append)
    CliRunner().invoke(app, [group, "elm", "--help", "--n", "3"])
    assert asked == [["elm", "--help", "--n", "3"]]
