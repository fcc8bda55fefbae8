"""Tiny models with random weights, saved as checkpoints: everything that a user's command does, in milliseconds."""

from pathlib import Path

import pytest
import torch

from nextok_mm import registry
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.files import write_files
from nextok_mm.media.words import Bytes

CLASSES = ("shoe", "bag", "coat")
BYTES = {"vocabulary": 258, "begin": 256, "ends": [257]}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run all tests, the slow ones too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--slow") and config.option.markexpr == "not slow":  # a -m of the caller's stays
        config.option.markexpr = ""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vae` (8 x 8 grey pictures, 4 x 4 tokens of 4 channels) and `xar`, which speaks through it;
    `flextok` (the same pictures, 8 ordered codes); `video` (5 grey frames of 8 x 8, 3 x 4 x 4 codes) and `clips`, a
    next-block generator of those; `text`, a language model over bytes with a context of 64."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_pretrained(registry.build("tokenizer", "kl_vae", {"size": "tiny"}), folder / "vae", name="tiny-vae")
        xar = registry.build("generator", "xar", {"size": "tiny", "sampling": {"steps": 2, "cfg": 1.5}})
        for parameter in xar.parameters():  # fresh heads are zero, and would draw the same picture for every class
            torch.nn.init.normal_(parameter, std=0.2)
        flextok = registry.build("tokenizer", "flextok", {"size": "tiny"})
        for parameter in flextok.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        video = registry.build("tokenizer", "video_vq", {"size": "tiny"})
        clips = registry.build("generator", "next_block", {"size": "tiny"})
        text = registry.build("generator", "language", {"size": "tiny", **BYTES})
        for parameter in text.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    save_pretrained(video, folder / "video", name="tiny-video")
    save_pretrained(clips, folder / "clips", name="tiny-clips", tokenizer="../video", labels=CLASSES)
    save_pretrained(xar, folder / "xar", name="tiny-xar", tokenizer="../vae", labels=CLASSES)
    save_pretrained(flextok, folder / "flextok", name="tiny-flextok")
    save_pretrained(text, folder / "text", name="tiny-text")
    write_files(folder / "text", Bytes().files())
    return folder
