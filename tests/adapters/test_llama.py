"""The Llama family: beside transformers' own models at tiny odd sizes, from folders, shards and GGUF files."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nextok_mm import registry
from nextok_mm.adapters import llama
from nextok_mm.decoding import decode
from nextok_mm.rng import Rng

transformers = pytest.importorskip("transformers")

SHAPE = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5e4,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
FAMILIES = {
    "llama2": ("Llama", dict(tie_word_embeddings=False)),
    "llama3": ("Llama", dict(tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "mistral": ("Mistral", dict(sliding_window=7, attn_implementation="eager", tie_word_embeddings=False)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=False)),
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True)),
}


def official(family, **other):
    """A random model as transformers makes it, no weight at a special value."""
    name, fields = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **fields, **other})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def ours(folder):
    fields, state = llama.read(folder)
    model = registry.build("generator", "language", fields).eval()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family, tmp_path):
    theirs = official(family)
    theirs.save_pretrained(tmp_path)
    model = ours(tmp_path)
    tokens = torch.randint(3, 97, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)
    prompts = [tokens[0, :5], tokens[1, :11], tokens[0, 10:15]]
    greedy = model.Sampling(temperature=0, tokens=64)
    *_, together = decode(model, model.start({"tokens": prompts}, Rng(range(3)), greedy))
    for row, prompt in enumerate(prompts):
        expected = theirs.generate(prompt[None], max_new_tokens=64, do_sample=False, pad_token_id=0)[0, len(prompt) :]
        *_, alone = decode(model, model.start({"tokens": [prompt]}, Rng([row]), greedy))
        assert alone.data[0].tolist() == expected.tolist()
        assert together.data[row, : together.lengths_B[row]].tolist() == expected.tolist()


def test_shards_are_one_model(tmp_path):
    theirs = official("qwen2")
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.randint(3, 97, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(ours(tmp_path).logits(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)
    index = tmp_path / "model.safetensors.index.json"
    named = json.loads(index.read_text())
    shard = tmp_path / sorted(set(named["weight_map"].values()))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        llama.read(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match="no file .*model-00001"):
        llama.read(tmp_path)
    for other, message in (("../" + shard.name, "accepted: one beside it"), (5, "file names by weight")):
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": other}}))
        with pytest.raises(ValueError, match=message):
            llama.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_type", "gemma2", "model_type: got 'gemma2', accepted: llama, mistral"),
        ("hidden_act", "gelu", "hidden_act: got 'gelu', accepted: 'silu'"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor: got 0.5"),
        ("attention_bias", True, "attention_bias"),
        ("mlp_bias", True, "mlp_bias"),
        ("num_local_experts", 8, "num_local_experts: got 8, .* isn't known here"),
        ("attn_logit_softcapping", 50.0, "attn_logit_softcapping"),
        ("quantization_config", {"bits": 4}, "quantization_config"),
        ("sliding_window", 4096, "sliding_window: got 4096"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "rope_scaling: got .*yarn.*, accepted: the default, or"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope_scaling"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 2.0}, "rope_scaling"),
        ("layer_types", ["full_attention", "linear_attention", "full_attention"], "layer_types"),
        ("head_dim", 7, "head_dim"),
        ("num_key_value_heads", 4, "kv_heads"),
        ("vocab_size", "many", "vocabulary"),
    ],
)
def test_a_field_that_changes_the_computation_is_refused_by_name(field, value, message, tmp_path):
    config = {**SHAPE, "model_type": "llama", "rope_theta": 1e4, field: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.embed_tokens.weight": torch.zeros(97, 48)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        registry.build("generator", "language", llama.read(tmp_path)[0])


def test_an_unknown_weight_is_refused(tmp_path):
    official("llama2").save_pretrained(tmp_path)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "model.layers.0.self_attn.gate.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.layers.0.self_attn.gate.weight' isn't known"):
        llama.read(tmp_path)


def gguf_file(path, kind, model, quantized="Q8_0", **other):
    """A GGUF file of a transformers model, rows of Llama's queries and keys reordered as llama.cpp wants them."""
    gguf = pytest.importorskip("gguf")
    writer, config = gguf.GGUFWriter(path, kind), model.config
    fields = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        **other,
    }
    for name, value in fields.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(f"{kind}.{name}", value)
    writer.add_float32(f"{kind}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    names = {ours: theirs for theirs, ours in _names().items()}
    for name, weight in model.state_dict().items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        stem, _, ending = name.rpartition(".")
        if stem.startswith("model.layers."):
            layer, _, rest = stem.removeprefix("model.layers.").partition(".")
            stem = f"blk.{layer}.{names[rest]}"
        else:
            stem = names[stem]
        for part, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
            if kind == "llama" and stem.endswith(part):
                weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        kind_of = gguf.GGMLQuantizationType[quantized if weight.dim() == 2 else "F32"]
        data = gguf.quants.quantize(weight.numpy(), kind_of)
        writer.add_tensor(f"{stem}.{ending}", data, raw_dtype=kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _names():
    from nextok_mm.adapters import _gguf

    return {**_gguf._TOP, **_gguf._LAYER}


@pytest.mark.parametrize(("family", "kind"), [("llama2", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")])
@pytest.mark.parametrize(
    ("quantized", "most"), [("F32", 1e-5), ("F16", 0.01), ("BF16", 0.1), ("Q8_0", 0.1), ("Q4_1", 2)]
)
def test_gguf_is_the_same_model(family, kind, quantized, most, tmp_path):
    theirs = official(family, hidden_size=96, intermediate_size=64, head_dim=16)
    path = gguf_file(tmp_path / "a.gguf", kind, theirs, quantized, **{"attention.key_length": 16})
    tokens = torch.randint(3, 97, (1, 20))
    with torch.no_grad():
        found, expected = ours(path).logits(tokens), theirs(tokens).logits
    assert (found - expected).abs().mean() <= most * expected.abs().mean()


@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        ("gemma", {}, "architecture: got 'gemma', accepted: llama, qwen2, qwen3"),
        ("llama", {"expert_count": 4}, "expert_count: got 4"),
        ("llama", {"rope.scaling.type": "yarn"}, "rope.scaling.type: got 'yarn'"),
        ("llama", {"rope.dimension_count": 4}, "rope.dimension_count: got 4, accepted: 8"),
    ],
)
def test_another_gguf_is_one_line(kind, other, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        llama.read(gguf_file(tmp_path / "a.gguf", kind, official("llama2"), "F32", **other))


def test_a_damaged_gguf_is_one_line(tmp_path):
    path = gguf_file(tmp_path / "a.gguf", "llama", official("llama2"), "F32")
    whole = path.read_bytes()
    for size in (0, 3, 20, 200, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="gguf .*a.gguf|llama checkpoint"):
            llama.read(path)
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(ValueError, match=r"a folder in the hub's form, or a \.gguf file"):
        llama.read(tmp_path / "a.txt")
