"""The bench of sounds: its own figure, and that it says what is missing."""

import json

import numpy as np
import pytest
import torch

from nextok_mm import registry
from nextok_mm.bench.sounds import main, mel_distance
from nextok_mm.checkpoint import save_pretrained


def test_a_distance_is_in_decibels():
    noise = torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert mel_distance(noise, noise, 8000) == 0
    assert mel_distance(noise / 10, noise, 8000) == pytest.approx(20, abs=0.1)
    assert mel_distance(noise, torch.zeros(1, 1, 8000), 8000) == 0  # nothing to hear


def test_it_measures_and_writes(tmp_path, capsys, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.setattr("nextok_mm.bench.sounds._listeners", lambda: [("same", lambda made, was: float(len(made)))])
    torch.manual_seed(0)
    for kind in ("mel", "vocoder"):
        save_pretrained(registry.build("tokenizer", kind, {"size": "tiny"}), tmp_path / kind)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 2000)
    names = [str(tmp_path / kind) for kind in ("mel", "vocoder")]
    threads = torch.get_num_threads()
    try:
        main([*names, "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    finally:
        torch.set_num_threads(threads)
    figures = json.loads((tmp_path / "out" / "sounds.json").read_text())
    assert list(figures) == names and "tokens a second 50" in capsys.readouterr().out
    for row in figures.values():
        assert row["mel"] > 0 and row["rtf"] > 0 and row["same"] == 32_000
    with pytest.raises(ValueError, match="accepted: tokenizers of sound"):
        main(["vae-fashion", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
