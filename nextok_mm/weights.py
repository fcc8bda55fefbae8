"""Weights on the disk: one safetensors file, or several and an index, in the form that the hub's libraries use.

The index holds the SHA-256 of each file, and config.json that of the index (or of the one file), so that a checkpoint
can't be mixed from two. However many files there are, only one tensor at a time is held beside the model's own.
"""

import json
import math
import pickle
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .card import CONFIG, read_object
from .config import shown
from .files import sha256

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
PARTS = (WEIGHTS, INDEX, "model-*-of-*.safetensors")
"""Patterns of the files that hold weights."""
MAX_SHARD_SIZE = "5GB"
MAX_INDEX_BYTES = 1 << 25
MAX_OPEN_BYTES = 1 << 26
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""In which a model can be used."""
_PICKLES = (".pth", ".pt", ".th", ".ckpt", ".bin")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def contents(
    weights: Mapping[str, Tensor], dtype: torch.dtype | None, max_shard_size: int | str
) -> tuple[dict[str, Callable[[Path], None]], dict[str, str]]:
    """What writes each weights file, by its name, the index last; and their SHA-256, which come with the writing.

    dtype: how floating weights are stored (None: as they are). ValueError for weights that can't be stored.
    """
    for name, tensor in weights.items():
        _check_stored(name, tensor, dtype)
    files, digests = _plan(weights, dtype, max_shard_size), {}

    def writer(file: str) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            part = {name: _stored(weights[name], dtype) for name in files[file]}
            try:  # onto the disk as they are: a copy of them all in memory may not fit
                save_file(part, path, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(0, str(error)) from None
            digests[file] = sha256(path)

        return write

    def write_index(path: Path) -> None:
        total = sum(tensor.numel() * _stored_as(tensor, dtype).itemsize for tensor in weights.values())
        places = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": total, "sha256": dict(digests)}, "weight_map": places}
        path.write_bytes(json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n")
        digests[INDEX] = sha256(path)

    writers = {file: writer(file) for file in files}
    return writers | ({} if WEIGHTS in files else {INDEX: write_index}), digests


def _plan(weights: Mapping[str, Tensor], dtype: torch.dtype | None, max_shard_size: int | str) -> dict[str, list[str]]:
    """The names of the weights that each file takes."""
    most = _bytes(max_shard_size)
    if sum(tensor.numel() * _stored_as(tensor, dtype).itemsize for tensor in weights.values()) <= most:
        return {WEIGHTS: list(weights)}
    from huggingface_hub import split_torch_state_dict_into_shards

    sizes = {name: torch.empty(t.shape, dtype=_stored_as(t, dtype), device="meta") for name, t in weights.items()}
    return dict(split_torch_state_dict_into_shards(sizes, max_shard_size=most).filename_to_tensors)


def _bytes(size: int | str) -> int:
    """`5GB` as a number; ValueError for what is no size."""
    found = (
        re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMGT]B)", size.strip().upper())
        if isinstance(size, str)
        else None
    )
    if found:
        size = int(float(found[1]) * 1000 ** (1 + "KMGT".index(found[2][0])))
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"max_shard_size: got {shown(size)}, accepted: a number of bytes, or such as '500MB' or '5GB'")
    return size


def _stored_as(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to("cpu", _stored_as(tensor, dtype)).contiguous()


def _check_stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
    if tensor.is_floating_point():
        kind = _stored_as(tensor, dtype)
        _check_float(kind, f"checkpoint: weight {name!r}")
        if not _finite(tensor, kind):
            raise ValueError(f"checkpoint: weight {name!r} is not finite (stored as {kind})")


def _finite(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether every number is one, stored as `dtype`: its extremes are enough, and need no copy of it all."""
    return not tensor.numel() or bool(torch.stack(tensor.detach().aminmax()).to(dtype).isfinite().all())


def _check_float(dtype: torch.dtype, where: str) -> None:
    if dtype not in _FLOATS:
        accepted = ", ".join(str(known).removeprefix("torch.") for known in _FLOATS)
        raise ValueError(f"{where} is {str(dtype).removeprefix('torch.')}, accepted: {accepted}")


def stale(folder: Path, written: Mapping[str, Any]) -> list[Path]:
    """Weights files of an older checkpoint in a folder, which `written` has not replaced."""
    found = [folder / WEIGHTS, folder / INDEX, *(path for path in folder.iterdir() if SHARD.fullmatch(path.name))]
    return [path for path in found if path.name not in written and path.is_file()]


def found(folder: Path, digest: str) -> list[Path]:
    """The weights files of a checkpoint, each one compared with its SHA-256, where `digest` is that of config.json.

    ValueError in one line where one is missing, damaged, or not this checkpoint's. Where a crash has left two sets of
    them, `digest` says which one is meant.
    """
    index, whole = folder / INDEX, folder / WEIGHTS
    if index.is_file() and not (whole.is_file() and _differs(index, digest)):
        return _shards(index, digest)
    if not whole.is_file():
        raise ValueError(f"checkpoint {folder}: no file {WEIGHTS}")
    _compare(whole, digest, CONFIG)
    return [whole]


def one(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a weights file of another name, compared with its SHA-256; ValueError in one line where it is
    missing, damaged, or holds what is no floating-point number."""
    if not path.is_file():
        raise ValueError(f"checkpoint {path.parent}: no file {path.name}")
    _compare(path, digest, CONFIG)
    tensors = dict(_tensors(path))
    for name, tensor in tensors.items():
        _check_float(tensor.dtype, f"checkpoint {path}: weight {name!r}")
    return tensors


def _differs(index: Path, digest: str) -> bool:
    """Whether an index isn't the one that config.json names, or it names none."""
    return index.stat().st_size > MAX_INDEX_BYTES or sha256(index) != digest


def _compare(path: Path, digest: str, source: str) -> None:
    if digest and sha256(path) != digest:
        where = f"checkpoint {path.parent}"
        raise ValueError(f"{where}: {path.name} is damaged, or not the one that {source} describes (SHA-256)")


def _shards(index: Path, digest: str) -> list[Path]:
    """The files that an index names; nothing but files of this folder, by their usual names."""
    where, folder = f"checkpoint {index}", index.parent
    data = read_object(index, MAX_INDEX_BYTES)
    _compare(index, digest, CONFIG)
    places, about = data.get("weight_map"), data.get("metadata")
    digests = about.get("sha256", {}) if isinstance(about, dict) else {}
    if not isinstance(places, dict) or not places or not isinstance(digests, dict):
        raise ValueError(f"{where}: got no weight_map, accepted: file names by the names of weights")
    by_file: dict[str, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise ValueError(f"{where}: got the file {shown(file)}, accepted: such as model-00001-of-00002.safetensors")
        by_file.setdefault(file, set()).add(name)
    for file, names in sorted(by_file.items()):
        if not (folder / file).is_file():
            raise ValueError(f"checkpoint {folder}: no file {file}, which {INDEX} names")
        if digest and not isinstance(digests.get(file), str):
            raise ValueError(f"{where}: no SHA-256 of {file}")
        _compare(folder / file, digests[file] if digest else "", INDEX)
        with _opened(folder / file) as tensors:
            if other := names.symmetric_difference(tensors.keys()):
                raise ValueError(f"checkpoint {folder}: {file} and {INDEX} differ in the weight {min(other)!r}")
    return [folder / file for file in sorted(by_file)]


def _opened(path: Path) -> Any:
    """A safetensors file, whose tensors are read one by one; ValueError where its header is none."""
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights {path}: not a whole safetensors file ({first_line(error)})") from None


def held(paths: Sequence[Path]) -> tuple[int, int]:
    """How many tensors weights files hold, and how many numbers in all; reads no more than their headers."""
    sizes: list[int] = []
    for path in paths:
        with _opened(path) as file:
            try:
                sizes += [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]
            except (SafetensorError, KeyError) as error:
                raise ValueError(f"weights {path}: not a whole safetensors file ({first_line(error)})") from None
    return len(sizes), sum(sizes)


def fill(model: nn.Module, paths: Sequence[Path], where: str, dtype: torch.dtype | None = None) -> None:
    """Give every weight its tensor, in `dtype` or the model's own precision; ValueError where they don't fit."""
    expected, given = model.state_dict(), dict[str, Tensor]()
    names: set[str] = set()
    for path in paths:
        with _opened(path) as file:
            names.update(file.keys())
    for problem, some in (("lacks", expected.keys() - names), ("has unknown", names - expected.keys())):
        if some:
            raise ValueError(f"{where}: {WEIGHTS} {problem} weights, {len(some)} in all, such as {min(some)!r}")
    for path in paths:
        for name, tensor in _tensors(path):
            own = expected[name]
            _check_fits(name, tensor, own, where)
            given[name] = tensor.to(_stored_as(own, dtype))
    model.load_state_dict(given, assign=True)
    if dtype is not None:
        model.to(dtype)  # buffers that no file holds


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """What a weights file holds, one tensor at a time.

    The file is opened anew now and then: what has been read, and then converted, stays in memory as long as it is open.
    """
    with _opened(path) as file:
        names = list(file.keys())
    while names:
        read = 0
        with _opened(path) as file:
            while names and read < MAX_OPEN_BYTES:
                name = names.pop(0)
                try:
                    tensor = file.get_tensor(name)
                except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"weights {path}: not a whole safetensors file ({first_line(error)})") from None
                read += tensor.nbytes
                yield name, tensor
            del tensor


def _check_fits(name: str, tensor: Tensor, own: Tensor, where: str) -> None:
    if tensor.shape != own.shape or _number(tensor) != _number(own):
        got, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, own))
        raise ValueError(f"{where}: weight {name!r} is {got}, accepted: {wanted}")
    if tensor.is_floating_point():
        _check_float(tensor.dtype, f"{where}: weight {name!r}")
        if not _finite(tensor, tensor.dtype):
            raise ValueError(f"{where}: weight {name!r} is not finite")


def _number(tensor: Tensor) -> tuple[bool, bool]:
    """What kind of number it holds."""
    return tensor.is_floating_point(), tensor.is_complex()


def usable(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A type to use a model in, by name or as torch's; ValueError for another one."""
    kind = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if (kind is not None and kind not in DTYPES.values()) or (kind is None and dtype is not None):
        raise ValueError(f"dtype: got {shown(dtype)}, accepted: {', '.join(DTYPES)}")
    return kind


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
        raise ValueError(f"weights {path}: not a whole torch file ({first_line(error)})") from None
    if not isinstance(data, dict):
        raise ValueError(f"weights {path}: a mapping of names to tensors is accepted, got {type(data).__name__}")
    return data


def first_line(error: BaseException) -> str:
    """The first line of another library's message, which may have many."""
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
