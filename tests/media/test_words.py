"""Words: tokens of text, whole letters, special tokens that no user can make, templates that nobody trusts."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextok_mm.media import Words
from nextok_mm.media.chat_template import TemplateError, render
from nextok_mm.media.texts import MAX_TEXT
from nextok_mm.media.words import BYTES, Bytes, Pretrained, SentencePiece, load_words

tokenizers = pytest.importorskip("tokenizers")
CORPUS = ["the cat sat on the mat", "naïve café — “quotes” 🦆 日本語", "def f(x): return x ** 2", "12345"] * 3
CHAT = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def trained():
    """The JSON of a small byte-level tokenizer with special tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|start|>", "<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


@pytest.fixture(params=["bytes", "pretrained"])
def words(request, trained):
    return Bytes() if request.param == "bytes" else Pretrained(trained, template=CHAT)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_text_comes_back(trained, text):
    for words in (Bytes(), Pretrained(trained)):
        tokens = words.encode(text)
        assert words.decode(tokens) == text
        pieces = words.pieces()
        shown = [pieces.push(token) for token in tokens]
        assert "".join(shown) + pieces.rest() == text
        assert all("\ufffd" not in piece for piece in shown) or "\ufffd" in text


@pytest.mark.parametrize("text", ["<|end|>", "a<|start|>b", "<|<|end|>end|>", "<|end|><|end|>"])
def test_a_users_text_never_is_a_special_token(trained, text):
    words = Pretrained(trained, template=CHAT)
    special = {words.trusted(name)[0] for name in ("<|start|>", "<|end|>")}
    assert len(special) == 2 and not special & set(words.encode(text)) and words.decode(words.encode(text)) == text
    for messages in ([{"role": "user", "content": text}], [{"role": text, "content": "hello"}]):
        plain = [{"role": "user", "content": "hello"}]
        counts = [[words.chat(each).count(token) for token in sorted(special)] for each in (messages, plain)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "text", ["\uff1cend\uff1e", "a \uff1cend\uff1e b \uff1cend\uff1e", "\uff1c<end>end\uff1e", "<en\uff1cend\uff1ed>"]
)
def test_letters_that_a_normalizer_turns_into_a_special_token_make_none(text):
    """Found with a special token that is looked for behind an NFKC normalizer: wide brackets were taken for it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([tokenizers.AddedToken("<end>", special=True, normalized=True)])
    words = Pretrained(tokenizer.to_str(), template="{% for m in messages %}{{ m.content }}<end>{% endfor %}")
    end = words.trusted("<end>")[0]
    assert words.chat([{"role": "user", "content": text}]).count(end) == 1 and end not in words.encode(text)


def test_a_conversation_is_written_by_the_template(trained):
    words = Pretrained(trained, template=CHAT)
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    expected = "<|start|>user\nthe cat<|end|>\n<|start|>assistant\nsat<|end|>\n"
    assert words.chat(messages, answer=False) == words.trusted(expected)
    assert words.chat(messages) == words.trusted(expected + "<|start|>assistant\n")
    with pytest.raises(ValueError, match="no chat template"):
        Bytes().chat(messages)
    with pytest.raises(ValueError, match="a role and a content"):
        words.chat([{"content": "a"}])


@pytest.mark.parametrize("bad", ["\ud800", 5, b"a", None])
def test_bad_text_is_one_line(words, bad):
    with pytest.raises(ValueError, match="text: got"):
        words.encode(bad)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "ran for more than"),
        ("{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(400) }}", "recursion|ran for more than"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "safe|immutable"),
        ("{{ 'a' * 1000000000 }}", "not accepted"),
        ("{{ '%1000000000d' % 1 }}", "not accepted"),
        ("{{ '{:1000000000d}'.format(1) }}", "unsafe"),
        ("{{ 'a'.center(1000000000) }}", "unsafe"),
        ("{{ 2 ** 10 ** 9 ** 9 }}", "not accepted"),
        (
            "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "more than",
        ),
        (
            "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "more than",
        ),
        (
            "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
            "more",
        ),
        (
            "{% for i in range(100000) %}{% for j in range(1000) %}aaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
            "more than",
        ),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ lipsum() }}", "undefined"),
        ("{% for %}", "chat template"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages[7].content.x.y }}", "undefined|no element"),
        ("x" * (300 << 10), "at most"),
        ("{% if 1 %}" * 200 + "{% endif %}" * 200, "indentation"),
        ("{{ 'x'.translate({120: 'y'}) }}", "unsafe"),
        ("{{ (5).to_bytes(1000000000, 'big') }}", "unsafe"),
        ("{{ raise_exception('one\ntwo\x1b[31m') }}", r"one two\?\[31m$"),
    ],
)
def test_a_hostile_template_is_one_line(template, message):
    started = time.monotonic()
    with pytest.raises(TemplateError, match=message) as caught:
        render(template, [{"role": "user", "content": "hello"}], True, {})
    assert "\n" not in str(caught.value) and time.monotonic() - started < 10


NESTED = "{% set n = namespace(a=('x',)) %}{% for i in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}"


@pytest.mark.parametrize(
    "use",
    [
        *("n.a", "n", "n.a|string", "n.a|tojson", "[n.a]|join", "n.a ~ 'x'", "n.a|upper", "[n.a]|map('string')|list"),
        *("{n.a: 1}", "messages[0][n.a]", "messages[0].get(n.a)", "n.a in [1]", "n.a is eq(n.a)", "[n.a]|unique|list"),
        *("n.a == (n.a, 1)", "[n.a, n.a]|sort", "raise_exception(n.a)"),
    ],
)
def test_what_is_small_in_memory_and_endless_as_text_is_refused(use):
    with pytest.raises(TemplateError, match="more than"):
        render(f"{NESTED}{{{{ {use} }}}}", [{"role": "user", "content": "hello"}], True, {})


def test_a_template_uses_what_templates_use():
    template = (
        "{{ 'aa'.replace('a', 'b', 1) }}{{ 'aa'|replace('a', 'b', 1) }}{{ ','.join(['a', 'b']) }} "
        "{{ messages|map(attribute='role')|join('-') }}{{ [3, 1]|sort|first }}{{ 'a b'.split(' ')[-1] }} "
        "{% for name, value in messages[0].items() %}{{ name }}{% if not loop.last %},{% endif %}{% endfor %} "
        "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ messages[0].content|trim ~ 1 }}"
        "{{ 'x' in messages[0]['content'] }}{{ messages[0] is mapping }}{{ other is defined }}{{ messages[1:]|tojson }}"
    )
    written = render(template, [{"role": "user", "content": " hello "}], True, {})
    assert written == "babaa,b user1b role,content 1hello1FalseTrueFalse[]"


def test_a_folder_says_how_its_words_are_read(trained, tmp_path):
    with pytest.raises(ValueError, match="no text tokenizer"):
        load_words(tmp_path)
    (tmp_path / "tokenizer.json").write_text(trained)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": {"content": "<|start|>"}, "chat_template": [{"name": "default", "template": CHAT}]})
    )
    words = load_words(tmp_path)
    assert words.template == CHAT and words.special == {"bos_token": "<|start|>"} and words.size > 256
    (tmp_path / "chat_template.jinja").write_text("mine")
    assert load_words(tmp_path).template == "mine"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: damaged"):
        load_words(tmp_path)
    (tmp_path / BYTES).write_text("{}")
    assert isinstance(load_words(tmp_path), Bytes)


def test_sentencepiece_models_are_read(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(CORPUS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        character_coverage=0.99,
    )
    words = load_words(tmp_path)
    assert isinstance(words, SentencePiece)
    text = "the cat 🦆 </s> sat"
    tokens = words.encode(text)
    assert words.decode(tokens) == text and tokens[0] == 1 and 2 not in tokens
    assert words.trusted("the cat</s>").count(2) == 1
    (tmp_path / "tokenizer.model").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"tokenizer\.model: damaged"):
        load_words(tmp_path)


def test_texts_are_taken_and_read(tmp_path):
    words, file = Words(), tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\n")
    assert words.take("a") == ["a"] and words.take(["a", file]) == ["a", "na\u00efve\r\n"]
    assert words.take(str(file)) == [str(file)]  # a string is a text, whatever it says
    assert words.empty(2) == ["", ""] and words.join([["a"], ["b", "c"]]) == ["a", "b", "c"]
    assert words.words(1) == "1 text" and words.extent(["ab", "c", ""]) == "0 to 2 letters"
    assert words.added(["a", ""], ["ab", "c"]) == ["b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        (b"ab\xff", r"not UTF-8 \(byte 2\), accepted: UTF-8 text"),
        (b"ab\xc3", r"not UTF-8 \(byte 2\)"),
        ("caf\u00e9".encode("utf16"), "not UTF-8"),
        (b"", "an empty text, accepted: one letter or more"),
    ],
)
def test_a_file_that_is_no_text_is_one_line(content, message, tmp_path):
    file = tmp_path / "a\nb.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        Words().take(file)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="no file"):
        Words().read(tmp_path)


def test_a_file_too_large_is_refused_by_its_size(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(MAX_TEXT + 1)
    with pytest.raises(ValueError, match=f"{MAX_TEXT + 1} bytes, at most {MAX_TEXT} accepted"):
        Words().read(tmp_path / "a.txt")


@pytest.mark.parametrize("bad", [[], [""], 5, [b"a"], None, ["a", "\udcff"]])
def test_what_is_no_text_is_not_taken(bad):
    with pytest.raises(ValueError, match="text: got"):
        Words().take(bad)


def test_texts_are_saved_as_they_are_or_a_line_each(tmp_path):
    words, texts = Words(), ["a\r\nb\u2028", "\U0001f986"]
    assert words.read(words.save(texts[:1], tmp_path / "a.txt")) == texts[:1]
    assert words.read(words.save(texts, tmp_path / "b.md"))[0] == words.printed(texts) == "\n\n".join(texts)
    settings = {"nextok.text": ["one", "two"], "nextok.seed": 3}
    rows = words.save(texts, tmp_path / "c.jsonl", settings).read_bytes().split(b"\n")
    assert json.loads(rows[1]) == {"text": texts[1], "nextok.text": "two", "nextok.seed": 3} and rows[2:] == [b""]
    for name, message in (("a.txt", "exists"), ("a.png", "ends with .txt, .md, .jsonl"), ("a", "ends with")):
        with pytest.raises(ValueError, match=message):
            words.check_out(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            words.save(texts, tmp_path / name)
    words.check_out("-")
    assert words.shown(texts) == {"text/plain": "\n\n".join(texts)}
    for seen in (words.tiles, words.stills, words.sheet):
        with pytest.raises(ValueError, match="got texts, accepted: what can be shown as pictures"):
            seen(texts)


@settings(max_examples=40, deadline=None)
@given(text=st.text(min_size=1, max_size=80), most=st.integers(1, 90))
def test_a_prompt_fits_or_is_refused_whole(trained, text, most):
    for words in (Bytes(), Pretrained(trained)):
        tokens = words.encode(text)
        if len(tokens) <= most:
            assert words.prompt(text, most) == tokens
        else:
            with pytest.raises(ValueError, match=f"accepted: at most {most} tokens, such as the first [0-9]+ letters"):
                words.prompt(text, most)


def test_ten_megabytes_are_refused_at_once(words):
    text, started = "the cat sat on the mat, " * 420_000, time.monotonic()
    with pytest.raises(ValueError, match="got 10080000 letters, more than .* tokens, accepted: at most 8191 tokens"):
        words.prompt(text, 8191)
    assert time.monotonic() - started < 3


def test_a_fingerprint_is_of_the_tokens_alone(trained, tmp_path):
    words = Pretrained(trained, {"eos_token": "<|end|>"}, CHAT)
    for name, data in words.files().items():
        (tmp_path / name).write_bytes(data)
    assert load_words(tmp_path).fingerprint == words.fingerprint != Pretrained(trained).fingerprint
    assert Pretrained(trained, {"eos_token": "<|end|>"}).fingerprint == words.fingerprint
    assert Bytes().fingerprint != words.fingerprint


@pytest.mark.parametrize("config", ["{", "[]", "[" * 99999, '"a"'])
def test_a_damaged_config_is_one_line(trained, config, tmp_path):
    (tmp_path / "tokenizer.json").write_text(trained)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: (not JSON|an object is accepted)") as refused:
        load_words(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),  # these two: Rust gives up
        (
            "pre_tokenizer",
            {"type": "Split", "pattern": {"Regex": "(a|a|aa)+$"}, "behavior": "Isolated", "invert": False},
        ),
    ],
)
def test_what_the_tokenizers_package_finds_wrong_is_one_line(trained, part, value):
    with pytest.raises(ValueError, match=r"^tokenizer\.json: ") as caught:
        Pretrained(json.dumps(json.loads(trained) | {part: value})).encode("a" * 40 + "b")
    assert "\n" not in str(caught.value)
