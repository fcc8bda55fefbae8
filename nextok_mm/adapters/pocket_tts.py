"""Published Pocket TTS files: the language part, keys `flow_lm.*`, as a `flow_omni` generator. Sizes from the shapes.

The file that holds it holds the codec too (`mimi.*`), which becomes a tokenizer by itself and is passed over here. Time
runs the other way there (0 is noise): its embedding is turned with it, exactly, since cos(w (1 - t)) and sin(w (1 - t))
are sums of cos(w t) and sin(w t), so that only the first matrix behind them changes; and velocities change their sign.

What a file doesn't say by its shapes is read from its metadata `config`, and else is the published: heads of 64
channels, rotary base 10,000.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import read_weights
from . import described, numbered, plain_names, tensors

ROLE, KIND = "generator", "flow_omni"
LICENSE = "cc-by-4.0 (the published checkpoint's own)"
WORDS, MAX_WORDS = "tokenizer.model", 64 << 20
PREFIX, CODEC = "flow_lm.", "mimi."

_PLAIN = {
    "conditioner.embed.weight": "table.weight",
    "input_linear.weight": "latents.weight",
    "speaker_proj_weight": "voice.weight",
    "bos_emb": "begin",
    "emb_mean": "shift",
    "emb_std": "scale",
    "out_eos.weight": "stop.weight",
    "out_eos.bias": "stop.bias",
    "out_norm.weight": "backbone.norm_out.weight",
    "out_norm.bias": "backbone.norm_out.bias",
    "flow_net.input_proj.weight": "head.enter.weight",
    "flow_net.input_proj.bias": "head.enter.bias",
    "flow_net.cond_embed.weight": "head.cond.weight",
    "flow_net.cond_embed.bias": "head.cond.bias",
}
_LAYER = {
    "self_attn.in_proj.weight": "attention.qkv.weight",
    "self_attn.out_proj.weight": "attention.out.weight",
    "linear1.weight": "mlp.up.weight",
    "linear2.weight": "mlp.out.weight",
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
}
_RESIDUAL = {"in_ln": "norm", "mlp.0": "up", "mlp.2": "out"}
_TIME = {"mlp.0": "up", "mlp.2": "out"}
_SAMPLING = {"steps": 1, "temperature": 0.7, "stop_logit": -4.0}


def read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and weights of a published file, or of the folder that holds it as its only .safetensors file."""
    path = weights_file(source)
    found = plain_names(tensors(f"Pocket TTS checkpoint {path}", read_weights(path)))
    return convert(found, described(path))


def files(source: Path) -> dict[str, bytes]:
    """The text tokenizer beside the weights, where there is one."""
    path = weights_file(source).parent / WORDS
    return {WORDS: path.read_bytes()} if path.is_file() and path.stat().st_size <= MAX_WORDS else {}


def weights_file(source: Path) -> Path:
    """The file of weights that a folder holds; ValueError where there is none, or more than one."""
    if not source.is_dir():
        return source
    held = sorted(source.glob("*.safetensors"))
    if len(held) != 1:
        names = ", ".join(path.name for path in held) or "none"
        raise ValueError(f"{source}: got {names}, accepted: one .safetensors file, or its path")
    return held[0]


def convert(official: Mapping[str, Tensor], config: Any = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official state dict -> (fields of FlowOmniConfig, our state dict); ValueError names a key that isn't known."""
    rest = {k.removeprefix(PREFIX): v for k, v in official.items() if k.startswith(PREFIX)}
    strange = [key for key in official if not key.startswith((PREFIX, CODEC))]
    try:
        if strange:
            raise ValueError(f"unknown key {min(strange)!r}")
        depth = numbered((key for key in rest if key.startswith("transformer.layers.")), "transformer.layers.")
        state = {ours: rest.pop(theirs) for theirs, ours in _PLAIN.items()}
        if "bos_before_voice" in rest:
            state["voice_begin"] = rest.pop("bos_before_voice").flatten()
        for layer in range(depth):
            before, after = f"transformer.layers.{layer}.", f"backbone.blocks.{layer}."
            state |= {after + ours: rest.pop(before + theirs) for theirs, ours in _LAYER.items()}
        state |= _head(rest)
        if rest:
            raise ValueError(f"unknown key {PREFIX + min(rest)!r}")
        return _fields(state, depth, config), state
    except KeyError as error:
        raise ValueError(f"Pocket TTS checkpoint: no weight {PREFIX}{error.args[0]}") from None
    except (ValueError, IndexError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"Pocket TTS checkpoint: not in the published form: {reason}") from None


def _head(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """The flow head's weights, taken out of `rest`."""
    names, state = [key for key in rest if key.startswith("flow_net.")], dict[str, Tensor]()
    blocks = numbered((key for key in names if ".res_blocks." in key), "flow_net.res_blocks.")
    times = numbered((key for key in names if ".time_embed." in key), "flow_net.time_embed.")
    for part in ("weight", "bias"):
        steer: list[Tensor] = []
        for index in range(blocks):
            before, after = f"flow_net.res_blocks.{index}.", f"head.blocks.{index}."
            for theirs, ours in _RESIDUAL.items():
                state[f"{after}{ours}.{part}"] = rest.pop(f"{before}{theirs}.{part}")
            steer.append(rest.pop(f"{before}adaLN_modulation.1.{part}"))
        steer.append(rest.pop(f"flow_net.final_layer.adaLN_modulation.1.{part}"))
        state[f"head.ada.{part}"] = torch.cat(steer)
        state[f"head.velocity.{part}"] = -rest.pop(f"flow_net.final_layer.linear.{part}")
    for index in range(times):
        before, after = f"flow_net.time_embed.{index}.", f"head.times.{index}."
        for theirs, ours in _TIME.items():
            for part in ("weight", "bias"):
                state[f"{after}{ours}.{part}"] = rest.pop(f"{before}{theirs}.{part}")
        state[f"{after}up.weight"] = turned(state[f"{after}up.weight"], rest.pop(f"{before}freqs"))
        state[f"head.time_norms.{index}.weight"] = rest.pop(f"{before}mlp.3.alpha")
    return state


def turned(weight: Tensor, rates: Tensor) -> Tensor:
    """The matrix [W, 2 F] that makes of the waves of t what `weight` makes of those of 1 - t; cosines stand first."""
    cos, sin = rates.double().cos(), rates.double().sin()
    of_cos, of_sin = weight.double().chunk(2, dim=1)
    return torch.cat((of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos), dim=1).to(weight.dtype)


def _fields(state: Mapping[str, Tensor], depth: int, config: Any) -> dict[str, Any]:
    told: Any = (config if isinstance(config, dict) else {}) or {}
    transformer = told.get("flow_lm", {}).get("transformer", {})
    width, channels = state["latents.weight"].shape
    waves, flow_width = state["head.times.0.up.weight"].shape[1] // 2, state["head.enter.weight"].shape[0]
    if waves != 128:
        raise ValueError(f"{waves} frequencies of time, accepted: 128")
    times = sum(name.startswith("head.time_norms.") for name in state)
    return {
        "vocabulary": state["table.weight"].shape[0],
        "channels": channels,
        "rate": float(told.get("mimi", {}).get("frame_rate", 12.5)),
        "width": width,
        "heads": int(transformer.get("num_heads", max(width // 64, 1))),
        "depth": depth,
        "mlp_hidden": state["backbone.blocks.0.mlp.up.weight"].shape[0],
        "rope_theta": float(transformer.get("max_period", 10000.0)),
        "voice_begin": "voice_begin" in state,
        "flow_width": flow_width,
        "flow_depth": sum(name.endswith(".norm.weight") for name in state),
        "flow_times": times,
        "distill": 0.25 if times == 2 else 0.0,
        "sampling": dict(_SAMPLING),
    }
