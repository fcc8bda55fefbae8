"""How a checkpoint is found by name, and how one checkpoint names another: zoo names, folders, hub ids."""

import os
from pathlib import Path

from .card import CONFIG, README, Card
from .config import shown
from .weights import PARTS, first_line

ZOO = Path(__file__).parent / "zoo"
WORDS = (
    "tokenizer.json",
    "tokenizer.model",
    "bytes.json",
    "phonemes.json",
    "chat_template.jinja",
    "tokenizer_config.json",
)
"""What belongs to a text tokenizer in a checkpoint's folder."""
ENDS = "generation_config.json"
"""Where published language models say how a text ends."""
GGUF = ".gguf"
UPDATES = ("adapter_config.json", "adapter_model.safetensors")
"""Files of low-rank updates (lora.py), by peft's names."""


def resolve(name: str | Path, revision: str | None = None, beside: str | Path | None = None) -> Path:
    """The folder of a checkpoint: a zoo name first, then a folder (beside `beside` first, where given), then a hub id.

    revision: branch, tag or commit of a hub id. ValueError names what was looked for.
    """
    text = str(name)
    if not text or "\0" in text:
        raise ValueError(f"checkpoint: got {text!r}, accepted: {_accepted()}")
    if shipped(text):
        return ZOO / text
    try:
        for folder in ([Path(beside) / text] if beside is not None else []) + [Path(text).expanduser()]:
            if folder.is_dir():
                return folder
            if folder.is_file() and folder.suffix == GGUF:
                return folder
            if folder.is_file():
                raise ValueError(f"checkpoint: {str(folder)!r} is a file, accepted: {_accepted()}")
    except (OSError, RuntimeError) as error:  # a name that no file can have, a home that nobody has
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"checkpoint: got {shown(text)} ({reason}), accepted: {_accepted()}") from None
    owner, slash, repository = text.partition("/")
    plain = all(part and part not in (".", "..", "~") and "/" not in part for part in (owner, repository))
    if not slash or not plain:
        raise ValueError(f"checkpoint: no {text!r}; accepted: {_accepted()}")
    return _download(text, revision)


def reference(name: str | Path, folder: str | Path) -> str:
    """How a checkpoint in `folder` names another one, so that a folder can never be taken for a hub id.

    A folder on this machine: relative to `folder` where it lies in it or near it (`./vae`, `../../vae/final`), else
    absolute; they may be moved together. Zoo names and hub ids: as they are.
    """
    text, base = str(name), Path(os.path.realpath(folder))
    if shipped(text):
        return text
    try:
        found = [path for path in (Path(text).expanduser(), place(base, text)) if path.is_dir()]
    except (OSError, RuntimeError):
        found = []
    if not found:
        return text
    target = Path(os.path.realpath(found[0]))
    try:
        common = Path(os.path.commonpath([target, base]))
    except ValueError:  # on another drive
        return str(target)
    up = len(base.relative_to(common).parts)
    if up > 3 or (up and common == Path(common.anchor)):
        return str(target)
    return "/".join([*([".."] * up or ["."]), *target.relative_to(common).parts])


def tokenizer_folder(card: Card, folder: str | Path) -> Path | None:
    """Where the tokenizer lies that a checkpoint in `folder` names; None where it names none. See `reference`.

    Cards of before `tokenizer_fingerprint` hold the name as it was typed: `a/b` is then a folder beside the checkpoint
    or here; it is not asked for on the hub, where it belongs to somebody else. ValueError where it isn't found.
    """
    text, folder = card.tokenizer, Path(folder)
    if not text:
        return None
    other = "another one is given by tokenizer=... (--tokenizer)"
    if is_path(text):
        if not _is_folder(place(folder, text)):
            raise ValueError(
                f"tokenizer: checkpoint {folder} names the folder {shown(text)}, which isn't there; {other}"
            )
        return place(folder, text)
    if shipped(text):
        return ZOO / text
    if _is_folder(folder / text):
        return folder / text
    if not card.tokenizer_fingerprint:
        if _is_folder(Path(text)):
            return Path(text)
        if "/" in text:
            raise ValueError(
                f"tokenizer: checkpoint {folder} names {shown(text)}, which is no folder beside it or here, and may be "
                f"no hub id; {other}"
            )
    elif "/" in text:
        return _download(text, None)
    raise ValueError(f"tokenizer: checkpoint {folder} names {shown(text)}, which isn't there; {other}")


def base_folder(card: Card, folder: str | Path) -> Path:
    """Where the base lies whose low-rank update a checkpoint in `folder` holds; ValueError where it isn't found."""
    text, folder = card.base or "", Path(folder)
    if not is_path(text) and (shipped(text) or "/" in text):
        return ZOO / text if shipped(text) else _download(text, None)
    if not text or not _is_folder(place(folder, text)):
        raise ValueError(f"base: checkpoint {folder} stands on {shown(text)}, which isn't there")
    return place(folder, text)


def place(folder: Path, text: str) -> Path:
    """Where a path lies that a checkpoint in `folder` names, which need not be there yet."""
    return Path(os.path.realpath(folder / text))


def is_path(text: str) -> bool:
    """Whether a checkpoint names another one by its folder, as `reference` writes it."""
    return text.startswith(("./", "../", "/")) or text in (".", "..") or Path(text).is_absolute()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have
        return False


def shipped(text: str) -> bool:
    """Whether it is the name of a checkpoint that ships with the package."""
    return Path(text).name == text and _is_folder(ZOO / text) and (ZOO / text / CONFIG).is_file()


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = [CONFIG, README, *PARTS, *UPDATES, *WORDS, ENDS]
        inside = [f"*/{name}" for name in (CONFIG, *PARTS)]  # of the tokenizer that a pipeline's folder holds
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted + inside))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"checkpoint {name!r}: not a folder, and not on the hub ({first_line(error)})") from None


def _accepted() -> str:
    zoo = sorted(path.parent.name for path in ZOO.glob(f"*/{CONFIG}"))
    return ", ".join(["a folder", "a hub id (owner/name)", *zoo])
