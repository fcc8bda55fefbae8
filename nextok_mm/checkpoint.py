"""Checkpoints: a folder of `config.json` (what the model is), `model.safetensors` (its weights) and `README.md`.

A checkpoint holds data only: a registered kind, that kind's config fields and tensors; never a class path, never a
pickle. Every file is written beside its final place, synced and renamed, so that a crash or a full disk in the middle
of a save leaves the old checkpoint as it was; config.json holds the weights' SHA-256, so that files of two checkpoints
never mix unnoticed.
"""

import hashlib
import json
import pickle
import re
import weakref
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from . import registry
from .config import Config
from .files import sha256, write_files

FORMAT = 1
CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"
ZOO = Path(__file__).parent / "zoo"
MAX_CONFIG_BYTES = 1 << 20
_PICKLES = (".pth", ".pt", ".th", ".ckpt", ".bin")


class Card(Config):
    """The content of a checkpoint's config.json.

    role, kind, fields: what `registry.build` takes; tokenizer: the checkpoint (zoo name, hub id or a folder relative to
    this one) that a generator speaks through; labels: class names by index; about: free data (training command,
    figures); sha256: of model.safetensors.
    """

    format: Literal[1] = FORMAT
    role: Literal["tokenizer", "generator", "judge"]
    kind: str = Field(min_length=1, max_length=100)
    name: str = Field("", max_length=200)
    fields: dict[str, Any] = Field(default_factory=dict)
    tokenizer: str | None = None
    labels: tuple[str, ...] | None = None
    license: str = ""
    about: dict[str, Any] = Field(default_factory=dict)
    sha256: str = ""


def save_pretrained(
    model: Any, folder: str | Path, *, dtype: torch.dtype | None = None, without: Sequence[str] = (), **meta: Any
) -> Path:
    """Write a model's checkpoint and return its folder; an older checkpoint there is replaced at the very end.

    dtype: how floating weights are stored (None: as they are); without: config fields stored as None, the weights of
    the modules of that name left out (a model's `training_only`); meta: fields of `Card` (name, tokenizer, labels,
    license, about). ValueError for an unknown meta field, weights that aren't finite, or a disk that can't take it.
    """
    folder = Path(folder)
    kept = {name: tensor for name, tensor in model.state_dict().items() if name.partition(".")[0] not in without}
    weights = {name: _stored(name, tensor, dtype) for name, tensor in kept.items()}
    payload = save(weights, metadata={"format": "pt"})
    card = Card.parse(
        {
            "name": folder.name,
            **meta,
            "role": model.role,
            "kind": model.kind,
            "fields": model.config.model_dump(mode="json") | dict.fromkeys(without),
            "sha256": hashlib.sha256(payload).hexdigest(),
        },
        where="checkpoint",
    )
    config = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"
    readme = _readme(card, sum(tensor.numel() for tensor in weights.values())).encode()
    write_files(folder, {WEIGHTS: payload, README: readme, CONFIG: config})
    return folder


@torch.inference_mode(False)  # or the weights could be neither trained nor written to elsewhere
def from_pretrained(name: str | Path, revision: str | None = None, role: str | None = None) -> tuple[Any, Card]:
    """The model (eval mode, fp32, on the CPU) and its Card, from a folder, a zoo name or a hub id.

    role: what the caller needs; another one is refused. ValueError in one line for anything missing, truncated,
    damaged or of another shape than config.json says.
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
    weights = read_weights(path)
    try:
        with _without_weights():
            model = registry.build(card.role, card.kind, card.fields)
    except (
        TypeError,
        RuntimeError,
        ArithmeticError,
        MemoryError,
    ) as error:  # sizes that pass for numbers, not for torch
        raise ValueError(f"checkpoint {folder}: {CONFIG} describes no possible model ({_first_line(error)})") from None
    _fill(model, weights, f"checkpoint {folder}")
    return model.eval(), card


def resolve(name: str | Path, revision: str | None = None, beside: str | Path | None = None) -> Path:
    """The folder of a checkpoint: a zoo name first, then a folder (beside `beside` first, where given), then a hub id.

    revision: branch, tag or commit of a hub id. ValueError names what was looked for.
    """
    text = str(name)
    if not text or "\0" in text:
        raise ValueError(f"checkpoint: got {text!r}, accepted: {_accepted()}")
    if Path(text).name == text and (ZOO / text / CONFIG).is_file():
        return ZOO / text
    for folder in ([Path(beside) / text] if beside is not None else []) + [Path(text).expanduser()]:
        if folder.is_dir():
            return folder
        if folder.is_file():
            raise ValueError(f"checkpoint: {str(folder)!r} is a file, accepted: {_accepted()}")
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
        data = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"checkpoint {path}: not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"checkpoint {path}: an object is accepted, got {type(data).__name__}")
    if data.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path}: format {data.get('format')!r}, accepted: {FORMAT}")
    return Card.parse(data, where=f"checkpoint {path}: ")


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
        if not torch.isfinite(tensor).all():
            raise ValueError(f"checkpoint: weight {name!r} is not finite (stored as {tensor.dtype})")
    return tensor.contiguous()


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
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: weight {name!r} is not finite")
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}, assign=True)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Parameters of models built inside live on the meta device: their initial values would be thrown away unseen."""
    from threading import get_ident

    from torch.nn.modules.module import register_module_parameter_registration_hook

    thread = get_ident()

    def onto_meta(module: nn.Module, name: str, parameter: Any) -> Any:
        if get_ident() != thread or parameter is None:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(onto_meta)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        hook.remove()


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
