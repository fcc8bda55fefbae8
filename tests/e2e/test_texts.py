"""Text from a terminal: standard output holds what a model wrote and nothing else."""

import io
import json
import sys
from pathlib import Path

import pytest

import nextok_mm as nx


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """Put bytes on standard input."""

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf8"))

    return give


@pytest.fixture
def expected(tiny: Path) -> str:
    return nx.load(tiny / "text", device="cpu").generate(text="the cat", tokens=20, seed=3)[0]


LINE = ("--tokens", 20, "--seed", 3, "--device", "cpu")


@pytest.mark.parametrize("out", [(), ("--out", "-")])
def test_standard_output_is_the_text_alone(nextok, tiny: Path, expected: str, out: tuple[str, ...]) -> None:
    code, said, error = nextok("generate", tiny / "text", "--text", "the cat", *LINE, *out)
    assert (code, said) == (0, expected + "\n")
    assert "1 text, seed 3, " in error and error.count("\n") == 1


def test_a_file_holds_it_as_it_is(nextok, tiny: Path, tmp_path: Path, expected: str) -> None:
    code, said, _ = nextok("generate", tiny / "text", "--text", "the cat", *LINE, "--out", tmp_path / "a.txt")
    assert code == 0 and said.startswith(f"{tmp_path / 'a.txt'}: 1 text, seed 3, ")
    assert (tmp_path / "a.txt").read_bytes() == expected.encode()
    code, _, error = nextok("generate", tiny / "text", "--text", "the cat", "--out", tmp_path / "a.txt")
    assert code == 2 and "exists" in error
    for name, message in (("a.png", "ends with .txt, .md, .jsonl"), ("b", "ends with")):
        code, said, error = nextok("generate", tiny / "text", "--text", "a", "--out", tmp_path / name)
        assert code == 2 and message in error and not said


def test_where_the_text_comes_from(nextok, tiny: Path, tmp_path: Path, typed, expected: str) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    assert nextok("generate", tiny / "text", "--text-file", tmp_path / "a.txt", *LINE)[1] == expected + "\n"
    for option in ("--text", "--text-file"):
        typed(b"the cat")
        assert nextok("generate", tiny / "text", option, "-", *LINE)[1] == expected + "\n"
    code, said, error = nextok("generate", tiny / "text", "--text", "a", "--text-file", tmp_path / "a.txt")
    assert (code, said) == (2, "") and "accepted: one of them" in error


def test_several_texts(nextok, tiny: Path, tmp_path: Path) -> None:
    result = nx.load(tiny / "text", device="cpu").generate(text=["a", "b"], tokens=9, stop=["e"])
    line = ("generate", tiny / "text", "--text", "a", "--text", "b", "--tokens", 9, "--stop", "e", "--device", "cpu")
    assert nextok(*line)[:2] == (0, f"{result}\n")
    assert nextok(*line, "--out", tmp_path / "a.jsonl")[0] == 0
    rows = [json.loads(row) for row in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == result.texts and [row["nextok.text"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "line", "message"),
    [
        (b"ab\xff", ("--text", "-"), "text from standard input: not UTF-8 (byte 2), accepted: UTF-8 text"),
        (b"", ("--text", "-"), "text: got an empty text"),
        (b"x" * 10_000_000, ("--text", "-"), "10000000 letters, more than 79 tokens, accepted: at most 63 tokens"),
        (b"x" * ((16 << 20) + 1), ("--text", "-"), "standard input has more than"),
        (b"", ("--text", "\udcff"), "accepted: valid Unicode"),
        (b"", ("--text", "a", "--labels", "7"), "labels: got ['7'], accepted: text"),
        (b"", ("--text", "a", "--steps", "3"), "steps: no such argument"),
        (b"", ("--text", "a", "--tokens", "0"), "tokens"),
        (b"", ("--text-file", "no.txt"), "text: no file 'no.txt'"),
    ],
)
def test_what_is_not_accepted_is_one_line(nextok, tiny: Path, typed, given: bytes, line, message: str) -> None:
    typed(given)
    code, said, error = nextok("generate", tiny / "text", *line)
    assert (code, said) == (2, "") and message in error and error.count("\n") == 1


def test_pictures_are_not_for_standard_output(nextok, tiny: Path) -> None:
    code, said, error = nextok("generate", tiny / "xar", "--n", 1, "--out", "-")
    assert (code, said) == (2, "") and "accepted: a name that ends with .png" in error


def test_news_are_not_for_it_either(nextok, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from nextok_mm.pipeline import core

    plain = core.results

    def loud(*given):
        logging.getLogger("nextok_mm.pipeline").info("news")
        return plain(*given)

    monkeypatch.setattr(core, "results", loud)
    code, said, error = nextok("generate", tiny / "text", "--text", "a", *LINE)
    assert code == 0 and "news" not in said and error.startswith("news\n")
    assert nextok("generate", tiny / "xar", "--n", 1, "--out", "o.png", "--force")[1].startswith("news\n")
    Path("o.png").unlink()


@pytest.fixture
def talker(tiny: Path, tmp_path: Path) -> Path:
    """A language model whose folder has a chat template."""
    pytest.importorskip("tokenizers")
    import shutil

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path / "talker"
    shutil.copytree(tiny / "text", folder)
    (folder / "bytes.json").unlink()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE({letter: row for row, letter in enumerate(letters)}, []))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    own.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}|{% endfor %}")
    return folder


def test_a_conversation_from_a_pipe(nextok, talker: Path, typed) -> None:
    chat = nx.Chat(nx.load(talker, device="cpu"), tokens=5, seed=2)
    expected = "".join(f"{chat.say(text)}\n" for text in ("one", "two"))
    typed(b"one\r\n\n \ntwo")
    line = ("chat", talker, "--tokens", 5, "--seed", 2, "--device", "cpu")
    assert nextok(*line) == (0, expected, "")
    for given, message in ((b"a\xff\n", "not UTF-8 (byte 1)"), (b"x" * 70 + b"\n", "text: got 70 letters, 70 tokens")):
        typed(given)
        code, said, error = nextok(*line)
        assert (code, said) == (2, "") and message in error and error.count("\n") == 1


def test_a_conversation_by_hand(nextok, talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C stops an answer or throws a line away, a refused message is no end, Ctrl-D is."""
    from nextok_mm.pipeline import chat as chats

    said: list[object] = ["one", KeyboardInterrupt(), "x" * 70, "", "two", EOFError()]

    def typing(mark: str) -> object:
        word = said.pop(0)
        if isinstance(word, BaseException):
            raise word
        return word

    plain, calls = chats.results, []

    def interrupted(*given):
        calls.append(1)
        for result in plain(*given):
            yield result
            if len(calls) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(chats, "results", interrupted)
    monkeypatch.setattr("builtins.input", typing)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    code, out, error = nextok("chat", talker, "--tokens", 5, "--device", "cpu")
    assert code == 0 and len(calls) == 2 and not said and out.count("\n") == 2
    assert "Ctrl-D ends" in error and "(stopped)" in error and "error: text: got 70 letters" in error


def test_a_template_that_loops_or_reaches_out_is_one_line(nextok, talker: Path, typed) -> None:
    for template, message in (
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "ran for more than"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ):
        (talker / "chat_template.jinja").write_text(template)
        typed(b"hello\n")
        code, said, error = nextok("chat", talker, "--device", "cpu")
        assert (code, said) == (2, "") and message in error and error.count("\n") == 1


def test_a_model_without_a_template_does_not_chat(nextok, tiny: Path, typed) -> None:
    typed(b"hello\n")
    code, said, error = nextok("chat", tiny / "text")
    assert (code, said) == (2, "") and "has no chat template, accepted: generate, stream, score" in error
    code, said, error = nextok("chat", tiny / "xar")
    assert (code, said) == (2, "") and "is no language model, accepted: generate, stream" in error


def test_scores_are_printed(nextok, tiny: Path, tmp_path: Path) -> None:
    scores = nx.load(tiny / "text", device="cpu").score(["the cat", "b"], given="a ")
    line = ("score", tiny / "text", "--text", "the cat", "--text", "b", "--given", "a ", "--device", "cpu")
    code, said, error = nextok(*line, "--each", "--out", tmp_path / "s.json")
    assert code == 0 and not error and said.count("\n") == 2 + 7 + 1
    assert said.startswith(
        f"{scores.totals[0]:.3f} nats, 7 tokens, {scores.bits_per_byte[0]:.3f} bits per byte: 'the cat'"
    )
    rows = json.loads((tmp_path / "s.json").read_text())["texts"]
    assert rows[1]["logprob"] == pytest.approx(scores.totals[1]) and len(rows[0]["tokens"]) == 7
    code, said, error = nextok("score", tiny / "text")
    assert (code, said) == (2, "") and "text: got none, accepted: --text or --text-file" in error


def test_info_says_what_it_is_for(nextok, tiny: Path, talker: Path) -> None:
    for folder, tasks in ((tiny / "text", "generate, stream, score"), (talker, "generate, stream, chat, score")):
        code, said, _ = nextok("info", folder)
        rows = dict(row.split(maxsplit=1) for row in said.splitlines() if len(row.split(maxsplit=1)) == 2)
        assert code == 0 and rows["tasks"] == tasks and rows["medium"] == "texts" and "text tokenizer" in said
    assert "medium                   pictures" in nextok("info", tiny / "xar")[1]


def test_a_folder_is_measured(nextok, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTOK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text('{"body": "the cat"}\n{"body": "sat"}\n')
    line = ("eval", tiny / "text", "--data", tmp_path / "text", "--data", "field=body", "--window", 8)
    code, said, error = nextok(*line, "--out", tmp_path / "f.json")
    assert code == 0 and "perplexity" in said and "bits_per_byte" in said and '"documents": 2' not in said, error
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["protocol"]["documents"] == 2 and figures["protocol"]["tokens"] == 10
    code, said, error = nextok("eval", tiny / "text")
    assert (code, said) == (2, "") and "accepted: --data FOLDER" in error
    code, said, error = nextok("eval", tiny / "xar", "--window", 8)
    assert (code, said) == (2, "") and "window: got 8, accepted: none" in error
