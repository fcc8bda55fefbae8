"""Published xAR checkpoints (`xAR-B.pth`, -L, -H): official key names -> ours. Key maps only, sizes from the shapes.

The official code hard-codes 2 x 2 cells over a square grid of latents, 1000 classes and one null label. Its MLP is
timm's SwiGLU called with a GELU, that is GEGLU. Buffers (mask, rope tables) are derived here and therefore dropped.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_weights
from . import numbered, plain_names, tensors

ROLE, KIND = "generator", "xar"
LICENSE = "none stated by the authors of OliverRen/xAR"

_PLAIN = {
    "class_emb.weight": "labels.weight",
    "time_embed.mlp.0.": "time.up.",
    "time_embed.mlp.2.": "time.out.",
    "z_proj.": "embed.",
    "z_proj_ln.": "backbone.norm_in.",
    "encoder_norm.": "backbone.norm_midway.",
    "decoder_embed.": "backbone.midway.",
    "decoder_norm.": "backbone.norm_out.",
    "pred.": "head.velocity.",
}
_BLOCK = {"attn.qkv.": "attention.qkv.", "attn.proj.": "attention.out.", "mlp.fc2.": "mlp.out."}
_BUFFERS = re.compile(r"mask|.*\.rope\.freqs(_cos|_sin)?")


def convert(official: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official state dict -> (fields of XARConfig, our state dict). ValueError names a key that isn't known."""
    state: dict[str, Tensor] = {}
    rest = {key: value for key, value in official.items() if not _BUFFERS.fullmatch(key)}
    try:
        depths = [numbered(rest, f"{half}_blocks.") for half in _HALVES]
        state["backbone.positions"] = rest.pop("encoder_pos_embed_learned")[0]
        state["backbone.positions_midway"] = rest.pop("decoder_pos_embed_learned")[0]
        ada = {part: [] for part in ("weight", "bias")}
        for index, prefix in enumerate(f"{h}_blocks.{i}." for h, d in zip(_HALVES, depths) for i in range(d)):
            block = {key: rest.pop(key) for key in list(rest) if key.startswith(prefix)}
            for part in ("weight", "bias"):
                ada[part].append(block.pop(f"{prefix}ada_lin.1.{part}"))
                gate_up = block.pop(f"{prefix}mlp.fc1_g.{part}"), block.pop(f"{prefix}mlp.fc1_x.{part}")
                state[f"backbone.blocks.{index}.mlp.gate_up.{part}"] = torch.cat(gate_up)
            for key, value in block.items():
                state[f"backbone.blocks.{index}." + _rename(key, key.removeprefix(prefix), _BLOCK)] = value
        state |= {f"backbone.ada_{part}": torch.stack(values) for part, values in ada.items()}
        state |= {_rename(key, key, _PLAIN): value for key, value in rest.items()}
        return _fields(state, official, depths), state
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"xAR checkpoint: not in the official form: {error}") from None


_HALVES = ("encoder", "decoder")


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a published file (the EMA weights where it has them) -> (fields of XARConfig, our state dict)."""
    weights: Any = read_weights(path)
    for name in ("model_ema", "model"):
        if isinstance(weights.get(name), dict):
            weights = weights[name]
    weights = tensors(f"xAR checkpoint {path}", weights)
    return convert(plain_names(weights))


def _rename(whole: str, key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise ValueError(f"unknown key {whole!r}")


def _fields(state: dict[str, Tensor], official: dict[str, Tensor], depths: list[int]) -> dict[str, Any]:
    tokens, width = state["backbone.positions"].shape
    side = math.isqrt(tokens)
    # The rotary table's width is the head dim; without the buffer (it can be dropped) the published 64 is taken.
    table = official.get("encoder_blocks.0.attn.rope.freqs_cos")
    heads = _PUBLISHED_HEADS.get(width) if table is None else width // table.shape[-1]
    if side * side != tokens or side % 2 or depths[0] != depths[1] or not heads:
        raise ValueError(f"{tokens} positions, {depths} blocks, width {width}")
    return {
        "grid": (side, side),
        "channels": state["head.velocity.weight"].shape[0],
        "classes": state["labels.weight"].shape[0] - 1,
        "entity": "cell",
        "entity_size": side // 2,
        "width": width,
        "heads": heads,
        "depth": sum(depths),
        "mlp": "geglu",
        "sampling": {"steps": 40 if width <= 768 else 50, "cfg": 2.7 if width <= 768 else 2.3},
    }


_PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16}
