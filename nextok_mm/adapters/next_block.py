"""Published NBP transformers (`*.ckpt` of NBP-ucf and NBP-k600, Lightning or DeepSpeed): official key names -> ours.

Key maps only. The official file is minGPT's: separate key, query and value projections, which are one matrix here.
What no tensor tells (heads, block, grid) is read from the arguments that the training script stored beside them.
A model without condition ids is a frame predictor. One with them begins as `hybrid` in those arguments says, or, where
they are lost, as its table of positions allows: a hybrid input is a block longer than one whose first frames are given.
The official code gives the latter one special id, in the last row, which nothing is trained on: it is left behind.
Padding of a text condition stays visible (no `pad` in the fields): the official mask looks for its id after the ids
have been shifted by the block, and never finds it.
"""

import math
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_weights
from . import numbered, plain_names, tensors

ROLE, KIND = "generator", "next_block"
LICENSE = "MIT (RenShuhuai-Andy/NBP)"

_PLAIN = {
    "tok_emb.weight": "embed.table.weight",
    "ln_f.weight": "backbone.norm_out.weight",
    "ln_f.bias": "backbone.norm_out.bias",
    "head.weight": "head.logits.weight",
}
_BLOCK = {"ln1": "norm1", "ln2": "norm2", "attn.proj": "attention.out", "mlp.0": "mlp.up", "mlp.2": "mlp.out"}
_OTHERS = re.compile(r"(first_stage_model|cond_stage_model|bov_provider)\..*|.*mask")
_HEADS = {1536: 16, 2048: 32, 3072: 32}
"""Heads of the published widths, for a file without its arguments."""
_CODES = 64_000
_SAMPLING = {"temperature": 1.0, "top_k": 16_000, "top_p": 0.9}


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a published file -> (fields of NextBlockConfig, our state dict)."""
    data: Any = read_weights(path)
    weights = tensors(f"NBP checkpoint {path}", data.get("state_dict", data))
    facts = _facts(_arguments(data.get("hyper_parameters")))
    return convert(plain_names(weights), facts)


def convert(official: Mapping[str, Tensor], facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official state dict -> (fields of NextBlockConfig, our state dict). ValueError names a key that isn't known.

    facts: grid (frames, rows, columns), block (codes), vocab, and heads where the width isn't a published one; where
    they are known: hybrid (bool) and classes, how many condition ids there are.
    """
    rest = {key.removeprefix("transformer."): value for key, value in official.items() if not _OTHERS.fullmatch(key)}
    state: dict[str, Tensor] = {}
    try:
        depth = numbered(rest, "blocks.")
        for index in range(depth):
            for part in ("weight", "bias"):
                taken = [rest.pop(f"blocks.{index}.attn.{name}.{part}") for name in ("query", "key", "value")]
                state[f"backbone.blocks.{index}.attention.qkv.{part}"] = torch.cat(taken)
                for theirs, ours in _BLOCK.items():
                    taken_one = rest.pop(f"blocks.{index}.{theirs}.{part}")
                    state[f"backbone.blocks.{index}.{ours}.{part}"] = taken_one
        state["backbone.positions"] = rest.pop("pos_emb")[0]
        none = rest.pop("uncond_embedding", None)
        state |= {ours: rest.pop(theirs) for theirs, ours in _PLAIN.items()}
        if rest:
            raise ValueError(f"unknown key {next(iter(rest))!r}")
        fields = _fields(state, none, facts, depth)
        if fields["classes"] and fields["start"] == "given":
            for table in ("embed.table.weight", "head.logits.weight"):
                state[table] = state[table][: fields["classes"] + fields["num_codes"]]
    except KeyError as error:
        raise ValueError(f"NBP checkpoint: not in the official form: no weight {error}") from None
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"NBP checkpoint: not in the official form: {error}") from None
    if fields["classes"]:
        assert none is not None
        state["none"] = none
    return fields, state


def _arguments(stored: Any) -> Mapping[str, Any]:
    """The training script's arguments out of Lightning's `hyper_parameters`; none where it stored none."""
    if stored is None:
        return {}
    if not isinstance(stored, Mapping):
        raise ValueError(f"NBP checkpoint: hyper_parameters: got {type(stored).__name__}, accepted: a mapping")
    found = stored.get("args", {})
    found = vars(found) if isinstance(found, Namespace) else found
    if not isinstance(found, Mapping):
        kind = type(found).__name__
        raise ValueError(f"NBP checkpoint: hyper_parameters.args: got {kind}, accepted: a mapping or a Namespace")
    return found


def _facts(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the training script's arguments say, in the words of `convert`; the published values where it says none."""

    def number(name: str, published: int) -> int:
        value = arguments.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"NBP checkpoint: {name}: got {value!r:.80}, accepted: a whole number from 1")
        return value or published

    frames, side = number("sequence_length", 17), number("resolution", 128) // 8
    hybrid = None if arguments.get("hybrid") is None else bool(arguments["hybrid"])
    if hybrid is False and arguments.get("starts_with_bov"):
        raise ValueError(
            "NBP checkpoint: starts_with_bov: got true without hybrid, accepted: hybrid, or first frames that are given"
        )
    return {
        "hybrid": hybrid,
        "classes": number("class_cond_dim", 0),
        "grid": (1 + (frames - 1) // 4, side, side),
        "block": number("token_number_per_step", 16),
        "vocab": _CODES,
        "heads": number("n_head", 0),
    }


def _fields(state: dict[str, Tensor], none: Tensor | None, facts: Mapping[str, Any], depth: int) -> dict[str, Any]:
    ids, width = state["embed.table.weight"].shape
    grid, tokens = tuple(facts["grid"]), int(facts["block"])
    heads = facts.get("heads") or _HEADS.get(width)
    others = ids - int(facts["vocab"])  # special and condition ids: none in frame predictors without a condition
    places, condition = state["backbone.positions"].shape[0], 1 if none is None else len(none)
    hybrid = facts.get("hybrid")
    if hybrid is None:
        hybrid = places >= condition + math.prod(grid)
    special = tokens if hybrid else 1
    classes = (facts.get("classes") or others - special) if others else 0
    fits = classes + tokens == others if hybrid else classes in (others, others - 1)
    if not heads or others < 0 or (others and (none is None or classes < 1 or not fits)):
        said = f", for {facts['classes']} classes" if facts.get("classes") else ""
        raise ValueError(f"width {width}, {ids} ids for {facts['vocab']} codes in blocks of {tokens}{said}")
    return {
        "grid": grid,
        "num_codes": int(facts["vocab"]),
        "block": block_shape(tokens, grid),
        "start": "hybrid" if others and hybrid else "given",
        "classes": classes,
        "condition": condition if classes else 1,
        "positions": places,
        "width": width,
        "heads": int(heads),
        "depth": depth,
        "sampling": _SAMPLING,
    }


def block_shape(tokens: int, grid: tuple[int, ...]) -> tuple[int, int, int]:
    """So many codes in raster order as (frames, rows, columns); ValueError where they are no block of the grid."""
    _, rows, columns = grid
    for block in ((1, 1, tokens), (1, tokens // columns, columns), (tokens // (rows * columns), rows, columns)):
        divides = all(0 < side <= whole and whole % side == 0 for side, whole in zip(block, grid))
        if divides and math.prod(block) == tokens:
            return block
    raise ValueError(f"blocks of {tokens} codes, accepted: whole parts of the grid {grid}")
