"""A pipeline is a folder: it is saved, moved, uploaded and loaded again, and an interrupted save loses nothing."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import nextok_mm as nx
from nextok_mm.checkpoint import fingerprint, read_card
from nextok_mm.pipeline import folder as folders

KINDS = ("vae", "xar", "flextok", "video", "clips")


def loaded(folder: Path, **how: Any) -> nx.Pipeline:
    return nx.load(folder, device="cpu", **how)


def made(pipeline: nx.Pipeline) -> torch.Tensor:
    """What a pipeline makes: everything that was saved is in it."""
    if pipeline.generator is not None:
        return pipeline.generate(n=2, seed=3).data
    return pipeline.reconstruct(pipeline.medium.take(torch.rand(1, 1, *_size(pipeline)).clone())).data


def _size(pipeline: nx.Pipeline) -> tuple[int, ...]:
    return (5, 8, 8) if pipeline.medium.temporal else (8, 8)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def xar(tiny: Path) -> nx.Pipeline:
    return loaded(tiny / "xar")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", ["5GB", 4000])
def test_a_folder_is_all_that_a_pipeline_is(kind: str, most: Any, tiny: Path, tmp_path: Path) -> None:
    pipeline = loaded(tiny / kind)
    assert pipeline.save_pretrained(tmp_path / "here" / "it", max_shard_size=most) == tmp_path / "here" / "it"
    assert os.listdir(tmp_path / "here") == ["it"]
    shutil.move(tmp_path / "here" / "it", tmp_path / "moved")
    again = nx.Pipeline.from_pretrained(tmp_path / "moved", device="cpu")
    torch.manual_seed(0)
    first = made(pipeline)
    torch.manual_seed(0)
    assert torch.equal(first, made(again))
    assert again.card.labels == pipeline.card.labels and again.card.name == pipeline.card.name == f"tiny-{kind}"
    assert fingerprint(again.tokenizer) == fingerprint(pipeline.tokenizer)
    if pipeline.generator is not None:
        assert again.card.tokenizer == "./tokenizer" and again.tokenizer_card.name.startswith("tiny-")
    assert (tmp_path / "moved" / "model.safetensors.index.json").is_file() == (most == 4000)


def test_a_folder_is_zipped_and_unzipped(xar: nx.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer").mkdir()  # of somebody else, where the user works
    monkeypatch.chdir(tmp_path)
    xar.save_pretrained("saved")
    shutil.make_archive("packed", "zip", "saved")
    zipfile.ZipFile("packed.zip").extractall("unpacked")
    shutil.rmtree("saved")
    assert torch.equal(made(loaded(tmp_path / "unpacked")), made(xar))


def test_a_generator_without_a_tokenizer_is_saved_as_one(tiny: Path, tmp_path: Path, xar: nx.Pipeline) -> None:
    alone = nx.Pipeline(None, xar.generator, xar.card)
    alone.save_pretrained(tmp_path / "alone")
    assert read_card(tmp_path / "alone").tokenizer is None
    assert 'load("path/to/alone", tokenizer="TOKENIZER")' in (tmp_path / "alone" / "README.md").read_text()
    assert torch.equal(made(loaded(tmp_path / "alone", tokenizer=tiny / "vae")), made(xar))


def test_a_folder_is_saved_onto_itself_and_over_an_older_one(tiny: Path, xar: nx.Pipeline, tmp_path: Path) -> None:
    xar.save_pretrained(tmp_path / "a", max_shard_size=4000)
    first = made(xar)
    again = loaded(tmp_path / "a")
    again.save_pretrained(tmp_path / "a")
    assert torch.equal(made(loaded(tmp_path / "a")), first)
    assert sorted(listing(tmp_path / "a")) == sorted(
        f"{part}{name}" for part in ("", "tokenizer/") for name in ("README.md", "config.json", "model.safetensors")
    )
    loaded(tiny / "flextok").save_pretrained(tmp_path / "a")
    assert loaded(tmp_path / "a").generator is None and not (tmp_path / "a" / "tokenizer").exists()
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_with_anything_else_is_kept(xar: nx.Pipeline, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years")
    xar.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "tokenizer" / "notes.txt").write_text("mine")
    xar.save_pretrained(tmp_path / "clone")
    (tmp_path / "clone" / ".git").mkdir()
    (tmp_path / "file").write_text("a file")
    for name, what in (("work", "thesis.tex"), ("mine", "notes.txt"), ("clone", ".git"), ("file", "a file")):
        before = listing(tmp_path)
        with pytest.raises(ValueError, match=f"folder: .*{name}' holds .*{what}.*accepted: an empty folder") as error:
            xar.save_pretrained(tmp_path / name)
        assert "\n" not in str(error.value) and listing(tmp_path) == before
    (tmp_path / "empty").mkdir()
    xar.save_pretrained(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ValueError, match="in which this process works"):
        xar.save_pretrained(".")


def break_down(patches: pytest.MonkeyPatch, moment: int) -> None:
    """The disk is full for one call, after `moment` others."""
    left = iter([False] * moment + [True])

    def watched(plain: Any) -> Any:
        def call(*given: Any, **how: Any) -> Any:
            if next(left, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(*given, **how)

        return call

    for name in ("fsync", "rename", "replace", "mkdir"):
        patches.setattr(os, name, watched(getattr(os, name)))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_save_that_fails_anywhere_leaves_the_old_folder(
    exchange: bool, tiny: Path, xar: nx.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    loaded(tiny / "clips").save_pretrained(tmp_path / "a")
    before, failures = listing(tmp_path), 0
    for moment in range(100):
        with monkeypatch.context() as broken:
            break_down(broken, moment)
            try:
                xar.save_pretrained(tmp_path / "a")
                break
            except ValueError as error:
                failures += 1
                assert "No space left on device" in str(error) and "\n" not in str(error)
        assert listing(tmp_path) == before
    assert failures > 5
    assert torch.equal(made(loaded(tmp_path / "a")), made(xar)) and os.listdir(tmp_path) == ["a"]


def test_a_save_that_is_killed_leaves_a_folder_that_loads(tiny: Path, tmp_path: Path) -> None:
    """Killed just before any of its renames and syncs: at each moment the one or the other is there, whole."""
    code = """
import os, sys
import nextok_mm as nx
pipeline = nx.load(sys.argv[1], device="cpu")
for name in ("fsync", "rename", "replace"):
    def call(*given, plain=getattr(os, name), **how):
        global left
        left -= 1
        return plain(*given, **how) if left else os._exit(9)
    setattr(os, name, call)
for moment in range(1, 60):
    if not os.fork():
        left = moment
        pipeline.save_pretrained(sys.argv[2])
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(code, sorted(os.listdir(sys.argv[2])), nx.load(sys.argv[2], device="cpu").card.name)
    if code == 0:
        break
"""
    loaded(tiny / "clips").save_pretrained(tmp_path / "a")
    run = [sys.executable, "-c", code, str(tiny / "xar"), str(tmp_path / "a")]
    done = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(done) > 8 and done[-1].startswith("0 ") and done[-1].endswith("tiny-xar")
    assert all(line.startswith("9 ") and line.endswith("tiny-clips") for line in done[:-2])


# Precision


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.bfloat16])
@pytest.mark.parametrize("kind", ["xar", "clips"])
def test_a_generator_in_another_precision(kind: str, dtype: Any, tiny: Path, tmp_path: Path) -> None:
    pipeline = loaded(tiny / kind, dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {parameter.dtype for parameter in pipeline.generator.parameters()} == {wanted}
    assert {parameter.dtype for parameter in pipeline.tokenizer.parameters()} == {torch.float32}
    whole = loaded(tiny / kind)
    assert fingerprint(pipeline.tokenizer) == fingerprint(whole.tokenizer)
    result = pipeline.generate(n=2, seed=0).data
    assert result.dtype == torch.float32 and bool(torch.isfinite(result).all())
    if kind == "xar":
        assert (result - whole.generate(n=2, seed=0).data).abs().mean() < 0.1
    pipeline.save_pretrained(tmp_path / "half")
    again = loaded(tmp_path / "half", dtype=dtype)
    assert torch.equal(again.generate(n=2, seed=0).data, result)


@pytest.mark.parametrize("dtype", ["float64", "int8", "half", "", 16, torch.float64, torch.int8, torch.float8_e4m3fn])
def test_a_precision_that_does_not_work_is_one_line(dtype: Any, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype: got .*, accepted: float32, bfloat16, float16$"):
        nx.load(tiny / "xar", dtype=dtype)
    with pytest.raises(ValueError, match="dtype: got "):
        loaded(tiny / "xar").save_pretrained(tmp_path / "x", dtype=dtype)
    assert not (tmp_path / "x").exists()


def test_a_tokenizer_has_one_precision(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype: got bfloat16, accepted: float32, tiny-vae is a tokenizer"):
        nx.load(tiny / "vae", dtype="bfloat16")
    vae = nx.load(tiny / "vae", dtype="float32", device="cpu")
    with pytest.raises(ValueError, match="dtype: got float16, accepted: float32, tiny-vae is a tokenizer"):
        vae.save_pretrained(tmp_path / "x", dtype="float16")
    vae.save_pretrained(tmp_path / "x", dtype="float32")


# The model card


def snippet(readme: str) -> str:
    return readme.partition("```python\n")[2].partition("```")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_s_lines_run_as_they_stand(
    kind: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded(tiny / kind).save_pretrained("path/to/saved")
    Image.fromarray((np.random.default_rng(0).random((8, 12)) * 255).astype("uint8")).save("picture.png")
    frames = [Image.fromarray(np.full((8, 8), 20 * i, "uint8")) for i in range(5)]
    strip = io.BytesIO()
    frames[0].save(strip, "GIF", save_all=True, append_images=frames[1:], duration=100)
    for readme in Path("path/to/saved").rglob("README.md"):
        lines = snippet(readme.read_text())
        if "clip.mp4" in lines:
            Path("clip.gif").write_bytes(strip.getvalue())
            lines = lines.replace("clip.mp4", "clip.gif")
        assert lines.startswith("import nextok_mm as nx\n\nnx.load(") and "from_pretrained" not in readme.read_text()
        exec(lines, {})
        made_file = "out.mp4" if "out.mp4" in lines else "out.png"
        Path(made_file).unlink()
        assert "numbers" not in readme.read_text() and " parameters." in readme.read_text()


def test_the_card_is_one_that_a_hub_reads(tiny: Path, tmp_path: Path) -> None:
    tasks = {"vae": "image-feature-extraction", "xar": "unconditional-image-generation", "clips": "video-to-video"}
    for kind, task in tasks.items():
        pipeline = loaded(tiny / kind)
        pipeline.card = pipeline.card.model_copy(
            update={"license": "Apache-2.0", "about": {"a": "two\nlines", "data": {"x": 1}}}
        )
        data = ModelCard.load(pipeline.save_pretrained(tmp_path / kind) / "README.md").data
        assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "nextok_mm", task)
        assert {"nextok_mm", pipeline.card.kind} <= set(data.tags)
        assert "- a: two lines\n" in (tmp_path / kind / "README.md").read_text()
    parameters = sum(parameter.numel() for parameter in pipeline.generator.parameters())
    assert f"with {parameters:,} parameters." in (tmp_path / "clips" / "README.md").read_text()
    assert ModelCard.load(tmp_path / "clips" / "tokenizer" / "README.md").data.license is None


@pytest.mark.parametrize(
    "license, tag", [("MIT (them)", "mit"), ("not stated (x)", "unknown"), ("Own: ask --- us\n", "other"), ("", None)]
)
def test_licenses_by_the_hub_s_names(license: str, tag: str | None, xar: nx.Pipeline, tmp_path: Path) -> None:
    xar.card = xar.card.model_copy(update={"license": license})
    assert ModelCard.load(xar.save_pretrained(tmp_path / "x") / "README.md").data.license == tag


def test_a_model_of_captions_is_asked_by_a_caption(tmp_path: Path) -> None:
    nx.load("elm-emoji", device="cpu").save_pretrained(tmp_path / "emoji")
    readme = (tmp_path / "emoji" / "README.md").read_text()
    assert '.generate(text="a red heart", n=4, seed=0).save("out.png")' in readme
    assert ModelCard(readme).data.pipeline_tag == "text-to-image"
    again = read_card(tmp_path / "emoji" / "tokenizer")
    assert again.name == "flextok-emoji" and again.license == "Apache-2.0" and again.about


# The hub


class Hub:
    """A hub that is a folder: what `HfApi` is asked for."""

    def __init__(self, root: Path):
        self.root, self.calls = root, []

    def __call__(self, token: str | None = None) -> "Hub":
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id: str, **how: Any) -> None:
        self.calls.append(("create_repo", repo_id, how))

    def create_branch(self, repo_id: str, **how: Any) -> None:
        self.calls.append(("create_branch", repo_id, how))

    def upload_folder(self, *, repo_id: str, folder_path: Path, delete_patterns: list[str], **how: Any) -> Any:
        from fnmatch import fnmatch

        self.calls.append(("upload_folder", repo_id, how))
        target = self.root / repo_id
        for path in target.rglob("*"):
            if any(fnmatch(str(path.relative_to(target)), pattern) for pattern in delete_patterns):
                path.unlink()
        shutil.copytree(folder_path, target, dirs_exist_ok=True)
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/commit/1"})()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", found)

    def download(name: str, revision: str | None = None, allow_patterns: Any = None) -> str:
        from fnmatch import fnmatch

        shutil.copytree(found.root / name, tmp_path / "cache" / name, dirs_exist_ok=True)
        for path in (tmp_path / "cache" / name).rglob("*"):
            relative = str(path.relative_to(tmp_path / "cache" / name))
            if path.is_file() and not any(fnmatch(relative, pattern) for pattern in allow_patterns):
                path.unlink()
        return str(tmp_path / "cache" / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return found


@pytest.mark.parametrize("most", ["5GB", 4000])
def test_what_is_pushed_is_what_is_loaded(hub: Hub, xar: nx.Pipeline, most: Any) -> None:
    url = xar.push_to_hub("owner/name", private=True, revision="v2", token="t", max_shard_size=most)
    assert url == "https://hub/owner/name/commit/1"
    assert hub.calls[:3] == [
        ("token", "t"),
        ("create_repo", "owner/name", {"private": True, "exist_ok": True}),
        ("create_branch", "owner/name", {"branch": "v2", "exist_ok": True}),
    ]
    assert hub.calls[3][2] == {"revision": "v2", "commit_message": "Upload tiny-xar with nextok_mm"}
    assert torch.equal(made(nx.load("owner/name", device="cpu", revision="v2")), made(xar))
    readme = (hub.root / "owner" / "name" / "README.md").read_text()
    assert 'nx.load("owner/name").generate(labels=["shoe"], n=4, seed=0).save("out.png")' in readme
    inner = (hub.root / "owner" / "name" / "tokenizer" / "README.md").read_text()
    assert 'nx.load("owner/name").reconstruct(' in inner


def test_a_later_push_leaves_no_old_weights_behind(hub: Hub, tiny: Path, xar: nx.Pipeline) -> None:
    xar.push_to_hub("owner/name", max_shard_size=4000)
    (hub.root / "owner" / "name" / "samples.png").write_bytes(b"theirs")
    xar.push_to_hub("owner/name")
    names = sorted(path.name for path in (hub.root / "owner" / "name").glob("*"))
    assert names == ["README.md", "config.json", "model.safetensors", "samples.png", "tokenizer"]


@pytest.mark.parametrize("name", ["name", "", "a/b/c", "/name", "owner/", None, 7])
def test_a_name_that_no_hub_has_is_one_line(hub: Hub, xar: nx.Pipeline, name: Any) -> None:
    with pytest.raises(ValueError, match="repo_id: got .*, accepted: owner/name"):
        xar.push_to_hub(name)
    assert not hub.calls


def test_a_hub_that_refuses_is_one_line(hub: Hub, xar: nx.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    for error in (HfHubHTTPError.__bases__[0]("no\nconnection"), OSError("no\nconnection")):

        def refuses(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(hub, "create_repo", refuses)
        with pytest.raises(ValueError, match=r"push_to_hub: owner/name was not uploaded \(no\)"):
            xar.push_to_hub("owner/name")


# Memory


@pytest.mark.slow
def test_weights_are_never_held_twice(tmp_path: Path) -> None:
    """Half a GiB of weights: loading and saving take them once, in one file or in several."""
    code = """
import json, resource, sys
import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.checkpoint import Card, from_pretrained
step, folder = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
if step == "make":
    model = registry.build("generator", "elm", {"size": "tiny", "width": 1024, "heads": 8, "depth": 10})
    weights = sum(p.numel() for p in model.parameters()) >> 18
    before = peak()
    pipeline = nx.Pipeline(None, model, Card(role="generator", kind="elm", name="x"))
    pipeline.save_pretrained(folder, max_shard_size="100MB")
    pipeline.save_pretrained(folder + "-one")
    print(json.dumps([weights, peak() - before]))
else:
    registry.build("generator", "elm", {"size": "tiny"})
    import huggingface_hub
    before = peak()
    model, _ = from_pretrained(folder)
    sum(float(p.sum()) for p in model.parameters())
    print(json.dumps(peak() - before))
"""

    def run(step: str, folder: Path) -> Any:
        done = subprocess.run([sys.executable, "-c", code, step, str(folder)], capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)

    weights, saving = run("make", tmp_path / "big")
    assert 400 < weights and saving < 0.2 * weights
    for name in ("big", "big-one"):
        assert run("load", tmp_path / name) < 1.2 * weights
