"""The Llama family: Llama 2 and 3, SmolLM2, Vicuna, Mistral, Qwen2, Qwen2.5 and Qwen3, from a folder in the hub's form
(config.json and safetensors, in one file or several) or from a GGUF file, whose weights are dequantized.

A field of config.json that this file doesn't know is refused by name unless it is empty: it could change what the model
computes. Source of the names: the published checkpoints, and the GGUF format's description.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..card import CONFIG, FORMAT
from ..references import ENDS, GGUF, WORDS
from ..weights import read_weights
from . import _gguf, tensors

LICENSE = "not stated (the published checkpoint's own)"
ROLE, KIND = "generator", "language"

TYPES = ("llama", "mistral", "qwen2", "qwen3")
MAX_JSON = 64 << 20
_READ = {
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling"),
    *("rope_parameters", "tie_word_embeddings", "hidden_act", "sliding_window", "use_sliding_window", "layer_types"),
    *("max_window_layers", "bos_token_id", "eos_token_id", "partial_rotary_factor", "attention_bias", "mlp_bias"),
}
_HARMLESS = {  # about training, files and other programs
    *("architectures", "attention_dropout", "initializer_range", "pad_token_id", "pretraining_tp", "torch_dtype"),
    *("dtype", "transformers_version", "use_cache", "_name_or_path", "is_llama_config", "transformers.js_config"),
    *("rope_interleaved", "unsloth_version", "auto_map", "unk_token_id", "max_sequence_length", "return_dict"),
    *("output_attentions", "output_hidden_states", "use_return_dict", "id2label", "label2id", "_attn_implementation"),
    *("bos_token", "eos_token", "problem_type", "chunk_size_feed_forward", "is_encoder_decoder", "unsloth_fixed"),
}
_PLAIN = {
    "model.embed_tokens.weight": "table.weight",
    "model.norm.weight": "backbone.norm_out.weight",
    "lm_head.weight": "head.weight",
}
_LAYER = {
    "input_layernorm.weight": "norm1.weight",
    "post_attention_layernorm.weight": "norm2.weight",
    "self_attn.o_proj.weight": "attention.out.weight",
    "self_attn.q_norm.weight": "attention.q_norm.weight",
    "self_attn.k_norm.weight": "attention.k_norm.weight",
    "mlp.down_proj.weight": "mlp.out.weight",
}
_JOINED = {
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention.qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "mlp.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
}
_PARTS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"} | {
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
}


def layer(name: str) -> str | None:
    """What a linear layer of ours, or a part of a joined one, is called; None: it isn't there by itself."""
    if name == "head":
        return "lm_head"
    block, _, rest = name.removeprefix("backbone.blocks.").partition(".")
    if not (name.startswith("backbone.blocks.") and block.isdecimal()):
        return None
    whole = {ours: theirs for theirs, ours in _LAYER.items()}.get(f"{rest}.weight", "").removesuffix(".weight")
    joined, _, part = rest.rpartition(".")
    found = whole or (_PARTS.get(part) if f"{joined}.weight" in _JOINED else None)
    return f"model.layers.{block}.{found}" if found else None


def recognizes(source: Path) -> bool:
    """Whether a folder holds a model of this family in its published form, or a GGUF file; or is one."""
    if source.is_file():
        return source.suffix == GGUF
    if not (source / CONFIG).is_file():
        return any(source.glob(f"*{GGUF}"))
    config = _json(source / CONFIG)
    return config.get("format") != FORMAT and config.get("model_type") in TYPES


def fields(source: Path) -> dict[str, Any]:
    """Our config fields, before any weight is read; ValueError in one line as of `read`."""
    return _read(_place(source), numbers=False)[0]


def read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config fields and weights of a hub folder or a GGUF file; ValueError in one line for anything else."""
    return _read(_place(source), numbers=True)


def _place(source: Path) -> Path:
    """What is read: the folder, or the GGUF file that lies in it alone."""
    if not source.is_dir() or any((source / name).exists() for name in (CONFIG, "model.safetensors")):
        return source
    found = sorted(source.glob(f"*{GGUF}"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(
            f"llama checkpoint {source}: got {names}, accepted: one GGUF file in a folder, or its own name"
        )
    return found[0] if found else source


def _read(source: Path, numbers: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    where = f"llama checkpoint {source}"
    try:
        if source.is_dir():
            fields = hub_fields(hub_config(source), where)
            weights = hub_weights(source) if numbers else {}
        else:
            fields, weights = _gguf.read(source, numbers)
        return fields, convert(weights, fields) if numbers else {}
    except KeyError as error:
        raise ValueError(f"{where}: no weight {error}, accepted: a published model of the Llama family") from None
    except (TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{where}: not in the published form: {' '.join(str(error).split())[:200]}") from None


def files(source: Path) -> dict[str, bytes]:
    """The text tokenizer of a hub folder or a GGUF file, as files that lie beside the weights."""
    source = _place(source)
    if not source.is_dir():
        return _gguf.words(source)
    return {name: (source / name).read_bytes() for name in WORDS if (source / name).is_file()}


def hub_config(folder: Path) -> dict[str, Any]:
    """config.json of a hub folder, with what generation_config.json says of how a text ends."""
    config = _json(folder / CONFIG)
    if (folder / ENDS).is_file():
        ends = _json(folder / ENDS).get("eos_token_id")
        config |= {} if ends is None else {"eos_token_id": ends}
    return config


def hub_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Our config fields; ValueError names a field that would change the computation in a way that isn't known here."""

    def refuse(name: str, accepted: str) -> None:
        raise ValueError(f"{where}: config.json: {name}: got {config[name]!r:.80}, accepted: {accepted}")

    kind = config.get("model_type")
    if kind not in TYPES:
        raise ValueError(f"{where}: config.json: model_type: got {kind!r:.80}, accepted: {', '.join(TYPES)}")
    for name, value in config.items():
        if name not in _READ | _HARMLESS and value not in (None, False):
            refuse(name, "a config without it: this field may change what the model computes, and isn't known here")
    for name, plain in {"hidden_act": "silu", "partial_rotary_factor": 1.0, "mlp_bias": False}.items():
        if config.get(name, plain) not in (plain, None):
            refuse(name, repr(plain))
    if config.get("attention_bias") and kind != "qwen2":
        refuse("attention_bias", "False: biases are known of q, k and v alone, as Qwen2 has them")
    theta, scaling = _rope(config, refuse)
    ends = config.get("eos_token_id")
    heads = config["num_attention_heads"]
    return {
        "vocabulary": config["vocab_size"],
        "context": config["max_position_embeddings"],
        "width": config["hidden_size"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "depth": config["num_hidden_layers"],
        "mlp_hidden": config["intermediate_size"],
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "qkv_bias": kind == "qwen2",
        "qk_norm": kind == "qwen3",
        "window": _window(config, kind, refuse),
        "tied": bool(config.get("tie_word_embeddings", False)),
        "begin": config.get("bos_token_id"),
        "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
    }


def _rope(config: Mapping[str, Any], refuse: Any) -> tuple[float, dict[str, Any] | None]:
    """The base of the rotation and how it is stretched, in the old and the new form of config.json."""
    name = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    found = dict(config.get(name) or {})
    theta = float(found.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    kind = found.pop("rope_type", found.pop("type", "default"))
    found.pop("type", None)
    if kind == "default" and not {key for key, value in found.items() if value not in (None, 1.0)}:
        return theta, None
    keys = {
        "factor": "factor",
        "low_freq_factor": "low",
        "high_freq_factor": "high",
        "original_max_position_embeddings": "original",
    }
    if kind != "llama3" or found.keys() != keys.keys():
        refuse(name, "the default, or llama3 with its four numbers")
    return theta, {keys[key]: value for key, value in found.items()}


def _window(config: Mapping[str, Any], kind: str, refuse: Any) -> int | None:
    """How far back a token sees, alike in all layers."""
    window, layers = config.get("sliding_window"), set(config.get("layer_types") or ())
    if layers - {"full_attention", "sliding_attention"} or len(layers) > 1:
        refuse("layer_types", "all of them full_attention, or all of them sliding_attention")
    if (
        layers == {"full_attention"}
        or window is None
        or (kind in ("qwen2", "qwen3") and not config.get("use_sliding_window"))
    ):
        return None
    if kind in ("qwen2", "qwen3") and layers != {"sliding_attention"}:
        refuse("use_sliding_window", "False, or layer_types that say sliding_attention of every layer")
    if kind == "llama":
        refuse("sliding_window", "None, a Llama has none")
    return int(window)


def hub_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a hub folder, of one file or of those that its index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return tensors(str(folder / name), read_weights(folder / name))
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        files = _json(index).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise ValueError(f"{index}: weight_map: accepted: file names by weight")
        found: dict[str, Tensor] = {}
        for file in sorted(set(files.values())):
            if Path(file).name != file:
                raise ValueError(f"{index}: got the file {file!r:.80}, accepted: one beside it")
            found |= tensors(str(folder / file), read_weights(folder / file))
        if missing := files.keys() - found.keys():
            raise ValueError(f"{index}: weight {min(missing)!r} is in none of its files")
        return found
    raise ValueError(f"{folder}: no model.safetensors, no model.safetensors.index.json")


def convert(official: dict[str, Tensor], fields: Mapping[str, Any]) -> dict[str, Tensor]:
    """Our names and joined matrices; ValueError names a weight that isn't known.

    Weights are taken out of `official` one by one, so that those that are joined aren't held twice.
    """
    for name in [name for name in official if name.endswith("rotary_emb.inv_freq")]:
        del official[name]
    state = {ours: official.pop(theirs) for theirs, ours in _PLAIN.items() if theirs in official}
    if fields["tied"]:
        state.pop("head.weight", None)
    for layer in range(fields["depth"]):
        before, after = f"model.layers.{layer}.", f"backbone.blocks.{layer}."
        for theirs, ours in _LAYER.items():
            if before + theirs in official:
                state[after + ours] = official.pop(before + theirs)
        for ours, parts in _JOINED.items():
            if before + parts[0] in official:
                state[after + ours] = torch.cat([official.pop(before + part) for part in parts])
    if official:
        raise ValueError(f"weight {min(official)!r} isn't known, {len(official)} in all; accepted: those of a Llama")
    return state


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent}: no file {path.name}")
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {MAX_JSON} accepted")
    try:
        data = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: an object is accepted, got {type(data).__name__}")
    return data
