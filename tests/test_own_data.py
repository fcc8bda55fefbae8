"""docs/own-data.md does what it says: its commands are run, its YAML is what ships."""

import re
import runpy
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from PIL import Image

from nextok_mm import bundled, cli, registry
from nextok_mm import data as sources
from nextok_mm.train import load

DOCUMENT = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text(encoding="utf8")


def blocks(kind: str, section: str) -> list[str]:
    """The code blocks of a kind below a heading."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE)
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def commands(section: str) -> list[list[str]]:
    lines = "".join(blocks("sh", section)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.mark.slow
def test_the_minute_is_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the short form, in its order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    [script] = blocks("python", "Try it in a minute")
    exec(compile(script, "own-data.md", "exec"), {})
    for program, *arguments in commands("Try it in a minute"):
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        try:
            if program == "python":
                assert arguments[0] == "-m"
                monkeypatch.setattr(sys, "argv", arguments[1:])
                monkeypatch.delitem(sys.modules, arguments[1], raising=False)
                runpy.run_module(arguments[1], run_name="__main__")
            else:
                assert program == "nextok"
                cli.main()
        except SystemExit as stop:
            assert not stop.code, arguments
    with Image.open("try-own.png") as drawn:
        assert drawn.text["nextok.labels"] == str([0, 1, 0, 1]) and drawn.size == (2 * 130 - 2, 2 * 130 - 2)
    with Image.open("try-both.png") as both:
        assert both.size == (2 * 130 - 2, 128)


def test_the_short_form_is_the_long_one_with_small_numbers() -> None:
    """The same programs, subcommands and kinds in the same order."""

    def plain(section: str) -> list[list[str]]:
        found = []
        for words in commands(section):
            found.append([word for word in words if not re.match(r"(model|train|tokenizer|data\.folder)\b.*=", word)])
            found[-1] = [re.sub(r"\btry-|runs/.*|[\w-]+\.png", "", word) for word in found[-1]]
        return found

    short = [
        [word for word in words if word not in ("--steps", "2", "4", "16")] for words in plain("Try it in a minute")
    ]
    assert short == [[word for word in words if word not in ("16",)] for words in plain("In earnest")]


def test_the_configs_in_it_are_those_that_ship() -> None:
    written = [yaml.safe_load(block) for block in blocks("yaml", "In earnest")]
    shipped = [yaml.safe_load(bundled.config(f"configs/{name}").read_text()) for name in (
        "tokenizers/vae-own.yaml", "generators/xar-own.yaml")]  # fmt: skip
    assert written == shipped


def test_clips_are_a_training_each(tmp_path: Path) -> None:
    """The YAML is accepted, the pair fits, and the commands' data is data."""
    found = []
    for block in blocks("yaml", "Clips"):
        (tmp_path / "x.yaml").write_text(block)
        found.append(load(tmp_path / "x.yaml"))
    tokenizer, generator = (
        registry.build(config.model.role, config.model.kind, config.model.fields.model_dump()) for config in found
    )
    assert tokenizer.grid(found[0].data.size) == tuple(generator.config.grid)
    assert (
        tokenizer.num_codes == generator.config.num_codes and tokenizer.config.image_channels == found[0].data.channels
    )
    assert tuple(tokenizer.size) == tuple(found[0].data.size)
    [cache] = [words for words in commands("Clips") if words[1] == "cache"]
    given = [word for before, word in pairwise(cache) if before == "--data"]
    from nextok_mm.config import override

    config = sources.parse(override({}, given))
    assert config.kind == "clips" and config.size == found[0].data.size


def test_text_is_learned_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands up to the training, which is made short."""
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for number in range(60):
        (tmp_path / "notes" / f"{number}.txt").write_text(
            "".join(f"{number * n} is {n} times {number}\n" for n in range(99))
        )
    words, train = commands("Text")[:2]
    small = [
        "train.steps=1",
        "train.batch=1",
        "train.cpu=true",
        "model.width=32",
        "model.heads=2",
        "model.mlp_hidden=32",
    ]
    for line in ([*words[:-1], "300"], [*train, *small, "model.vocabulary=300", "data.length=64"]):
        monkeypatch.setattr(sys, "argv", line)
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, line
    assert (tmp_path / "runs" / "own-text" / "final" / "tokenizer.json").is_file()
