"""Published ELM checkpoints (`L-2-10.pth`, `mlmL-1-16.pth` ...): their keys are renamed, gates and groups put together.

The number of bits is known by the shapes; heads by the published width (64 channels each) where a config doesn't say.
Published for ImageNet 256: 16 x 16 codes, 1000 classes.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_weights
from . import described, numbered, plain_names, tensors

ROLE, KIND = "generator", "elm"
LICENSE = "not stated (huggingface.co/xuantonglll/ELM)"
_NAMES = {
    "attention_norm.weight": "norm1.weight",
    "attention.wqkv.weight": "attention.qkv.weight",
    "attention.wo.weight": "attention.out.weight",
    "ffn_norm.weight": "norm2.weight",
    "feed_forward.w2.weight": "mlp.out.weight",
}
_HEAD_DIM = 64


def read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and weights of a published file (or of a reference file with `w.` keys and a config)."""
    found, where = read_weights(source), f"elm checkpoint {source}"
    for wrapper in ("model", "ema", "state_dict"):
        found = found[wrapper] if isinstance(found.get(wrapper), dict) else found
    weights = tensors(where, found)
    weights = {key.removeprefix("w."): weights[key] for key in weights if key.startswith("w.")} or weights
    weights = plain_names(weights)
    try:
        return convert(weights, described(source))
    except KeyError as error:
        raise ValueError(f"{where}: no weight {error}, accepted: a published ELM") from None
    except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{where}: not in the published form: {' '.join(str(error).split())[:200]}") from None


def convert(official: dict[str, Tensor], config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and weights from official names; `config` fills in what the weights don't say."""
    masked = "mlm_layer.fc.weight" in official
    tables = _groups(official, "tok_embedder")
    width = tables[0].shape[1]
    state = {
        "embed.table.weight": torch.cat(tables),
        "labels.weight": official["cls_embedding.embedding_table.weight"],
        "backbone.norm_out.weight": official["norm.weight"],
    }
    if len(tables) > 1:
        state["embed.join.weight"] = official["proj.weight"]
    if masked:  # it also has output and position tables that nothing reads
        state |= {f"head.dense.{part}": official[f"mlm_layer.fc.{part}"] for part in ("weight", "bias")}
        state |= {f"head.norm.{part}": official[f"mlm_layer.ln.{part}"] for part in ("weight", "bias")}
        state["head.bias"] = official["mlm_layer.bias"].reshape(1, -1)[:, :-1]
    else:
        state["head.logits.weight"] = torch.cat(_groups(official, "output"))
    depth = numbered(official, "layers.")
    for layer in range(depth):
        old, new = f"layers.{layer}", f"backbone.blocks.{layer}"
        state |= {f"{new}.{ours}": official[f"{old}.{theirs}"] for theirs, ours in _NAMES.items()}
        gate_up = [official[f"{old}.feed_forward.{part}.weight"] for part in ("w1", "w3")]
        state[f"{new}.mlp.gate_up.weight"] = torch.cat(gate_up)
    ada = "layers.0.adaLN_modulation.1.weight" in official
    if ada:
        for part in ("weight", "bias"):
            layers = [_ada(official[f"layers.{layer}.adaLN_modulation.1.{part}"]) for layer in range(depth)]
            state[f"backbone.ada_{part}"] = torch.stack(layers)
            state[f"final.{part}"] = official[f"final_adaLN.1.{part}"]
    places = int(config.get("block_size", 256))
    vocabulary = len(tables[0]) - masked
    fields = {
        "grid": (math.isqrt(places),) * 2,
        "num_codes": vocabulary ** len(tables),
        "groups": len(tables),
        "classes": len(state["labels.weight"]) - 1,
        "width": width,
        "heads": int(config.get("n_head") or width // _HEAD_DIM),
        "depth": depth,
        "mlp_hidden": len(official["layers.0.feed_forward.w1.weight"]),
        "objective": "masked" if masked else "autoregressive",
        "ada": ada,
        "rope": "sequence" if config.get("pos_type") == "rope1d" else "grid",
        "smoothing": float(config.get("smoothing", 0.1)) if masked else 0.0,
    }
    return fields, state


def _groups(official: dict[str, Tensor], name: str) -> list[Tensor]:
    """The tables `name.0.weight`, `name.1.weight` ..., or the only one; ValueError where their shapes differ."""
    if f"{name}.weight" in official:
        return [official[f"{name}.weight"]]
    groups = sum(key.startswith(f"{name}.") for key in official)
    tables = [official[f"{name}.{group}.weight"] for group in range(groups or 1)]
    shapes = sorted({tuple(table.shape) for table in tables})
    if len(shapes) > 1:
        raise ValueError(f"{name} has tables of shapes {', '.join(map(str, shapes))}, accepted: one shape")
    return tables


def _ada(tensor: Tensor) -> Tensor:
    """shift, scale, gate of attention, then of the MLP -> gates, scales, shifts, as our blocks have them."""
    shift1, scale1, gate1, shift2, scale2, gate2 = tensor.chunk(6)
    return torch.cat((gate1, gate2, scale1, scale2, shift1, shift2))
