"""GGUF files: their fields, and their weights dequantized and named as the hub names them.

The file format is read by the `gguf` package. llama.cpp turns neighbouring channels where the hub's files turn halves,
so the rows of Llama's queries and keys were reordered when the file was made, and are put back here.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sequence.rope import LongRope, rope_rates

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LLAMA3 = {"low": 1.0, "high": 4.0, "original": 8192}  # a GGUF file holds what follows from these, not these


def open_file(path: Path) -> Any:
    """The reader of a GGUF file; ValueError in one line where it is none, or the package is missing."""
    if path.suffix != ".gguf":
        raise ValueError(f"llama checkpoint {path}: accepted: a folder in the hub's form, or a .gguf file")
    if not path.is_file():
        raise ValueError(f"llama checkpoint: no file {str(path)!r}")
    state = path.stat()
    return _opened(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)  # reading its fields takes longer than all its weights, and a load asks three times
def _opened(path: Path, changed: int, size: int) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError("GGUF files need a package: pip install 'nextok_mm[language]'") from None
    try:
        return GGUFReader(path)
    except Exception as error:  # the reader stumbles over a damaged file in its own ways
        raise ValueError(f"gguf {path}: damaged or truncated ({' '.join(str(error).split())[:120]})") from None


def metadata(reader: Any) -> dict[str, Any]:
    """The fields of a file as plain data."""
    return {name: field.contents() for name, field in reader.fields.items()}


def read(path: Path, numbers: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our config fields, and the weights under the hub's names (none without `numbers`); ValueError for another
    architecture."""
    reader = open_file(path)
    found = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.to")
    }
    kind = found.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"gguf {path}: architecture: got {kind!r:.80}, accepted: {', '.join(ARCHITECTURES)}")
    own = {name.removeprefix(f"{kind}."): value for name, value in found.items() if name.startswith(f"{kind}.")}
    fields = _fields(kind, own, found, {_name(tensor.name, path): tensor for tensor in reader.tensors}, path)
    if not numbers:
        return fields, {}
    weights = {_name(tensor.name, path): _numbers(tensor, path) for tensor in reader.tensors}
    if kind == "llama":
        for name in weights:
            for part, heads in (("q_proj.weight", fields["heads"]), ("k_proj.weight", fields["kv_heads"])):
                if name.endswith(part):
                    weights[name] = _halves(weights[name], heads)
    weights.pop("rope_freqs.weight", None)
    return fields, weights


def _fields(
    kind: str, own: Mapping[str, Any], found: Mapping[str, Any], weights: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    for name in ("expert_count", "attention.sliding_window", "rope.scaling.type"):
        if own.get(name) not in (None, 0, "none"):
            raise ValueError(f"gguf {path}: {name}: got {own[name]!r:.80}, accepted: none")
    width, heads = own["embedding_length"], own["attention.head_count"]
    head_dim, theta = own.get("attention.key_length") or width // heads, own.get("rope.freq_base", 10000.0)
    if own.get("rope.dimension_count", head_dim) != head_dim:
        raise ValueError(f"gguf {path}: rope.dimension_count: got {own['rope.dimension_count']}, accepted: {head_dim}")
    end, factors = found.get("tokenizer.ggml.eos_token_id"), weights.get("rope_freqs.weight")
    factors = None if factors is None else _numbers(factors, path)
    return {
        "vocabulary": int(weights["model.embed_tokens.weight"].shape[-1]),
        "context": own["context_length"],
        "width": width,
        "heads": heads,
        "kv_heads": own.get("attention.head_count_kv") or heads,
        "head_dim": head_dim,
        "depth": own["block_count"],
        "mlp_hidden": own["feed_forward_length"],
        "norm_eps": own["attention.layer_norm_rms_epsilon"],
        "rope_theta": theta,
        "rope_scaling": _scaling(factors, head_dim, theta, path),
        "qkv_bias": "model.layers.0.self_attn.q_proj.bias" in weights,
        "qk_norm": "model.layers.0.self_attn.q_norm.weight" in weights,
        "tied": "lm_head.weight" not in weights,
        "begin": found.get("tokenizer.ggml.bos_token_id"),
        "ends": [] if end is None else [end],
    }


def _scaling(factors: Tensor | None, head_dim: int, theta: float, path: Path) -> dict[str, Any] | None:
    """What stretched the rotation by these factors, if it is Llama 3's way."""
    if factors is None:
        return None
    fields = {**_LLAMA3, "factor": float(factors.max())}
    plain, stretched = (rope_rates(head_dim // 2, theta, s) for s in (None, LongRope.parse(fields, "rope_scaling")))
    if factors.shape != plain.shape or not torch.allclose(plain / stretched, factors, rtol=1e-4):
        raise ValueError(f"gguf {path}: rope_freqs.weight: accepted: Llama 3's stretching of the rotation")
    return fields


def _name(name: str, path: Path) -> str:
    """The hub's name of a weight."""
    stem, _, ending = name.rpartition(".")
    if name == "rope_freqs.weight":
        return name
    if stem in _TOP:
        return f"{_TOP[stem]}.{ending}"
    block, _, rest = stem.removeprefix("blk.").partition(".")
    if stem.startswith("blk.") and block.isdecimal() and rest in _LAYER:
        return f"model.layers.{block}.{_LAYER[rest]}.{ending}"
    raise ValueError(f"gguf {path}: weight {name!r:.80} isn't known; accepted: those of a Llama")


def _numbers(tensor: Any, path: Path) -> Tensor:
    """The numbers of a weight, in fp32 (fp16 and bf16 stay what they are worth)."""
    from gguf.quants import dequantize

    try:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        return values.reshape(tuple(int(side) for side in reversed(tensor.shape)))
    except NotImplementedError:
        raise ValueError(
            f"gguf {path}: weight {tensor.name!r} is {tensor.tensor_type.name}, which can't be read"
        ) from None


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows (pair, which of the pair) of each head -> (which, pair): neighbours become halves."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


_CONTROL = (3, 4)  # kinds of token in a GGUF file: control tokens, and those that a user added
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: dict[str, Any] = {  # how a text is cut into words before its bytes are paired
    "smollm": [{"type": "Digits", "individual_digits": True}],
    "gpt-2": [],
    "default": [],
    "llama-bpe": _LLAMA3_WORDS,
    "qwen2": _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}"),
}


def words(path: Path) -> dict[str, bytes]:
    """The text tokenizer of a GGUF file as a hub folder would hold it: tokenizer.json and the chat template."""
    found = metadata(open_file(path))
    own = {
        name.removeprefix("tokenizer.ggml."): value for name, value in found.items() if name.startswith("tokenizer.")
    }
    cut = _SPLITS.get(own.get("pre", "default"))
    if own.get("model") != "gpt2" or cut is None:
        got = f"{own.get('model')!r}, {own.get('pre')!r}"
        raise ValueError(f"gguf {path}: text tokenizer {got}, accepted: gpt2 with {', '.join(_SPLITS)}; take the hub's")
    texts, kinds = own["tokens"], own["token_type"]
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": not isinstance(cut, str),
    }
    split = {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}
    added = [
        {"id": token, "content": texts[token], "special": kind == _CONTROL[0]}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for token, kind in enumerate(kinds)
        if kind in _CONTROL
    ]
    begin = {"SpecialToken": {"id": texts[own["bos_token_id"]], "type_id": 0}} if own.get("add_bos_token") else None
    special = {texts[own["bos_token_id"]]: own["bos_token_id"]} if begin else {}
    template = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in special.items()},
    }
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if own.get("pre") == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*([split] if isinstance(cut, str) else cut), level]},
        "post_processor": template if begin else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {text: token for token, text in enumerate(texts)},
            "merges": [merge.split(" ", 1) for merge in own["merges"]],
            **{name: None for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")},
            **{name: False for name in ("fuse_unk", "byte_fallback")},
            "ignore_merges": own.get("pre") == "llama-bpe",
        },
    }
    names = {
        f"{name}_token": texts[own[f"{name}_token_id"]]
        for name in ("bos", "eos")
        if own.get(f"{name}_token_id") is not None
    }
    files = {"tokenizer.json": json.dumps(data, ensure_ascii=False).encode()}
    files["tokenizer_config.json"] = json.dumps(names, ensure_ascii=False).encode()
    if isinstance(found.get("tokenizer.chat_template"), str):
        files["chat_template.jinja"] = found["tokenizer.chat_template"].encode()
    return files
