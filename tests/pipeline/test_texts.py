"""A pipeline of a language model: prompts to texts, a row by itself, whole letters, stop words, published folders."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nextok_mm as nx
from nextok_mm.checkpoint import read_card, resolve
from nextok_mm.decoding.texts import Text
from nextok_mm.media import Words
from nextok_mm.media.words import Bytes
from nextok_mm.pipeline import medium_of

PROMPTS = ["the cat", "a", "naïve café"]


@pytest.fixture
def text(tiny: Path) -> nx.Pipeline:
    return nx.load(tiny / "text", device="cpu")


def test_it_says_what_it_does(text: nx.Pipeline, tiny: Path) -> None:
    assert text.tasks == ("generate", "stream", "score") and isinstance(text.medium, Words)
    assert repr(text) == "<Pipeline tiny-text: generator language, generate, stream, score, on cpu>"
    assert medium_of(tiny / "text") == Words() and text.tokenizer is None and isinstance(text.words, Bytes)
    for verb in (lambda: text.tokenize("a"), lambda: text.reconstruct("a"), lambda: text.detokenize([1])):
        with pytest.raises(ValueError, match="tiny-text writes texts, accepted: generate, stream, score"):
            verb()


def test_a_result_of_texts(text: nx.Pipeline, tmp_path: Path) -> None:
    result = text.generate(text=PROMPTS, tokens=12, seed=3)
    assert len(result) == 3 and list(result) == result.texts == [result[i] for i in range(3)]
    assert result.text == PROMPTS and result.finished == result.total <= 12 and result.calls == result.finished
    assert str(result) == "\n\n".join(result.texts) and "3 texts of" in repr(result) and "\n" not in repr(result)
    assert result._repr_mimebundle_()["text/plain"] == str(result) and result._repr_png_() is None
    assert "image/png" not in result._repr_mimebundle_() and not hasattr(result, "images")
    row = json.loads(result.save(tmp_path / "a.jsonl").read_text().splitlines()[2])
    assert row["text"] == result[2] and row["nextok.text"] == PROMPTS[2] and row["nextok.sampling"]["tokens"] == 12
    for made, tokens in zip(result, result.tokens.data):
        assert Bytes().decode([token for token in tokens.tolist() if token >= 0]).rstrip("\ufffd") == made
    with pytest.raises(ValueError, match="got texts, accepted: what can be shown as pictures"):
        result.pil()


def test_a_row_is_what_it_is_alone(text: nx.Pipeline) -> None:
    whole = text.generate(text=PROMPTS, n=5, tokens=20, seed=1, temperature=0.8)
    split = text.generate(text=PROMPTS, n=5, tokens=20, seed=1, temperature=0.8, batch=2)
    *_, last = text.stream(text=PROMPTS, n=5, tokens=20, seed=1, temperature=0.8, rows=range(4, 5))
    assert whole.texts == split.texts and last.texts == whole.texts[4:] and last.text == [PROMPTS[1]]
    assert whole.texts[0] != whole.texts[3]  # the same prompt, another row's stream
    assert split.tokens.data.shape == whole.tokens.data.shape and torch.equal(split.tokens.data, whole.tokens.data)


def test_a_stream_grows_by_whole_letters(text: nx.Pipeline) -> None:
    partial = list(text.stream(text=PROMPTS, tokens=30, seed=5))
    for before, now in pairwise(partial):
        assert all(b.startswith(a) for a, b in zip(before, now))
    assert ["".join(each.added[row] for each in partial) for row in range(3)] == partial[-1].texts
    assert partial[-1].texts == text.generate(text=PROMPTS, tokens=30, seed=5).texts
    assert not any(each.endswith("\ufffd") for result in partial for each in result)


def test_a_prompt_can_be_left_out(text: nx.Pipeline) -> None:
    result = text.generate(tokens=4, n=2)
    assert len(result) == 2 and result.condition == {} and result.text is None


def test_stop_words_end_a_row_and_no_other(text: nx.Pipeline) -> None:
    free = text.generate(text=PROMPTS, tokens=40, seed=2)
    word = free[0][5:7]
    held = text.generate(text=PROMPTS, tokens=40, seed=2, stop=[word, "never there"])
    assert [each.split(word)[0] for each in free] == held.texts and held.sampling["stop"] == [word, "never there"]
    assert len(held[0]) <= 5 < len(free[0])
    *partial, last = text.stream(text=PROMPTS[0], tokens=40, seed=2, stop=word)
    assert last.texts == held.texts[:1] and last.finished < 40 and last.finished == last.total
    assert all(last[0].startswith(each[0]) for each in partial)


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_nothing_of_a_stop_word_is_ever_shown(text: str, stop: list[str]) -> None:
    """Letter by letter: what is shown only grows, up to the first place where a stop word is complete."""
    row, shown = Text(Bytes(), stop), [""]
    tokens = list(text.encode())
    for count in range(len(tokens) + 1):
        if not row.ended:
            row.push(tokens[row.read : count], count == len(tokens))
        shown.append(row.shown)
    assert all(b.startswith(a) for a, b in pairwise(shown))
    first = next((end for end in range(len(text) + 1) if any(text[:end].endswith(word) for word in stop)), None)
    expected = text if first is None else text[: min(text[:first].find(w) for w in stop if w in text[:first])]
    assert shown[-1] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(text=""), "text: got an empty text, accepted: one letter or more"),
        (dict(text=[]), "text: got none in the list"),
        (dict(text=5), "text: got 5"),
        (dict(text="\ud800"), "text: got .*, accepted: valid Unicode"),
        (dict(text="x" * 64), "64 letters, 65 tokens, accepted: at most 63 tokens, such as the first 62 letters"),
        (dict(text="x" * 10**7), "10000000 letters, more than 79 tokens, accepted: at most 63"),
        (dict(text="a", labels=[1]), "labels: got .*, accepted: text, tiny-text reads prompts"),
        (dict(text="a", stop=5), "stop: got 5"),
        (dict(text="a", stop=["", "b"]), "stop: got ''"),
        (dict(text="a", stop=["b"] * 99), "stop: got .* at most 64"),
        (dict(text="a", temperature=-1), r"sampling\.temperature"),
        (dict(text="a", tokens=0), r"sampling\.tokens"),
        (dict(text="a", max_new_tokens=3), "accepted: tokens="),
        (dict(text="a", prompt="b"), "accepted: text="),
        (dict(text="a", n=0), "n: got 0"),
        (dict(text="a", known=nx.Known(torch.zeros(1, 4).long(), torch.ones(4) > 0)), "known: got known tokens"),
    ],
)
def test_what_is_not_accepted_is_named(text: nx.Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        text.generate(**arguments)
    assert "\n" not in str(refused.value)


def test_pictures_have_no_stop_words(tiny: Path) -> None:
    with pytest.raises(ValueError, match="stop: got .*, accepted: none, since samples of this model are no texts"):
        nx.load(tiny / "xar", device="cpu").generate(stop="a")


def test_a_pipeline_is_a_folder(text: nx.Pipeline, tmp_path: Path) -> None:
    text.save_pretrained(tmp_path / "it")
    text.save_pretrained(tmp_path / "it")  # over itself
    shutil.move(tmp_path / "it", tmp_path / "moved")
    again = nx.load(tmp_path / "moved", device="cpu")
    assert again.generate(text="a", tokens=9).texts == text.generate(text="a", tokens=9).texts
    assert again.card.tokenizer_fingerprint == Bytes().fingerprint
    page = (tmp_path / "moved" / "README.md").read_text()
    line = next(line for line in page.splitlines() if "nx.load" in line)
    assert line == 'print(nx.load("path/to/it").generate(text="Once upon a time", tokens=50, seed=0))'


def other_words(folder: Path) -> None:
    """A text tokenizer of 20 tokens into a checkpoint's folder."""
    tokenizers = pytest.importorskip("tokenizers")
    (folder / "bytes.json").unlink()
    vocabulary = {chr(97 + i): i for i in range(20)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "a")).save(str(folder / "tokenizer.json"))


def test_a_text_tokenizer_of_another_model_is_refused(text: nx.Pipeline, tiny: Path, tmp_path: Path) -> None:
    text.save_pretrained(tmp_path / "a")
    other_words(tmp_path / "a")
    with pytest.raises(ValueError, match="got the text tokenizer .*, accepted: .*, with which tiny-text was"):
        nx.load(tmp_path / "a")
    shutil.copytree(tiny / "text", tmp_path / "b")
    other_words(tmp_path / "b")
    with pytest.raises(ValueError, match="text tokenizer of 20 tokens, accepted: one of the 258 tokens of tiny-text"):
        nx.load(tmp_path / "b")
    assert nx.load(tmp_path / "b", tokenizer=tiny / "text").generate(text="a", tokens=2).finished <= 2
    (tmp_path / "b" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no text tokenizer, accepted: tokenizer.json or tokenizer.model"):
        nx.load(tmp_path / "b")


# Published folders, as they are


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tiny Llama as transformers saves it, in several files, with a text tokenizer of its own."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=256)
    config = transformers.LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=64, eos_token_id=2)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "llama", max_shard_size="30KB")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    own = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    own.save(str(tmp_path / "llama" / "tokenizer.json"))
    return tmp_path / "llama"


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_published_folder_is_loaded_as_it_is(published: Path, tmp_path: Path, dtype: str | None) -> None:
    from nextok_mm import adapters

    before = sorted(path.name for path in published.iterdir())
    pipeline = nx.load(published, device="cpu", dtype=dtype)
    assert sorted(path.name for path in published.iterdir()) == before and len(before) > 4
    kind = torch.bfloat16 if dtype else torch.float32
    assert {tensor.dtype for tensor in pipeline.generator.state_dict().values()} == {kind}
    adapters.convert("llama", published, tmp_path / "ours")
    ours = nx.load(tmp_path / "ours", device="cpu", dtype=dtype)
    options = dict(text=["ab", "c"], tokens=10, temperature=0)
    assert pipeline.generate(**options).texts == ours.generate(**options).texts
    assert ours.card.tokenizer_fingerprint == pipeline.words.fingerprint
    assert pipeline.generator.config == ours.generator.config
    pipeline.save_pretrained(tmp_path / "saved")
    assert nx.load(tmp_path / "saved", device="cpu").generate(**options).text == ["ab", "c"]


def test_a_hub_id_comes_with_its_text_tokenizer(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By huggingface_hub, which is asked for what the folder holds, and for nothing that could be code."""
    import fnmatch

    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert nx.load("owner/llama", revision="main", device="cpu").generate(text="ab", tokens=3).finished == 3
    assert (asked["name"], asked["revision"]) == ("owner/llama", "main")
    for path in published.iterdir():
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in asked["patterns"]), path.name
    for name in ("modeling.py", "pytorch_model.bin", "tokenizer.py"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in asked["patterns"])


def test_damaged_published_folders_are_one_line(published: Path) -> None:
    index = json.loads((published / "model.safetensors.index.json").read_text())
    shard = published / sorted(set(index["weight_map"].values()))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        nx.load(published)
    shard.unlink()
    with pytest.raises(ValueError, match="no file .*model-00001"):
        nx.load(published)
    shard.write_bytes(whole)
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(ValueError, match="size mismatch") as refused:
        nx.load(published)
    assert "\n" not in str(refused.value)
    (published / "config.json").write_text(json.dumps(config | {"model_type": "gemma2"}))
    with pytest.raises(ValueError, match="a transformers folder, not one of nextok_mm"):
        nx.load(published)


def test_a_gguf_file_is_loaded_alone_or_in_a_folder(tmp_path: Path) -> None:
    from ..adapters.test_llama import gguf_file, official

    gguf = pytest.importorskip("gguf")
    path = gguf_file(tmp_path / "a.gguf", "llama", official("llama2"), "F32")
    with pytest.raises(ValueError, match="text tokenizer"):
        nx.load(path)
    assert resolve(path) == path and read_card(tmp_path).fields["vocabulary"] == 97
    shutil.copy(path, tmp_path / "b.gguf")
    with pytest.raises(ValueError, match="got a.gguf, b.gguf, accepted: one GGUF file in a folder, or its own name"):
        nx.load(tmp_path)
    gguf_file(tmp_path / "b.gguf", "gemma", official("llama2"), "F32")
    with pytest.raises(ValueError, match="architecture: got 'gemma', accepted: llama, qwen2, qwen3"):
        nx.load(tmp_path / "b.gguf")
    assert gguf


MEMORY = """
import resource, sys, torch
import nextok_mm as nx
from nextok_mm import checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model, _ = checkpoint.from_pretrained(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(1024 * (after - before) / sum(4 * parameter.numel() for parameter in model.parameters()))
"""


@pytest.mark.slow
def test_published_weights_are_not_held_twice(tmp_path: Path) -> None:
    """Of a model of 100 MB the process grows by less than one and a half times that while it is read."""
    transformers = pytest.importorskip("transformers")
    shape = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=5, num_attention_heads=8, vocab_size=4000)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).half().save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.8, done.stdout
