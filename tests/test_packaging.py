"""What users install: a quick command, bundled configs, documents whose commands and links exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nextok_mm import bundled
from nextok_mm.cli import app

TOP = Path(__file__).parents[1]
DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").rglob("*.md"))]


@pytest.mark.slow
def test_import_costs_torch_and_little_more():
    """Processor time, side by side: it doesn't count what other processes do on this machine."""
    code = "import time; begun = time.process_time(); import {}; print(time.process_time() - begun)"

    def cost(name: str) -> float:
        run = [sys.executable, "-c", code.format(name)]
        return min(float(subprocess.run(run, capture_output=True, check=True).stdout) for _ in range(3))

    assert cost("nextok_mm") <= cost("torch") + 0.3


def test_the_command_line_starts_without_torch():
    code = "import sys, nextok_mm.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "gradio"} & set(done.stdout.split())


def test_bundled_configs_are_found_by_name():
    for name in ("configs/generators/xar-fashion.yaml", "generators/xar-fashion.yaml"):
        assert bundled.config(name).resolve() == bundled.folder("configs").resolve() / "generators/xar-fashion.yaml"
    with pytest.raises(ValueError, match="bundled: .*configs/generators/xar-fashion.yaml"):
        bundled.config("configs/generators/xar-fashoin.yaml")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_links_in_documents_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def commands() -> list[str]:
    """Every `nextok ...` line in the documents' code blocks."""
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():  # a command may go on in the next line
                found += re.findall(r"(?:^|&& )(nextok [^#&]+)", line.strip())
    return sorted({line.strip() for line in found})


@pytest.mark.parametrize("line", commands())
def test_commands_in_documents_parse(line):
    """Each names a subcommand and options that exist; nothing is run."""
    import typer

    _, name, *arguments = shlex.split(line)
    group = typer.main.get_command(app)
    command = group.commands[name]
    if name == "bench":
        from nextok_mm.bench import BENCHES

        assert arguments[0] in BENCHES
    else:
        command.make_context(name, list(arguments))


def test_the_wheel_claims_three_names_and_carries_configs_and_demos():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib")
    import tomllib

    wheel = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["nextok_mm", "tokenizers_visual", "tokenizers_speech", "generators"]
    assert wheel["force-include"] == {name: f"nextok_mm/_bundled/{name}" for name in ("configs", "demos")}
    # The built wheel itself is used outside the checkout by .ci/run.


@pytest.mark.parametrize("package", ["nextok_mm", "tokenizers_visual", "tokenizers_speech", "generators"])
def test_type_hints_are_there_for_users(package):
    assert (TOP / package / "py.typed").is_file()


def test_citation_names_this_version():
    cited = yaml.safe_load((TOP / "CITATION.cff").read_text())
    assert f'version = "{cited["version"]}"' in (TOP / "pyproject.toml").read_text()
    assert cited["cff-version"] == "1.2.0" and cited["license"] == "Apache-2.0" and cited["authors"] and cited["title"]


def test_notice_names_every_checkpoint_and_family():
    """What ships with its data, and of whom a published family is, whose files adapters read."""
    from nextok_mm.zoo import list_models

    notice = (TOP / "NOTICE").read_text()
    assert not [name for name in list_models() if name not in notice]
    sources = [*(TOP / "generators").glob("[a-z]*.py"), *(TOP / "tokenizers_visual").glob("[a-z]*.py")]
    sources += (TOP / "tokenizers_speech").glob("[a-z]*.py")
    first = {path.stem: re.search(r"arXiv (\d{4}\.\d{5})", path.read_text()) for path in sources}
    assert not [name for name, found in first.items() if found and found[1] not in notice]


def test_continuous_integration_runs_what_a_developer_runs():
    workflow = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text())
    commands = {name: [step.get("run", "") for step in job["steps"]] for name, job in workflow["jobs"].items()}
    assert any(line.startswith("bash .ci/run") for line in commands["all"])
    script = (TOP / ".ci" / "run").read_text()
    assert all(line in script for line in commands["lint"] if not line.startswith("pip ")) and "--slow" in script
    oldest, newest = workflow["jobs"]["all"]["strategy"]["matrix"]["python"]
    assert f'requires-python = ">={oldest}"' in (TOP / "pyproject.toml").read_text() and newest == "3.14"


def test_the_glossary_points_at_files_that_exist():
    places = re.findall(r"`([\w/]+(?:\.py|/))(?:`|, )", (TOP / "docs" / "glossary.md").read_text())
    assert len(places) > 30
    assert not [place for place in places if not any((TOP / top / place).exists() for top in ("", "nextok_mm"))]
