"""The study end to end on tiny models: trained, measured, plotted, gone on with."""

import json

import pytest

from nextok_mm import study
from nextok_mm.study import objectives


def test_the_command_trains_measures_plots_and_goes_on(tmp_path, monkeypatch, capsys):
    tiny = ("model.width=16", "model.heads=2", "model.depth=1", "model.mlp_hidden=16", "train.cpu=true")
    sets = [word for name in (*tiny, "train.batch=4", "optim.warmup=0") for word in ("--set", name)]
    arguments = ["objectives", "--out", str(tmp_path), "--seeds", "1", "--steps", "1", "--n", "2", *sets]
    study.main(arguments)
    figures = json.loads((tmp_path / "objectives.json").read_text())
    assert set(figures) == {"mazes", "recall"}
    assert set(figures["mazes"]) == {"mlm_u, seed 0", "autoregressive, seed 0"}
    assert {"exact path", "exact path, from the end", "nats"} <= set(figures["mazes"]["mlm_u, seed 0"])
    sizes = [row["parameters"] for row in figures["mazes"].values()]
    assert 0 < sizes[0] - sizes[1] <= 16  # but for the vector of an unseen code
    assert 0 <= figures["recall"]["meap, seed 0"]["recalled"] <= 1
    assert (tmp_path / "mazes.png").is_file() and (tmp_path / "recall.png").is_file()
    monkeypatch.setattr(objectives, "_measured", None)  # nothing is trained twice
    study.main(arguments)
    assert "recalled" in capsys.readouterr().out
    with pytest.raises(ValueError, match="parts: got 'maze', accepted: mazes, recall"):
        study.main([*arguments, "--parts", "maze"])
