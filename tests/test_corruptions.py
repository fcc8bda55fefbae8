"""Two hundred damaged files: each is refused in one line, or does no harm; nothing crashes, hangs or is executed."""

import faulthandler
import json
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import nextok_mm as nx
from nextok_mm import bundled
from nextok_mm.checkpoint import from_pretrained
from nextok_mm.media import pictures as media
from nextok_mm.train import load as load_training

SECONDS = 60
ODD: list[Any] = [
    None, True, -1, 0, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\x00", [], {}, [[[]]],
    {"a": {"b": [1, {"c": None}]}}, "../../../../etc/passwd", "!!python/object/apply:os.system ['touch owned']",
    {"__reduce__": "os.system"}, "os.system",
]  # fmt: skip


def test_two_hundred_corruptions(tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    picture = tmp_path / "whole.png"
    Image.effect_noise((16, 16), 80).save(picture)
    config = tmp_path / "whole.yaml"
    shutil.copy(bundled.config("configs/generators/xar-fashion.yaml"), config)
    cases: list[Callable[[random.Random, Path], None]] = [
        lambda dice, folder: _config(dice, config, folder),
        lambda dice, folder: _checkpoint(dice, tiny, folder, "config.json"),
        lambda dice, folder: _checkpoint(dice, tiny, folder, "model.safetensors"),
        lambda dice, folder: _picture(dice, picture, folder),
    ]
    begun, refused = time.monotonic(), 0
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # a hang ends the run and shows where
    try:
        for seed in range(200):
            folder = tmp_path / str(seed)
            folder.mkdir()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    cases[seed % len(cases)](random.Random(seed), folder)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error) and 0 < len(str(error)) < 3000, f"seed {seed}: {error}"
            except Exception as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__} instead of ValueError: {error}") from error
            shutil.rmtree(folder)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.monotonic() - begun < SECONDS
    assert refused > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.png", "whole.yaml"]


def _config(dice: random.Random, whole: Path, folder: Path) -> None:
    damaged = folder / "config.yaml"
    if dice.random() < 0.5:
        damaged.write_bytes(_bytes(dice, whole.read_bytes()))
    else:
        lines = whole.read_text().splitlines()
        index = dice.randrange(len(lines))
        key, _, _ = lines[index].partition(":")
        lines[index] = f"{key}: {dice.choice(ODD)}"
        damaged.write_text("\n".join(lines))
    load_training(damaged, [])


def _checkpoint(dice: random.Random, tiny: Path, folder: Path, name: str) -> None:
    for part in ("vae", "xar"):
        shutil.copytree(tiny / part, folder / part)
    model = dice.choice(("vae", "xar"))
    path = folder / model / name
    if name == "config.json" and dice.random() < 0.6:
        data = json.loads(path.read_bytes())
        node, key = dice.choice([(n, k) for n in (data, data["fields"]) for k in n])
        node[key] = dice.choice(ODD)
        path.write_text(json.dumps(data))
    elif dice.random() < 0.1:
        shutil.copy(folder / {"vae": "xar", "xar": "vae"}[model] / name, path)
    else:
        path.write_bytes(_bytes(dice, path.read_bytes()))
    if name != "config.json" and dice.random() < 0.5:  # as if whoever damaged the weights had forgotten no checksum
        card = json.loads((folder / model / "config.json").read_bytes())
        (folder / model / "config.json").write_text(json.dumps(card | {"sha256": ""}))
    loaded, _ = from_pretrained(folder / model)
    assert all(torch.isfinite(weight).all() for weight in loaded.parameters())
    if model == "xar":
        nx.load(folder / model, device="cpu").generate(n=1, steps=1)


def _picture(dice: random.Random, whole: Path, folder: Path) -> None:
    damaged = folder / "picture.png"
    damaged.write_bytes(_bytes(dice, whole.read_bytes()))
    image = media.read_image(damaged, dice.choice((1, 3)), (8, 8))
    assert 0 <= image.min() <= image.max() <= 1


def _bytes(dice: random.Random, whole: bytes) -> bytes:
    """Bits flipped, an end cut off, a piece moved, huge numbers, nested junk: one of them."""
    data = bytearray(whole)
    at = dice.randrange(len(data)) if dice.random() < 0.3 else dice.randrange(min(200, len(data)))
    match dice.randrange(6):
        case 0:
            for _ in range(dice.choice((1, 8, 100))):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        case 1:
            del data[at:]
        case 2:
            piece = data[at : at + 50]
            del data[at : at + 50]
            other = dice.randrange(len(data) or 1)
            data[other:other] = piece
        case 3:
            data[at : at + 8] = b"\xff" * 8
        case 4:
            data[at:at] = dice.choice((b"[" * 20_000, b"{" * 20_000, b'{"a":' * 5_000, b"\n- - - - &a *a"))
        case _:
            data[at : at + 4] = dice.randbytes(4)
    return bytes(data)
