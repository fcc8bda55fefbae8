"""A tokenizer of sound through the same pipeline and the same commands as pictures."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.cli import app

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    torch.manual_seed(0)
    save_pretrained(registry.build("tokenizer", "mel", {"size": "tiny"}), folder / "mel")
    for index, samples in enumerate((333, 500)):
        wave = 0.5 * np.sin(2 * np.pi * 200 * np.arange(samples) / 2000)
        soundfile.write(folder / f"{index}.wav", wave, 2000)
    return folder


def test_from_files_to_tokens_and_back(folder, tmp_path):
    pipeline = nx.load(folder / "mel", device="cpu")
    assert pipeline.tasks == ("tokenize", "detokenize", "reconstruct")
    tokens = pipeline.tokenize(str(folder / "0.wav"))
    assert tokens.grid == (9,) and pipeline.detokenize(tokens).data.shape == (1, 1, 360)
    result = pipeline.reconstruct(str(folder / "0.wav"))
    assert result.data.shape == result.given.shape == (1, 1, 333)
    assert repr(result).startswith("<Result: 1 sound of 1 x 333 by mel")
    saved = result.save(tmp_path / "back.wav")
    assert soundfile.info(saved).frames == 333 and soundfile.info(saved).samplerate == 2000
    assert "<audio" in result._repr_mimebundle_()["text/html"] and result._repr_png_()[1:4] == b"PNG"
    with pytest.raises(ValueError, match=r"accepted: a name that ends with \.wav, \.flac, \.png"):
        result.save(tmp_path / "back.mp4")


def test_the_command(folder, tmp_path):
    both = [str(folder / "0.wav"), str(folder / "1.wav")]

    def run(*words: str):
        return CliRunner().invoke(app, ["reconstruct", str(folder / "mel"), *words])

    made = run(*both, "--out", str(tmp_path / "both.flac"))
    assert made.exit_code == 0 and "2 sounds, each as given" in made.output, made.output
    assert soundfile.info(tmp_path / "both.flac").frames == 4 * 333 + 3 * 500  # cut to the shorter, with pauses
    assert run(both[0], "--out", str(tmp_path / "one.png")).exit_code == 0
    refused = run(both[0], "--out", str(tmp_path / "one.txt"))
    assert isinstance(refused.exception, ValueError) and ".wav, .flac, .png" in str(refused.exception)
