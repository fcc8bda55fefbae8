"""LoRA: a model is fine-tuned by low-rank updates of some of its layers, and those alone are trained and saved.

The layers are peft's, put on by peft, so nothing of the method is written here twice. What is ours: the matrices that
lie joined in one layer (queries, keys and values; the gate and the input of an MLP) are taken apart where an update of
a part is asked for; and an update that is loaded is added to its base at once, which needs no peft and costs nothing
when the model is used.

A folder of one holds `adapter_model.safetensors` and `adapter_config.json` in peft's form, under the names that the
family's published files have where it has some: peft puts it on transformers' own model as well. config.json is the
card, which names the base and its fingerprint.

Shapes: y = W x + alpha / rank * B A x, with A [rank, in] and B [out, rank]; of a convolution A has the kernel's sides.
Source: LoRA (arXiv 2106.09685), section 4.1.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from . import weights
from .card import CONFIG, README, Card, read_object, readme
from .config import Config, shown
from .files import write_files
from .references import UPDATES, reference

SETTINGS, WEIGHTS = UPDATES
MAX_SETTINGS_BYTES = 1 << 20
_PREFIX = "base_model.model."  # before every name in peft's files
_PLAIN = {"bias": ("none",), "task_type": None, "inference_mode": None, "base_model_name_or_path": None}
_READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", *_PLAIN}
_ONE_FILE = "1000TB"
_BORROWED = {f"{name}_proj": name for name in ("q", "k", "v", "gate", "up")} | {
    "o_proj": "attention.out",
    "down_proj": "mlp.out",
    "lm_head": "head",
}
"""What transformers calls a layer, and we."""
_SHOWN = 16  # names of layers, in a message


class Lora(Config):
    """A fine-tuning by low-rank updates, on a model that stays as it is."""

    rank: int = Field(default=8, ge=1, le=1 << 12, description="Rank of the update of a layer's matrix.")
    alpha: float = Field(
        default=16.0, gt=0, le=1e6, description="The update is multiplied by alpha / rank, whatever the rank is."
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Probability with which dropout zeroes an input of an update in training."
    )
    targets: tuple[str, ...] = Field(
        default=("q", "v"),
        min_length=1,
        description="Layers that get an update, each by its name or the end of it: q, k, v or all of qkv, "
        "attention.out, gate, up or both as gate_up, mlp.out.",
    )


class Place(NamedTuple):
    """Where an update goes: into which layer, and into which rows of its matrix (None: all)."""

    layer: str
    rows: slice | None


class Parts(nn.Module):
    """A linear layer taken apart: the rows of its matrix as layers of their own, whose outputs lie side by side."""

    def __init__(self, layer: nn.Linear, sizes: Mapping[str, int]):
        super().__init__()
        biases = [None] * len(sizes) if layer.bias is None else layer.bias.detach().split(list(sizes.values()))
        for name, rows, bias in zip(sizes, layer.weight.detach().split(list(sizes.values())), biases):
            part = nn.Linear(layer.in_features, len(rows), bias is not None, device="meta")
            part.weight = nn.Parameter(rows.clone())
            if bias is not None:
                part.bias = nn.Parameter(bias.clone())
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return torch.cat([part(x) for part in self.children()], dim=-1)


def places(model: nn.Module) -> dict[str, Place]:
    """Every layer, and every part of one, that an update can go into, by name; none that the model itself froze."""
    found: dict[str, Place] = {}
    for name, module in model.named_modules():
        if _able(module) and module.weight.requires_grad:
            found[name] = Place(name, None)
    for name, module in model.named_modules():
        for joined, sizes in _parts(module):
            layer, first = f"{name}.{joined}", 0
            for part, size in sizes.items() if layer in found else ():
                found[f"{layer}.{part}"] = Place(layer, slice(first, first + size))
                first += size
    return found


def _able(module: Any) -> bool:
    """Whether peft knows how to update a layer: one of torch's own, of the plain form."""
    if type(module) in (nn.Conv2d, nn.Conv3d):
        return module.groups == 1 and module.padding_mode == "zeros" and set(module.dilation) == {1}
    return type(module) is nn.Linear


def put_on(model: Any, lora: Lora) -> None:
    """Freeze a model and give the layers that `lora` names updates, which are zero to begin with.

    What only training knows (`training_only`: a discriminator, an alignment) goes on being trained. ValueError in one
    line where peft is missing, or a name is that of no layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("train.lora needs a package: pip install 'nextok_mm[lora]'") from None
    there = places(model)
    chosen = _chosen(there, lora.targets)
    taken_apart = {there[name].layer for name in chosen if there[name].rows is not None}
    for name, module in list(model.named_modules()):
        for joined, sizes in _parts(module):
            if f"{name}.{joined}" in taken_apart:
                setattr(module, joined, Parts(getattr(module, joined), sizes))
    own = [p for name, p in model.named_parameters() if name.partition(".")[0] in model.training_only]
    own = [parameter for parameter in own if parameter.requires_grad]
    settings: Any = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        target_modules=chosen,
    )
    inject_adapter_in_model(settings, model)
    for parameter in own:
        parameter.requires_grad_(True)


def _chosen(there: Mapping[str, Place], targets: Sequence[str]) -> list[str]:
    """The layers of these names; ValueError for one that there is none of, or one inside another."""

    def named(target: str) -> list[str]:
        return [name for name in there if name == target or name.endswith(f".{target}")]

    for target in targets:
        if not named(target):
            plain = ([part for part in name.split(".") if not part.isdecimal()] for name in there)
            ends = dict.fromkeys(".".join(parts[-2:]) for parts in plain)
            hint = f"; it is called {_BORROWED[target]} here" if target in _BORROWED else ""
            more = ", ..." * (len(ends) > _SHOWN)
            raise ValueError(
                f"train.lora.targets: got {shown(target)}{hint}, accepted: layers of this model by their names' ends, "
                f"such as {', '.join(list(ends)[:_SHOWN])}{more}"
            )
    chosen = list(dict.fromkeys(name for target in targets for name in named(target)))
    for name in chosen:
        if there[name].rows is not None and there[name].layer in chosen:
            raise ValueError(f"train.lora.targets: got {name} twice, by itself and in all of {there[name].layer}")
    return chosen


def updates(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The updates of a model in training: `A` and `B` by the name of the layer."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        layer, marked, rest = name.partition(".lora_")
        if marked:
            found.setdefault(layer, {})[rest[0]] = tensor
    return found


def check_reached(model: nn.Module) -> None:
    """ValueError where no gradient came to an update: that layer's matrix is used without the layer's forward pass."""
    for name, parameter in model.named_parameters():
        layer, marked, rest = name.partition(".lora_")
        if marked and rest[0] == "B" and parameter.grad is None:
            raise ValueError(
                f"train.lora.targets: got {layer}, accepted: layers that take part in the loss as layers; this one's "
                "matrix is used otherwise"
            )


def save(
    model: Any,
    folder: Path,
    lora: Lora,
    base: str,
    base_fingerprint: str,
    dtype: torch.dtype | None = None,
    words: Mapping[str, bytes] | None = None,
    **meta: Any,
) -> Path:
    """Write the folder of a model in training: its updates, whole or not at all.

    base: by what its base is loaded; words: files of a text tokenizer that belong beside it; meta: fields of `Card`, as
    for `save_pretrained`.
    """
    made = dict[str, Tensor]()
    for layer, pair in updates(model).items():
        for name, rows in _published(layer, model):
            made[f"{_PREFIX}{name}.lora_A.weight"] = pair["A"].clone()
            made[f"{_PREFIX}{name}.lora_B.weight"] = (pair["B"] if rows is None else pair["B"][rows]).clone()
    text = reference(base, folder)
    files, digests = weights.contents(made, dtype, _ONE_FILE)
    layers = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in made})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if getattr(model, "open_ended", False) else None,
        "base_model_name_or_path": text,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _short(layers, model),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    fields = model.config.model_dump(mode="json") | dict.fromkeys(model.training_only)
    card = Card.parse(
        {"role": model.role, "kind": model.kind, "fields": fields}
        | {"base": text, "base_fingerprint": base_fingerprint, "name": folder.name, **meta},
        where="checkpoint",
    )

    def write_config(path: Path) -> None:
        whole = card.model_copy(update={"sha256": digests[weights.WEIGHTS]}).model_dump(mode="json")
        path.write_bytes(json.dumps(whole, indent=2, ensure_ascii=False).encode() + b"\n")

    page = readme(card, model, sum(tensor.numel() for tensor in made.values()), f"path/to/{folder.name}").encode()
    about = {SETTINGS: json.dumps(settings, indent=2).encode() + b"\n", README: page, CONFIG: write_config}
    write_files(folder, {**(words or {}), WEIGHTS: files[weights.WEIGHTS], **about})
    for path in weights.stale(folder, {}):
        with suppress(OSError):  # config.json says that it is an update
            path.unlink()
    return folder


def _published(layer: str, model: Any) -> list[tuple[str, slice | None]]:
    """The names in files of a layer's update: its own, or those of its parts, and which rows of B each one takes."""
    if (name := model.published(layer)) is not None:
        return [(name, None)]
    above, _, joined = layer.rpartition(".")
    owner: Any = model.get_submodule(above)
    found, first = list[tuple[str, slice | None]](), 0
    for part, size in owner.parts()[joined].items():
        found.append((model.published(f"{layer}.{part}") or f"{layer}.{part}", slice(first, first + size)))
        first += size
    return found


def _short(layers: Sequence[str], model: Any) -> list[str]:
    """Layers by the ends of their names, as peft matches them, where those ends mean no other layer."""
    every = set[str]()
    for name, module in model.named_modules():
        every |= {name, *(f"{name}.{joined}.{part}" for joined, sizes in _parts(module) for part in sizes)}
    ends = sorted({name.rpartition(".")[2] for name in layers})
    published = {found for name in every if (found := model.published(name)) is not None}
    meant = {name for name in published if name.rpartition(".")[2] in ends}
    return ends if meant == set(layers) else list(layers)


def _parts(module: Any) -> Iterator[tuple[str, Mapping[str, int]]]:
    """The layers of a module that are several side by side: name, and the outputs of each part by its name."""
    yield from getattr(module, "parts", dict)().items()


@torch.no_grad()
def add(model: Any, folder: Path, card: Card) -> None:
    """Add the update that a folder holds to its base, whose fingerprint has been compared.

    ValueError in one line for a damaged file, a setting that would change the computation in a way that isn't known
    here, or an update that doesn't fit.
    """
    where, path = f"checkpoint {folder}", folder / WEIGHTS
    scale, rank = _scale(folder)
    found = weights.one(path, card.sha256)
    there = places(model)
    ours = {name: layer for layer in there if (name := model.published(layer)) is not None}
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        layer, _, rest = name.removeprefix(_PREFIX).partition(".lora_")
        if not name.startswith(_PREFIX) or layer not in ours or rest not in ("A.weight", "B.weight"):
            raise ValueError(f"{where}: {WEIGHTS} has the weight {shown(name)}, accepted: updates of its base's layers")
        pairs.setdefault(ours[layer], {})[rest[0]] = tensor.float()
    for name, pair in pairs.items():
        layer, rows = there[name]
        module: Any = model.get_submodule(layer)
        weight = module.weight if rows is None else module.weight[rows]
        inner = pair["A"].flatten(1) if "A" in pair else torch.empty(0, 0)
        outer = pair["B"].flatten(1) if "B" in pair else torch.empty(0, 0)
        if outer.shape != (len(weight), rank) or inner.shape != (rank, weight[0].numel()):
            got = f"{tuple(outer.shape)} and {tuple(inner.shape)}"
            wanted = f"({len(weight)}, {rank}) and ({rank}, {weight[0].numel()})"
            raise ValueError(f"{where}: the update of {name} has B and A of {got}, accepted: {wanted}")
        delta = scale * (outer @ inner).view_as(weight)
        if not bool(delta.isfinite().all()):
            raise ValueError(f"{where}: the update of {name} is not finite")
        weight += delta.to(weight.dtype)


def _scale(folder: Path) -> tuple[float, int]:
    """(alpha / rank, rank) of a folder's update; ValueError for settings that mean another computation."""
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(f"checkpoint {folder}: no file {SETTINGS}")
    settings = read_object(path, MAX_SETTINGS_BYTES)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"checkpoint {path}: peft_type: got {shown(settings.get('peft_type'))}, accepted: LORA")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"checkpoint {path}: r: got {shown(rank)}, accepted: a whole number above 0")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise ValueError(f"checkpoint {path}: lora_alpha: got {shown(alpha)}, accepted: a number above 0")
    for name, value in settings.items():
        if name not in _READ and value not in (None, False, [], {}):
            raise ValueError(f"checkpoint {path}: {name}: got {shown(value)}, accepted: a plain LoRA, without it")
    if settings.get("bias", "none") != "none" or settings.get("fan_in_fan_out"):
        raise ValueError(f"checkpoint {path}: bias, fan_in_fan_out: accepted: none and false")
    return alpha / rank, rank
