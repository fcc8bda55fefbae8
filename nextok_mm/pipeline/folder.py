"""A pipeline as one folder: the generator's checkpoint, and in `tokenizer/` that of its tokenizer.

The folder loads wherever it is moved, zipped or uploaded to. It is written beside its place and changes places with
what was there in one step of the system, where it has one (Linux): whoever looks sees the old one or the new one.
"""

import ctypes
import os
import secrets
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ..checkpoint import CONFIG, INDEX, README, WEIGHTS, Card, fingerprint, read_card, save_pretrained
from ..files import sync, write_files
from ..references import WORDS
from ..weights import MAX_SHARD_SIZE, SHARD, first_line, usable

if TYPE_CHECKING:
    from .core import Pipeline

INSIDE = "tokenizer"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux


def precision(card: Card, dtype: torch.dtype | str | None) -> torch.dtype | None:
    """In which type a generator is used or stored; ValueError for what doesn't work, and for a tokenizer in another
    one than float32: it would make other tokens than those that carry its name."""
    kind = usable(dtype)
    if card.role == "tokenizer" and kind not in (None, torch.float32):
        raise ValueError(f"dtype: got {dtype}, accepted: float32, {card.name} is a tokenizer; a generator has a choice")
    return kind


def save(
    pipeline: "Pipeline",
    folder: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    address: str | None = None,
) -> Path:
    """Write a pipeline's folder and return it; an older checkpoint there is replaced as a whole, at the very end.

    dtype: how a generator's weights are stored (None: as they are), never its tokenizer's; max_shard_size, address: see
    `checkpoint.save_pretrained`. ValueError where the folder holds anything but a checkpoint, or can't be written.
    """
    kind, target = precision(pipeline.card, dtype), Path(os.path.realpath(Path(folder).expanduser()))
    made = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        if other := foreign(target):
            raise ValueError(f"folder: {str(folder)!r} holds {other}, accepted: an empty folder, or a checkpoint's")
        if Path.cwd().is_relative_to(target):
            raise ValueError(f"folder: got {str(folder)!r}, in which this process works, accepted: another one")
        made.mkdir(parents=True)
        _write(pipeline, made, kind, max_shard_size, address or f"path/to/{target.name}")
        old = _put(made, target)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot write {folder}: {reason}; what was there before is kept") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return Path(folder)


def _write(pipeline: "Pipeline", made: Path, dtype: torch.dtype | None, most: int | str, address: str) -> None:
    """Both checkpoints into a new folder."""
    tokenizer, generator, card = pipeline.tokenizer, pipeline.generator, pipeline.card
    about = {"name", "labels", "license", "about"}
    meta: dict[str, Any] = {"max_shard_size": most, "address": address, **card.model_dump(include=about)}
    if generator is None:
        save_pretrained(tokenizer, made, **meta)
        return
    if tokenizer is not None:
        own = pipeline.tokenizer_card
        named: dict[str, Any] = own.model_dump(include=about) if own is not None else {"name": f"{card.name}-{INSIDE}"}
        where = f"{address}/{INSIDE}" if address.startswith("path/to/") else address
        save_pretrained(tokenizer, made / INSIDE, max_shard_size=most, address=where, **named)
        meta["tokenizer"] = made / INSIDE
        plain = all(
            not each.is_floating_point() or each.dtype == torch.float32 for each in tokenizer.state_dict().values()
        )
        meta |= {"tokenizer_fingerprint": fingerprint(tokenizer)} if plain else {}  # else it is read, as `load` will
    elif pipeline.words is not None:
        meta["tokenizer_fingerprint"] = fingerprint(pipeline.words)
    save_pretrained(generator, made, dtype=dtype, **meta)
    if pipeline.words is not None:
        write_files(made, pipeline.words.files())


def foreign(folder: Path) -> str | None:
    """What in a folder is no part of a checkpoint; None where nothing is, or the folder isn't there."""
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        return "no folder but a file"
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return None
    try:
        card = read_card(folder)
    except ValueError:
        return f"{names[0]!r}, and no checkpoint"
    inside = (card.tokenizer or "").removeprefix("./")
    for name in names:
        path = folder / name
        if path.is_dir() and name in (INSIDE, inside):
            if (other := foreign(path)) is not None:
                return other
        elif path.is_dir() or not (name in (CONFIG, README, WEIGHTS, INDEX, *WORDS) or SHARD.fullmatch(name)):
            return f"{name!r}, which is no part of a checkpoint"
    return None


def _put(made: Path, target: Path) -> Path | None:
    """Give a finished folder its place; returns the older one's, where it isn't that of `made`."""
    old = None
    if not target.exists():
        os.rename(made, target)
    elif not _exchange(made, target):
        old = made.with_suffix(".old")
        os.rename(target, old)
        try:
            os.rename(made, target)
        except BaseException:
            os.rename(old, target)
            raise
    with suppress(OSError):
        sync(target.parent)
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Two folders change places in one step; False where the system or the disk can't."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
    return False


def push(
    pipeline: "Pipeline",
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> str:
    """Upload a pipeline's folder to a model repository of the hub, which is made if need be; returns the commit's URL.

    private: of a new repository; revision: a branch, made if need be; token: else the one of `hf auth login`.
    Weights that an older commit had, and this one hasn't, are deleted from it. ValueError in one line where the hub
    refuses, or can't be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    precision(pipeline.card, dtype)
    owner, _, name = repo_id.partition("/") if isinstance(cast(Any, repo_id), str) else ("", "", "")
    if not (owner and name) or "/" in name:
        raise ValueError(f"repo_id: got {repo_id!r}, accepted: owner/name of a hub")
    failures: tuple[Any, ...] = (
        *HfHubHTTPError.__bases__,
        HFValidationError,
        OSError,
    )  # those of requests or httpx too
    api = HfApi(token=token)
    parts = [WEIGHTS, INDEX, "model-?????-of-?????.safetensors"]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            made = save(pipeline, Path(place) / name, dtype=dtype, max_shard_size=max_shard_size, address=repo_id)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=made,
                revision=revision,
                commit_message=commit_message or f"Upload {pipeline.card.name} with nextok_mm",
                delete_patterns=[*parts, *(f"{INSIDE}/{part}" for part in parts)],
            )
    except failures as error:
        raise ValueError(f"push_to_hub: {repo_id} was not uploaded ({first_line(error)})") from None
    return str(commit.commit_url)
