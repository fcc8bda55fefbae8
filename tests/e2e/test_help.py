"""What the commands say of themselves: whole sentences, lines that fit, examples that parse, names that complete."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nextok_mm import __version__, bundled, registry
from nextok_mm.cli import app, base
from nextok_mm.train import __main__ as training
from nextok_mm.zoo import list_models

GROUP = typer.main.get_command(app)
NAMES = sorted(GROUP.commands)
SENTENCE = re.compile(r"[A-Z`].*\.", re.DOTALL)


def text(*words: str, width: int = 80) -> str:
    done = CliRunner(env={"COLUMNS": str(width)}).invoke(app, [*words, "--help"], terminal_width=width)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("name", NAMES)
def test_every_option_and_argument_says_a_sentence(name: str) -> None:
    said = {option.name: option.help or "" for option in GROUP.commands[name].params}
    assert {option: words for option, words in said.items() if not SENTENCE.fullmatch(words)} == {}
    for words in said.values():
        assert " a second" not in words and " an entity" not in words and "taken in turn" not in words


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("name", ["", *(name for name in NAMES if name not in ("bench", "study"))])
def test_no_line_of_a_help_text_is_wider_than_the_terminal(name: str, width: int) -> None:
    lines = text(*([name] if name else []), width=width).splitlines()
    assert len(lines) > 5 and [line for line in lines if len(line) > width] == []


def test_every_command_fits_into_its_line_of_the_overview() -> None:
    said = text()
    assert "..." not in said.replace("[ARGS]...", "")
    for name in NAMES:
        assert re.search(rf"^  {name} +[A-Z].*\.$", said, re.MULTILINE), name


@pytest.mark.parametrize("name", ["", *NAMES])
def test_every_command_has_an_example_that_parses(name: str) -> None:
    command = GROUP.commands[name] if name else GROUP
    assert SENTENCE.match(command.help or "") and command.help.rstrip().endswith(".")
    prefix, _, line = (command.epilog or "").partition(": ")
    program, first, *arguments = shlex.split(line)
    assert (prefix, program) == ("Example", "nextok") and (not name or first == name)
    GROUP.commands[first].make_context(first, arguments)


@pytest.mark.parametrize("module", ["sample_image", "sample_video", "sample_text"])
def test_samplers_say_sentences_too(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(bundled.folder("demos")))
    shown = {}
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, line=None: shown.update(parser=self))
    __import__(module).arguments(["--out", "x"])
    actions = [action for action in shown["parser"]._actions if action.dest != "help"]
    assert len(actions) > 10 and [action.dest for action in actions if not SENTENCE.fullmatch(action.help or "")] == []


def test_every_sampling_setting_has_a_meaning_which_info_shows(nextok, tiny: Path) -> None:
    for role in registry.ROLES:
        for kind in registry.kinds(role):
            settings = getattr(registry.get(role, kind), "Sampling", None)
            for name, field in getattr(settings, "model_fields", {}).items():
                assert SENTENCE.fullmatch(field.description or ""), (kind, name)
    code, said, _ = nextok("info", tiny / "xar")
    assert code == 0 and re.search(r"^  steps +2 +Solver steps per entity\.$", said, re.MULTILINE)
    assert re.search(r"^parameters +[\d,]+$", said, re.MULTILINE)


@pytest.mark.parametrize("line", [["nextok_mm"], ["nextok_mm.cli"]])
def test_the_package_is_a_command_too(line: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *line, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nextok_mm {__version__}\n", "")


def test_h_is_help_everywhere(nextok, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert nextok("-h")[:2] == nextok("--help")[:2] == nextok()[:2]
    for name in NAMES:
        code, said, _ = nextok(name, "-h")
        assert code == 0 and len(said.splitlines()) >= (1 if name == "study" else 5), name
    monkeypatch.setattr(sys, "argv", ["train", "-h"])
    assert training.main() == 0 and "Example: " in capsys.readouterr().out


def test_shells_complete_the_names_that_ship() -> None:
    shipped = list_models()
    assert base.shipped()("") == sorted(shipped)
    assert base.shipped("generator")("x") == [name for name in shipped if name.startswith("x")] == ["xar-fashion"]
    assert base.shipped("tokenizer")("") == list(list_models("tokenizer"))
    for line, names in (
        ("nextok generate xar", ["xar-fashion"]),
        ("nextok decode flex", list(list_models("tokenizer"))[:2]),
    ):
        asked = {"_NEXTOK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "2"}
        done = CliRunner(env=asked).invoke(app, [], prog_name="nextok")
        assert done.output.split() == names


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("generate x --guidance-scale 3", "--guidance-scale: nextok generate has no such option; accepted: --cfg"),
        ("generate x --num-inference-steps 3", "accepted: --steps"),
        ("generate x --num_images_per_prompt 3", "accepted: --n"),
        ("generate x --prompt cat", "accepted: --text"),
        ("generate x --batch-size 3", "accepted: --batch"),
        ("generate x --generator 3", "accepted: --seed"),
        ("generate x --max-new-tokens 3", "accepted: --tokens"),
        ("generate x --eta 0", "accepted: --solver"),
        ("generate x --height 3", "accepted: none; a model draws samples of the size"),
        ("generate x --output-type pil", "accepted: none; a Result has .images and .pil()"),
        ("generate x --torch-dtype half", "accepted: none; load(name, dtype=...) chooses"),
        ("generate x --negative-prompt cat", "accepted: none; guidance is away from the empty condition"),
        ("generate x --label 3", "accepted: --labels"),
        ("generate x --stesp 3", "did you mean --steps?"),
        ("generate x --banana 3", "`nextok generate --help` shows what is accepted"),
        ("generate", "Missing argument"),
        ("genrate x", "'genrate'"),
        ("generate x --n many", "'--n'"),
    ],
)
def test_a_wrong_line_is_answered_in_one_line(nextok, line: str, said: str) -> None:
    code, out, error = nextok(*line.split())
    assert (code, out) == (2, "") and said in error
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--set guidance_scale=3", "guidance_scale: no such argument, accepted: cfg=..."),
        ("--set num_inference_steps=3", "accepted: steps=..."),
        ("--set height=3", "accepted: none; a model draws samples of the size"),
    ],
)
def test_a_borrowed_setting_is_named(nextok, tiny: Path, tmp_path: Path, line: str, said: str) -> None:
    code, _, error = nextok("generate", tiny / "xar", "--out", tmp_path / "o.png", *line.split())
    assert code == 2 and said in error and error.count("\n") == 1
