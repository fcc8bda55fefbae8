"""Checkpoints: what is saved comes back, and whatever else lies there is refused in one line."""

import errno
import json
import os
import pickle
import shutil
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nextok_mm as nx
from nextok_mm import references, registry
from nextok_mm.checkpoint import (
    fingerprint,
    from_pretrained,
    read_card,
    read_weights,
    reference,
    resolve,
    save_pretrained,
    tokenizer_folder,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return registry.build("generator", "xar", {"size": "tiny"})


@pytest.fixture
def saved(model, tmp_path):
    return save_pretrained(model, tmp_path / "saved", name="small", labels=["a", "b", "c"], tokenizer="vae")


def refused(name, **settings) -> str:
    """The one line that a user reads."""
    with pytest.raises(ValueError) as error:
        from_pretrained(name, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(folder: Path, **fields) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def test_what_is_saved_comes_back(model, saved):
    loaded, card = from_pretrained(saved, role="generator")
    assert not loaded.training and loaded.config == model.config
    assert (card.name, card.labels, card.tokenizer) == ("small", ("a", "b", "c"), "vae")
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.parameters())
    assert not any(buffer.is_meta for buffer in loaded.buffers())
    assert "\n# small\n" in (saved / "README.md").read_text()


def test_half_precision_on_disk_is_fp32_in_memory(model, tmp_path):
    folder = save_pretrained(model, tmp_path / "half", dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    loaded, _ = from_pretrained(folder)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    again, _ = from_pretrained(save_pretrained(loaded, tmp_path / "again", dtype=torch.float16))
    assert fingerprint(again) == fingerprint(loaded)


def test_loading_leaves_the_global_generator_alone(saved):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    from_pretrained(saved)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_fingerprint_changes_with_any_weight_and_any_field(model):
    before = fingerprint(model)
    assert before == fingerprint(model)
    with torch.no_grad():
        list(model.parameters())[-1].view(-1)[0] += 1e-3
    after = fingerprint(model)
    assert after != before
    twin = registry.build("generator", "xar", {"size": "tiny", "condition_dropout": 0.2})
    twin.load_state_dict(model.state_dict())
    assert fingerprint(twin) != after


def test_an_unknown_meta_field_or_a_weight_that_is_not_finite_is_not_saved(model, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'license'"):
        save_pretrained(model, tmp_path / "x", licence="MIT")
    with torch.no_grad():
        next(model.parameters()).fill_(1e6)
    with pytest.raises(ValueError, match="not finite"):
        save_pretrained(model, tmp_path / "x", dtype=torch.float16)
    assert not (tmp_path / "x").exists()


def test_a_full_disk_leaves_the_old_checkpoint(model, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    plain, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 3:  # the third file doesn't fit any more
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="No space left on device; what was there before is kept"):
        save_pretrained(model, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_weights_of_another_checkpoint_are_noticed(model, saved, tmp_path):
    with torch.no_grad():
        next(model.parameters()).add_(1)
    other = save_pretrained(model, tmp_path / "other")
    (saved / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert "not the one that config.json describes" in refused(saved)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"role": "judge"}, "judge kind: got 'xar'"),
        ({"role": "cook"}, "role"),
        ({"kind": "xarr"}, "did you mean 'xar'"),
        ({"kind": "os.system"}, "generator kind"),
        ({"format": 2}, "format 2, accepted: 1"),
        ({"fields": {"size": "tiny", "widht": 3}}, "did you mean 'width'"),
        ({"fields": []}, "fields"),
        ({"surprise": 1}, "surprise: unknown key"),
        ({"fields": {"size": "tiny", "width": 64}}, "accepted: (2, 384)"),
        ({"fields": {"size": "tiny", "depth": 3}}, "lacks"),
        ({"labels": "abc"}, "labels"),
    ],
)
def test_a_wrong_config_is_one_line(saved, fields, words):
    assert words in refused(edit(saved, **fields))


def test_another_role_than_the_wanted_one_is_refused(saved):
    assert "it holds a generator (xar), a tokenizer is accepted here" in refused(saved, role="tokenizer")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b"{" + b" " * (1 << 20) + b"}"])
def test_a_config_that_is_none_is_one_line(saved, content):
    (saved / "config.json").write_bytes(content)
    assert str(saved) in refused(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_truncated_weights_are_one_line(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors" in refused(saved)
    assert "not a whole safetensors file" in refused(edit(saved, sha256=""))


@pytest.mark.parametrize(
    "header, words",
    [
        (b"{}", "not a whole safetensors file"),
        (b'{"a":', "not a whole safetensors file"),
        (b"[1]", "not a whole safetensors file"),
        (b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}', "not a whole safetensors file"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "lacks weights"),
    ],
)
def test_a_lying_header_is_one_line(saved, header, words):
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    assert words in refused(edit(saved, sha256=""))


def test_missing_parts_are_one_line(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    assert "no file model.safetensors" in refused(saved)
    (tmp_path / "empty").mkdir()
    assert "no file config.json" in refused(tmp_path / "empty")
    assert "no 'nowhere'" in refused("nowhere")
    assert "is a file" in refused(saved / "config.json")
    refused("a\0b")
    refused("")


def test_weights_that_are_not_finite_are_refused(saved):
    weights = load_file(saved / "model.safetensors")
    weights["embed.bias"] = weights["embed.bias"].fill_(float("nan"))
    save_file(weights, saved / "model.safetensors")
    assert "'embed.bias' is not finite" in refused(edit(saved, sha256=""))


class Evil:
    """Pickled, it runs a command when it is read."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path, zipped):
    trace, path = tmp_path / "executed", tmp_path / "x.pth"
    torch.save({"a": Evil(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="refused, reading it would run code") as error:
        read_weights(path)
    assert "\n" not in str(error.value) and not trace.exists()
    bare = tmp_path / "bare.ckpt"
    bare.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(ValueError, match="refused"):
        read_weights(bare)
    assert not trace.exists()


def test_published_pickles_of_plain_tensors_are_read(tmp_path):
    from argparse import Namespace

    torch.save({"model": {"w": torch.ones(2)}, "args": Namespace(lr=1.0), "epoch": 3}, tmp_path / "x.pth")
    assert torch.equal(read_weights(tmp_path / "x.pth")["model"]["w"], torch.ones(2))


@pytest.mark.parametrize(
    "name, content", [("x.pth", b""), ("x.pth", b"PK\3\4rubbish"), ("x.npz", b"1"), ("x.pt", b"abc")]
)
def test_other_files_are_no_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_names_are_looked_for_in_the_zoo_then_on_disk_then_on_the_hub(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(name, revision=None, allow_patterns=None):
        asked.append((name, revision))
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert from_pretrained("somebody/model", revision="v1")[1].name == "small" and asked == [("somebody/model", "v1")]
    (tmp_path / "somebody" / "model").mkdir(parents=True)
    assert resolve("somebody/model") == Path("somebody/model") and len(asked) == 1
    monkeypatch.setattr(references, "ZOO", tmp_path)
    assert resolve("saved") == tmp_path / "saved"
    assert resolve("saved", beside=tmp_path) == tmp_path / "saved"
    with pytest.raises(ValueError, match="hub id"):
        resolve("../../etc")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(*args, **settings):
        raise LocalEntryNotFoundError("no connection\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert "not on the hub (no connection)" in refused("somebody/model")


# What a generator's checkpoint says about its tokenizer


@pytest.fixture
def pair(model, tmp_path, monkeypatch):
    """`work/run1/final`, a tokenizer, and `work/run2/final`, a generator trained with it, named as it was typed."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail(f"asked the hub for {a}"))
    vae = registry.build("tokenizer", "kl_vae", {"size": "tiny"})
    save_pretrained(vae, "run1/final")
    save_pretrained(model, "run2/final", tokenizer="run1/final")
    return work


def test_a_tokenizer_is_found_from_everywhere(pair, tmp_path, monkeypatch):
    card = read_card(pair / "run2" / "final")
    assert card.tokenizer == "../../run1/final" and len(card.tokenizer_fingerprint) == 16
    monkeypatch.chdir(tmp_path)
    assert nx.load("work/run2/final", device="cpu").tokenizer is not None
    shutil.move(pair, tmp_path / "moved")
    assert nx.load(tmp_path / "moved" / "run2" / "final", device="cpu").tokenizer is not None


def test_a_tokenizer_that_is_gone_is_never_asked_for_on_the_hub(pair, monkeypatch):
    shutil.move("run1", "elsewhere")
    for folder in (pair, pair.parent):
        monkeypatch.chdir(folder)
        with pytest.raises(ValueError, match="names the folder '../../run1/final', which isn't there; another"):
            nx.load(pair / "run2" / "final")
    assert nx.load(pair / "run2" / "final", tokenizer=pair / "elsewhere" / "final", device="cpu").tokenizer is not None


def test_a_tokenizer_that_has_become_another_is_refused(pair):
    torch.manual_seed(7)
    save_pretrained(registry.build("tokenizer", "kl_vae", {"size": "tiny"}), "run1/final")
    with pytest.raises(
        ValueError, match="tokenizer: .*run1/final is [0-9a-f]{16}, accepted: [0-9a-f]{16}, with"
    ) as error:
        nx.load("run2/final")
    assert "\n" not in str(error.value)
    assert nx.load("run2/final", tokenizer="run1/final", device="cpu").tokenizer is not None


def test_how_a_checkpoint_names_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/final", "b/final", "b/final/vae", "far/away/in/other/folders"):
        Path(folder).mkdir(parents=True)
    assert reference("a/final", "b/final") == "../../a/final"
    assert reference(tmp_path / "a" / "final", "b/new") == "../../a/final"
    assert reference("b/final/vae", "b/final") == "./vae"
    assert reference("vae", "b/final") == "./vae"  # inside it
    assert reference("./vae", "b/final") == "./vae"
    assert reference("../../a/final", tmp_path / "b" / "final") == "../../a/final"
    assert reference("a/final", "far/away/in/other/folders") == str((tmp_path / "a" / "final").resolve())
    assert reference("vae-fashion", "b/final") == "vae-fashion"
    assert reference("owner/name", "b/final") == "owner/name"
    Path("owner/name").mkdir(parents=True)
    assert reference("owner/name", "b/final") == "../../owner/name"


def test_a_hub_id_stays_one_and_an_old_name_never_becomes_one(model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    monkeypatch.chdir(tmp_path)
    known = save_pretrained(model, "known", tokenizer="owner/name", tokenizer_fingerprint="0123456789abcdef")
    assert tokenizer_folder(read_card(known), known) == tmp_path and asked == ["owner/name"]
    old = save_pretrained(model, "old", tokenizer="run1/final")  # as typed, from a folder where it wasn't
    with pytest.raises(ValueError, match="names 'run1/final', which is no folder beside it or here, and may be no hub"):
        tokenizer_folder(read_card(old), old)
    (tmp_path / "run1" / "final").mkdir(parents=True)
    assert tokenizer_folder(read_card(old), old) == Path("run1/final")
    (old / "run1" / "final").mkdir(parents=True)
    assert tokenizer_folder(read_card(old), old) == old / "run1" / "final"
    assert asked == ["owner/name"]


# What nothing untrusted may cost


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": 1000},
        {"depth": 10**8},
        {"width": 10**9},
        {"grid": [10**9, 1]},
        {"grid": [10**5, 10**5]},
        {"classes": 10**9},
        {"heads": float("nan")},
        {"depth": True},
        {"width": "32"},
    ],
)
def test_a_config_larger_than_its_weights_is_refused_before_it_is_built(saved, fields):
    began = time.process_time()
    refused(edit(saved, fields={"size": "tiny", **fields}))
    assert time.process_time() - began < 2


def test_a_tokenizer_of_too_many_layers_is_refused_at_once(tmp_path):
    folder = save_pretrained(registry.build("tokenizer", "kl_vae", {"size": "tiny"}), tmp_path / "vae")
    plain = registry.get("tokenizer", "kl_vae").Config.SIZES["tiny"]
    for fields in (
        {"block_layers": 10**9},
        {"block_layers": 64, "block_channels": [4096] * 16, "image_size": [1 << 15] * 2},
    ):
        began = time.process_time()
        refused(edit(folder, fields={**plain, **fields}))
        assert time.process_time() - began < 2


def test_another_library_s_model_without_end_is_stopped_by_the_weights(saved, monkeypatch):
    """The rule holds for kinds that nobody here has seen: they build as long as the file has tensors for it."""
    plain, made = registry.build, []

    def endless(*_):
        for _ in range(10**6):
            made.append(torch.nn.Linear(2, 2))

    monkeypatch.setattr(registry, "build", endless)
    assert "larger than what model.safetensors holds" in refused(saved)
    assert len(made) < 200
    monkeypatch.setattr(registry, "build", plain)
    from_pretrained(saved)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_a_number_are_one_line(model, saved, tmp_path, dtype):
    weights = {name: tensor.to(dtype) for name, tensor in load_file(saved / "model.safetensors").items()}
    save_file(weights, saved / "model.safetensors")
    assert "accepted: float64, float32, float16, bfloat16" in refused(edit(saved, sha256=""))
    with pytest.raises(ValueError, match="is float8_e.*, accepted: float64"):
        save_pretrained(model, tmp_path / "x", dtype=dtype)


@pytest.mark.parametrize(
    "name", ["a" * 300, "a/" + "b" * 300, "~nobody-of-this-name/x", "~nobody-of-this-name", "ä" * 200]
)
def test_a_name_that_no_folder_can_have_is_one_line(name):
    assert len(refused(name)) < 600


def test_a_folder_of_another_library_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL", "in_channels": 3}')
    assert "it is a diffusers folder, not one of nextok_mm; nextok convert kl_vae" in refused(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    assert "it is a transformers folder, not one of nextok_mm" in refused(tmp_path)


def test_a_card_that_says_a_thing_twice_is_refused(saved):
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"kind": "xar"', '"kind": "elm", "kind": "xar"'))
    assert "'kind' is given twice" in refused(saved)


def test_many_threads_load_at_once(saved):
    """While others build modules of their own, and nobody's random numbers change."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    torch.manual_seed(5)
    before, stop, failed = torch.random.get_rng_state(), threading.Event(), []

    def build() -> None:
        while not stop.is_set():
            try:
                assert not torch.nn.LayerNorm(2).weight.is_meta
            except BaseException as error:
                failed.append(error)
                return

    other = threading.Thread(target=build)
    other.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            models = list(pool.map(lambda _: from_pretrained(saved)[0], range(40)))
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(interval)
    assert not failed and torch.equal(before, torch.random.get_rng_state())
    mine = models[0].state_dict()
    for model in models[1:]:
        assert all(torch.equal(mine[name], tensor) for name, tensor in model.state_dict().items())
        assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_saving_hashes_the_file_that_it_wrote(saved):
    from nextok_mm.files import sha256

    assert read_card(saved).sha256 == sha256(saved / "model.safetensors")


# Weights in several files


@pytest.fixture
def sharded(model, tmp_path):
    return save_pretrained(model, tmp_path / "sharded", name="small", max_shard_size=20_000)


def index_of(folder: Path) -> dict:
    return json.loads((folder / "model.safetensors.index.json").read_text())


def with_index(folder: Path, index: object, hashed: bool = True) -> Path:
    """A checkpoint with another index, and a config.json that knows it or doesn't say."""
    from nextok_mm.files import sha256

    path = folder / "model.safetensors.index.json"
    path.write_text(index if isinstance(index, str) else json.dumps(index))
    return edit(folder, sha256=sha256(path) if hashed else "")


def test_several_files_hold_the_same_model(model, saved, sharded):
    from huggingface_hub import load_torch_model

    index = index_of(sharded)
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert not (sharded / "model.safetensors").exists()
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in model.state_dict().values())
    for file in files:
        held = load_file(sharded / file)
        assert len(held) == 1 or sum(tensor.numel() * tensor.itemsize for tensor in held.values()) <= 20_000
    loaded, _ = from_pretrained(sharded)
    assert fingerprint(loaded) == fingerprint(from_pretrained(saved)[0])
    other = registry.build("generator", "xar", {"size": "tiny"})
    load_torch_model(other, sharded)  # the hub's own reader
    assert fingerprint(other) == fingerprint(loaded)


def test_several_files_of_another_library_s_writer_are_read(model, saved):
    from huggingface_hub import save_torch_state_dict

    (saved / "model.safetensors").unlink()
    save_torch_state_dict(model.state_dict(), saved, max_shard_size=20_000)
    assert "index.json is damaged, or not the one that config.json describes" in refused(saved)
    assert fingerprint(from_pretrained(edit(saved, sha256=""))[0]) == fingerprint(model)


def test_today_s_checkpoints_stay_one_file(model, saved, tmp_path):
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert read_card(saved).format == 1


@pytest.mark.parametrize("size", ["5 GB", "20KB", "0.5MB", 20_000])
def test_sizes_in_words_or_bytes(model, tmp_path, size):
    assert from_pretrained(save_pretrained(model, tmp_path / "x", max_shard_size=size))[1].name == "x"


@pytest.mark.parametrize("size", ["", "5", "GB", "-5GB", "0GB", "1e9GB", 0, -1, 1.5, True, None, "5GiB"])
def test_a_size_that_is_none_is_one_line(model, tmp_path, size):
    with pytest.raises(ValueError, match="max_shard_size: got .*, accepted: ") as error:
        save_pretrained(model, tmp_path / "x", max_shard_size=size)
    assert "\n" not in str(error.value) and not (tmp_path / "x").exists()


def test_saving_again_in_another_number_of_files_leaves_none_behind(model, sharded):
    before = fingerprint(from_pretrained(sharded)[0])
    (sharded / "model-notes.safetensors").write_bytes(b"theirs")
    for size in ("5GB", 20_000, 40_000, "5GB"):
        save_pretrained(model, sharded, max_shard_size=size)
        files = {path.name for path in sharded.glob("model*")} - {"model-notes.safetensors"}
        one = {"model.safetensors"}
        assert files == (one if size == "5GB" else {*index_of(sharded)["weight_map"].values(), *files} - one)
        assert files == one or files == {*index_of(sharded)["weight_map"].values(), "model.safetensors.index.json"}
        assert fingerprint(from_pretrained(sharded)[0]) == before
    assert (sharded / "model-notes.safetensors").exists()


@pytest.mark.parametrize("first, then", [("5GB", 20_000), (20_000, "5GB")])
def test_an_interrupted_change_of_files_leaves_the_old_ones(model, tmp_path, first, then, monkeypatch):
    """config.json, written last, says which of two sets of files is meant."""
    folder = save_pretrained(model, tmp_path / "x", max_shard_size=first)
    old, plain = fingerprint(from_pretrained(folder)[0]), os.replace
    with torch.no_grad():
        next(model.parameters()).add_(1)

    def replace(made, path):
        if Path(path).name == "config.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        plain(made, path)

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", replace)
        with pytest.raises(ValueError, match="what was there before is kept"):
            save_pretrained(model, folder, max_shard_size=then)
    assert fingerprint(from_pretrained(folder)[0]) == old
    save_pretrained(model, folder, max_shard_size=then)
    assert fingerprint(from_pretrained(folder)[0]) == fingerprint(model) != old


def test_any_damage_to_any_of_several_files_is_noticed(sharded):
    for path in sorted(sharded.glob("model*")):
        content = path.read_bytes()
        for damaged in (content[:-1], content[:20], b"", content[:-1] + bytes([content[-1] ^ 1]), content + b"x"):
            path.write_bytes(damaged)
            assert path.name in refused(sharded)
        path.unlink()
        assert f"no file {path.name.replace('.index.json', '')}" in refused(sharded)
        path.write_bytes(content)
    from_pretrained(sharded)


def test_truncated_files_are_one_line_without_a_hash_too(sharded):
    index = index_of(sharded)
    del index["metadata"]["sha256"]
    with_index(sharded, index, hashed=False)
    from_pretrained(sharded)
    path = sharded / index["weight_map"]["embed.bias"]
    for keep in (0, 4, 100, -10):
        content = path.read_bytes()
        path.write_bytes(content[:keep])
        assert "not a whole safetensors file" in refused(sharded)
        path.write_bytes(content)


def test_files_of_another_checkpoint_are_noticed(model, sharded, tmp_path):
    with torch.no_grad():
        next(model.parameters()).add_(1)
    other = save_pretrained(model, tmp_path / "other", max_shard_size=20_000)
    first = index_of(sharded)["weight_map"][next(model.named_parameters())[0]]
    shutil.copy(other / first, sharded / first)
    assert f"{first} is damaged, or not the one that model.safetensors.index.json describes" in refused(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "../other/model-00001-of-00002.safetensors",
        "/etc/passwd",
        "sub/model-00001-of-00002.safetensors",
        "model-00001-of-00002.safetensors\n",
        "model-١٢٣٤٥-of-00002.safetensors",
        "weights.safetensors",
        "pytorch_model.bin",
        "..",
        "",
        7,
        None,
        ["model-00001-of-00002.safetensors"],
    ],
)
@pytest.mark.parametrize("hashed", [True, False])
def test_a_file_that_is_not_of_this_folder_is_one_line(sharded, name, hashed):
    index = index_of(sharded)
    index["weight_map"]["embed.bias"] = name
    line = refused(with_index(sharded, index, hashed))
    assert "index.json: got the file" in line and "accepted: such as model-00001-of-00002.safetensors" in line


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize(
    "index, words",
    [
        ("", "not JSON"),
        ("[]", "an object is accepted"),
        ("[" * 100_000, "not JSON"),
        ('{"weight_map": {}, "weight_map": {}}', "given twice"),
        ({}, "got no weight_map"),
        ({"weight_map": []}, "got no weight_map"),
        ({"weight_map": {}}, "got no weight_map"),
        ({"metadata": {"sha256": 3}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}, "got no weight_map"),
        ({"weight_map": {"a": "model-00001-of-99999.safetensors"}}, "no file model-00001-of-99999.safetensors"),
    ],
)
def test_an_index_that_is_none_is_one_line(sharded, index, words, hashed):
    assert words in refused(with_index(sharded, index, hashed))


def test_an_index_that_does_not_say_what_its_files_hold_is_one_line(sharded):
    index = index_of(sharded)
    one, *_, other = index["weight_map"]
    for change in ({one: index["weight_map"][other]}, {"more": index["weight_map"][one]}):
        changed = {**index, "weight_map": {**index["weight_map"], **change}}
        assert "index.json differ in the weight" in refused(with_index(sharded, changed))
    some = {name: file for name, file in index["weight_map"].items() if file != index["weight_map"][one]}
    assert "lacks weights" in refused(with_index(sharded, {**index, "weight_map": some}))
    index["metadata"]["sha256"].pop(index["weight_map"][one])
    assert "no SHA-256 of model-0" in refused(with_index(sharded, index))


def test_an_index_without_end_is_not_read(sharded):
    with (sharded / "model.safetensors.index.json").open("wb") as file:
        file.truncate(1 << 33)
    began = time.process_time()
    assert "at most" in refused(sharded)
    assert time.process_time() - began < 2


def test_a_readme_names_no_folder_of_this_machine(saved):
    assert str(saved.parent) not in (saved / "README.md").read_text()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_everybody_may_read_what_everybody_may_read(tmp_path):
    """safetensors writes files that are their owner's alone; a shared folder's checkpoint would load for one person."""
    (tmp_path / "plain").touch()
    save_pretrained(registry.build("tokenizer", "kl_vae", {"size": "tiny"}), tmp_path / "saved")
    modes = {path.stat().st_mode for path in [tmp_path / "plain", *(tmp_path / "saved").iterdir()]}
    assert len(modes) == 1
