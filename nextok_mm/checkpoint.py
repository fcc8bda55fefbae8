"""Checkpoints: a folder of `config.json` (what the model is), `model.safetensors` (its weights) and `README.md`.

A checkpoint holds data only: a registered kind, that kind's config fields and tensors; never a class path, never a
pickle. Every file is written beside its final place, synced and renamed, so that a crash or a full disk in the middle
of a save leaves the old checkpoint as it was; config.json holds the weights' SHA-256, so that files of two checkpoints
never mix unnoticed.
"""

import hashlib
import json
import math
import os
import pickle
import re
import threading
import weakref
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import registry
from .config import Config, shown
from .files import sha256, write_files

FORMAT = 1
CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"
ZOO = Path(__file__).parent / "zoo"
MAX_CONFIG_BYTES = 1 << 20
_PICKLES = (".pth", ".pt", ".th", ".ckpt", ".bin")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Card(Config):
    """The content of a checkpoint's config.json.

    `role`, `kind` and `fields` are what `registry.build` takes; `reference` says how another checkpoint is named.
    """

    format: Literal[1] = Field(default=FORMAT, description="Version of this file's format.")
    role: Literal["tokenizer", "generator", "judge"] = Field(
        description="Role of the model: tokenizer, generator or judge."
    )
    kind: str = Field(min_length=1, max_length=100, description="Name of the model's kind in the registry.")
    name: str = Field("", max_length=200, description="Name of the checkpoint.")
    fields: dict[str, Any] = Field(default_factory=dict, description="The config of the model, field by field.")
    tokenizer: str | None = Field(
        default=None,
        description="The tokenizer that a generator speaks through: a folder that begins with . or is absolute, "
        "a zoo name, or a hub id.",
    )
    tokenizer_fingerprint: str = Field(
        "", max_length=100, description="Fingerprint of the tokenizer that the generator was trained with."
    )
    labels: tuple[str, ...] | None = Field(None, fail_fast=True, description="Names of the classes, by index.")
    license: str = Field(default="", description="License of the weights, such as apache-2.0.")
    about: dict[str, Any] = Field(
        default_factory=dict, description="Free data by name: training command, figures, summary."
    )
    sha256: str = Field(default="", description="SHA-256 of model.safetensors.")


def save_pretrained(
    model: Any, folder: str | Path, *, dtype: torch.dtype | None = None, without: Sequence[str] = (), **meta: Any
) -> Path:
    """Write a model's checkpoint; an older checkpoint in the folder is replaced at the very end.

    Args:
        model: A registered model.
        folder: The folder of the checkpoint.
        dtype: Number format in which floating-point weights are stored; None keeps theirs.
        without: Config fields that are stored as None, and whose modules' weights are left out (a model's
            `training_only`).
        meta: Fields of `Card`: name, tokenizer and its fingerprint, labels, license, about. A tokenizer on this machine
            needs no fingerprint, a hub id does.

    Returns:
        The folder.

    Raises:
        ValueError: A meta field is unknown, weights are not finite, or the disk can't take them.

    Example:
        >>> from nextok_mm import registry
        >>> from nextok_mm.checkpoint import from_pretrained, save_pretrained
        >>> model = registry.build("tokenizer", "kl_vae", {"size": "tiny"})
        >>> save_pretrained(model, "my-vae", license="mit").name
        'my-vae'
        >>> from_pretrained("my-vae")[1].license
        'mit'
    """
    folder = Path(folder)
    kept = {name: tensor for name, tensor in model.state_dict().items() if name.partition(".")[0] not in without}
    weights = {name: _stored(name, tensor, dtype) for name, tensor in kept.items()}
    if isinstance(meta.get("tokenizer"), str | Path):
        meta |= _referred(meta["tokenizer"], folder, meta.get("tokenizer_fingerprint") or "")
    card = Card.parse(
        {
            "name": folder.name,
            **meta,
            "role": model.role,
            "kind": model.kind,
            "fields": model.config.model_dump(mode="json") | dict.fromkeys(without),
        },
        where="checkpoint",
    )
    digests: list[str] = []

    def write_weights(path: Path) -> None:
        try:  # onto the disk as they are: a copy of them all in memory may not fit
            save_file(weights, path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(0, str(error)) from None
        digests.append(sha256(path))

    def write_config(path: Path) -> None:
        whole = card.model_copy(update={"sha256": digests[0]}).model_dump(mode="json")
        path.write_bytes(json.dumps(whole, indent=2, ensure_ascii=False).encode() + b"\n")

    readme = _readme(card, sum(tensor.numel() for tensor in weights.values())).encode()
    write_files(folder, {WEIGHTS: write_weights, README: readme, CONFIG: write_config})
    return folder


def reference(name: str | Path, folder: str | Path) -> str:
    """How a checkpoint in `folder` names another one, so that a folder can never be taken for a hub id.

    A folder on this machine: relative to `folder` where it lies in it or near it (`./vae`, `../../vae/final`), else
    absolute; they may be moved together. Zoo names and hub ids: as they are.
    """
    text, base = str(name), Path(os.path.realpath(folder))
    if _shipped(text):
        return text
    try:
        found = [path for path in (Path(text).expanduser(), _place(base, text)) if path.is_dir()]
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
    if _is_path(text):
        if not _is_folder(_place(folder, text)):
            raise ValueError(
                f"tokenizer: checkpoint {folder} names the folder {shown(text)}, which isn't there; {other}"
            )
        return _place(folder, text)
    if _shipped(text):
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


def _referred(name: str | Path, folder: Path, known: str) -> dict[str, str]:
    """`tokenizer` and `tokenizer_fingerprint` of a Card; the latter by reading one on this machine, if not known."""
    text = reference(name, folder)
    if not known and (_shipped(text) or _is_path(text)):
        known = fingerprint(
            from_pretrained(ZOO / text if _shipped(text) else _place(folder, text), role="tokenizer")[0]
        )
    return {"tokenizer": text, "tokenizer_fingerprint": known}


def _place(folder: Path, text: str) -> Path:
    """Where a path lies that a checkpoint in `folder` names, which need not be there yet."""
    return Path(os.path.realpath(folder / text))


def _is_path(text: str) -> bool:
    return text.startswith(("./", "../", "/")) or text in (".", "..") or Path(text).is_absolute()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have
        return False


def _shipped(text: str) -> bool:
    return Path(text).name == text and _is_folder(ZOO / text) and (ZOO / text / CONFIG).is_file()


@torch.inference_mode(False)  # or the weights could be neither trained nor written to elsewhere
def from_pretrained(name: str | Path, revision: str | None = None, role: str | None = None) -> tuple[Any, Card]:
    """Load a model and its card.

    Args:
        name: A zoo name, a checkpoint folder, or a hub id (owner/name).
        revision: Branch, tag or commit of a hub id.
        role: The role that the caller needs; another one is refused.

    Returns:
        The model, in eval mode, fp32 and on the CPU; and its `Card`.

    Raises:
        ValueError: Something is missing, truncated, damaged, or of another shape than config.json says.

    Example:
        >>> from nextok_mm.checkpoint import from_pretrained
        >>> model, card = from_pretrained("vae-fashion", role="tokenizer")
        >>> card.kind
        'kl_vae'
    """
    folder = resolve(name, revision)
    card = read_card(folder)
    if role is not None and card.role != role:
        raise ValueError(f"checkpoint {folder}: it holds a {card.role} ({card.kind}), a {role} is accepted here")
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"checkpoint {folder}: no file {WEIGHTS}")
    if card.sha256 and sha256(path) != card.sha256:
        raise ValueError(f"checkpoint {folder}: {WEIGHTS} is damaged, or not the one that {CONFIG} describes (SHA-256)")
    try:
        with _without_weights(_header(path)):
            model = registry.build(card.role, card.kind, card.fields)
    except (TypeError, RuntimeError, ArithmeticError, MemoryError, ValidationError) as error:
        # sizes that pass for numbers, not for torch
        raise ValueError(f"checkpoint {folder}: {CONFIG} describes no possible model ({_first_line(error)})") from None
    _fill(model, read_weights(path), f"checkpoint {folder}")
    return model.eval(), card


def resolve(name: str | Path, revision: str | None = None, beside: str | Path | None = None) -> Path:
    """The folder of a checkpoint: a zoo name first, then a folder (beside `beside` first, where given), then a hub id.

    revision: branch, tag or commit of a hub id. ValueError names what was looked for.
    """
    text = str(name)
    if not text or "\0" in text:
        raise ValueError(f"checkpoint: got {text!r}, accepted: {_accepted()}")
    if _shipped(text):
        return ZOO / text
    try:
        for folder in ([Path(beside) / text] if beside is not None else []) + [Path(text).expanduser()]:
            if folder.is_dir():
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


def read_card(folder: str | Path) -> Card:
    """The validated config.json of a checkpoint folder."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"checkpoint {folder}: no file {CONFIG}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"checkpoint {path}: {path.stat().st_size} bytes, at most {MAX_CONFIG_BYTES} accepted")
    try:
        data = json.loads(path.read_text(encoding="utf8"), object_pairs_hook=_once)
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"checkpoint {path}: not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"checkpoint {path}: an object is accepted, got {type(data).__name__}")
    if "format" not in data and data.keys() & _STRANGERS.keys():
        whose, hint = _STRANGERS[next(iter(data.keys() & _STRANGERS.keys()))]
        raise ValueError(f"checkpoint {folder}: it is {whose}, not one of nextok_mm; {hint}")
    if data.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path}: format {data.get('format')!r}, accepted: {FORMAT}")
    return Card.parse(data, where=f"checkpoint {path}: ")


_STRANGERS = {
    "_class_name": ("a diffusers folder", "nextok convert kl_vae SOURCE FOLDER makes one of an AutoencoderKL"),
    "architectures": ("a transformers folder", "nextok convert makes one of a published model that it knows"),
    "model_type": ("a transformers folder", "nextok convert makes one of a published model that it knows"),
}
"""A key of other libraries' config.json -> whose it is, and what to do."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a name is given twice in it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} is given twice")
    return found


def read_weights(path: str | Path) -> dict[str, Any]:
    """What a weights file holds: tensors by name for .safetensors, the saved object for published pickles.

    Pickles (.pth, .pt, .th, .ckpt, .bin) are read by torch's restricted reader: one that would run code is refused.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights: no file {str(path)!r}")
    if path.suffix not in (".safetensors", *_PICKLES):
        raise ValueError(f"weights {path}: got suffix {path.suffix!r}, accepted: .safetensors, {', '.join(_PICKLES)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([Namespace]):  # training scripts store their arguments beside the weights
            data = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"weights {path}: not a whole safetensors file ({error})") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"reading it would run code ({code[1]})" if code else "not a whole torch file"
        raise ValueError(f"weights {path}: refused, {reason}") from None
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError, OSError) as error:
        raise ValueError(f"weights {path}: not a whole torch file ({_first_line(error)})") from None
    if not isinstance(data, dict):
        raise ValueError(f"weights {path}: a mapping of names to tensors is accepted, got {type(data).__name__}")
    return data


_FINGERPRINTS: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]]" = weakref.WeakKeyDictionary()


def fingerprint(model: Any) -> str:
    """16 hexadecimal digits that change with the kind, the config or any weight: says who made some tokens.

    Settings of sampling don't count: they change nothing about the tokens. Remembered until a weight is written to,
    since it reads every weight.
    """
    weights = model.state_dict()
    fields = model.config.model_dump_json(exclude={"sampling"})
    state = (model.config, tuple((id(tensor), _version(tensor), tensor.dtype) for tensor in _tensors(model)))
    if model in _FINGERPRINTS and _FINGERPRINTS[model][0] == state:
        return _FINGERPRINTS[model][1]
    digest = hashlib.sha256(f"{model.role} {model.kind} {fields}".encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta:  # fake and meta tensors hold no numbers
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    _FINGERPRINTS[model] = state, digest.hexdigest()[:16]
    return _FINGERPRINTS[model][1]


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor if dtype is None else tensor.to(dtype)
        _check_float(tensor, f"checkpoint: weight {name!r}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"checkpoint: weight {name!r} is not finite (stored as {tensor.dtype})")
    return tensor.contiguous()


def _check_float(tensor: Tensor, where: str) -> None:
    if tensor.dtype not in _FLOATS:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in _FLOATS)
        raise ValueError(f"{where} is {str(tensor.dtype).removeprefix('torch.')}, accepted: {accepted}")


def _fill(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Give every weight its tensor, in the model's own precision; ValueError in one line where they don't fit."""
    expected = model.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has unknown", weights.keys() - expected.keys()),
    ):
        if names:
            raise ValueError(f"{where}: {WEIGHTS} {problem} weights, {len(names)} in all, such as {min(names)!r}")
    for name, tensor in weights.items():
        own = expected[name]
        if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
            found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, own))
            raise ValueError(f"{where}: weight {name!r} is {found}, accepted: {wanted}")
        if tensor.is_floating_point():
            _check_float(tensor, f"{where}: weight {name!r}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: weight {name!r} is not finite")
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}, assign=True)


def _header(path: Path) -> tuple[int, int]:
    """How many tensors a weights file holds, and how many numbers in all; reads no more than its header."""
    try:
        with safe_open(path, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"weights {path}: not a whole safetensors file ({_first_line(error)})") from None
    return len(shapes), sum(math.prod(shape) for shape in shapes)


class _Building(threading.local):
    """What this thread builds without weights: how many more parameters and numbers it may have. None: nothing."""

    left: list[int] | None = None


_BUILDING, _BUILD_LOCK = _Building(), threading.Lock()


@cache
def _hook() -> None:
    """Put parameters of models that `_without_weights` builds onto the meta device.

    Registered once and for all: torch walks its dict of hooks in every thread that builds a module, so that putting
    one there and taking it away again ends other threads' loops.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def onto_meta(module: nn.Module, name: str, parameter: Any) -> Any:
        left = _BUILDING.left
        if left is None or parameter is None:
            return None
        left[0], left[1] = left[0] - 1, left[1] - parameter.numel()
        if min(left) < 0:
            raise ValueError(f"{CONFIG} describes a model larger than what {WEIGHTS} holds, at weight {name!r}")
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    register_module_parameter_registration_hook(onto_meta)


@contextmanager
def _without_weights(held: tuple[int, int]) -> Iterator[None]:
    """Parameters of models built inside live on the meta device: their initial values would be thrown away unseen.

    held: tensors and numbers of the weights file. ValueError as soon as far more are built (a parameter may be
    registered twice; which shape doesn't fit is better said by `_fill`). One thread at a time, since building draws
    from the global generator.
    """
    with _BUILD_LOCK:
        _hook()
        _BUILDING.left = [2 * held[0] + 64, 64 * held[1] + (1 << 24)]
        try:
            with torch.random.fork_rng(devices=[]), _NoDraws():
                yield
        finally:
            _BUILDING.left = None


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = [CONFIG, WEIGHTS, README, f"*/{CONFIG}", f"*/{WEIGHTS}"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"checkpoint {name!r}: not a folder, and not on the hub ({_first_line(error)})") from None


def _accepted() -> str:
    zoo = sorted(path.parent.name for path in ZOO.glob(f"*/{CONFIG}"))
    return ", ".join(["a folder", "a hub id (owner/name)", *zoo])


def _first_line(error: BaseException) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _readme(card: Card, numbers: int) -> str:
    """The card that people read: what it is, how to load it."""
    lines = [f"# {card.name or card.kind}", "", f"A {card.role} of kind `{card.kind}`, {numbers:,} numbers."]
    lines += [f"Tokenizer: `{card.tokenizer}`."] if card.tokenizer else []
    lines += [f"Classes: {', '.join(card.labels)}."] if card.labels else []
    lines += [f"License: {card.license}."] if card.license else []
    lines += ["", "```python", "from nextok_mm.checkpoint import from_pretrained"]
    lines += ['model, card = from_pretrained("this/folder")', "```"]
    lines += ["", *(f"- {key}: {value}" for key, value in card.about.items())] if card.about else []
    return "\n".join(lines) + "\n"


class _NoDraws(TorchFunctionMode):
    """Leaves out random initial values on the meta device, where they are nothing but torch importing its compiler.

    That import takes as long as torch's own.
    """

    DRAWS = ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, or the tensor as it is."""
        if getattr(func, "__name__", "") in self.DRAWS:
            tensor = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))
