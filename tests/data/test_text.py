"""Text as rows of tokens: which documents, in which order, and what isn't text."""

import json

import pytest
import torch

from nextok_mm import data
from nextok_mm.media.words import Bytes


def source(path, **fields):
    return data.parse({"kind": "text", "path": str(path), "length": 8, "held_out": 0, **fields}).open()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.txt").write_text("second naïve")
    (tmp_path / "a.md").write_text("\ufefffirst", encoding="utf8")
    (tmp_path / "c.jsonl").write_text('{"text": "third"}\n\n{"text": "fourth", "n": 1}\n')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.TXT").write_text("last")
    (tmp_path / "sub" / "d.html").write_text("not taken: another ending")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "e.txt").write_text("not taken: hidden")
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "f.txt").write_text("not taken: a file server's own")
    return tmp_path


def test_documents_lie_behind_each_other(folder):
    text = source(folder)
    words = Bytes()
    expected = [
        token for each in ("first", "second naïve", "third", "fourth", "last") for token in [*words.encode(each), 257]
    ]
    assert text.documents == 5 and text.tokens.tolist() == expected and len(text) == len(expected) // 8
    batch = text.batch([1, 0])
    assert batch["tokens"].dtype == torch.int64 and batch["tokens"].tolist() == [expected[8:16], expected[:8]]


def test_held_out_documents_are_never_trained_on(tmp_path):
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text(f"document number {number}")
    train, test = (source(tmp_path, held_out=5, split=split) for split in ("train", "test"))
    assert train.documents + test.documents == 200 and 20 < test.documents < 60
    both = [Bytes().decode(part.tokens.tolist()) for part in (train, test)]
    (tmp_path / "0.txt").write_text("document number 0")
    assert both == [Bytes().decode(source(tmp_path, held_out=5, split=s).tokens.tolist()) for s in ("train", "test")]


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["one", None, "two"]}), tmp_path / "a.parquet")
    assert source(tmp_path / "a.parquet", field="body").documents == 2
    with pytest.raises(ValueError, match="no column 'text', it has body"):
        source(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok \xff\xfe", r"a\.txt: not UTF-8 \(byte 3\)"),
        ("a.txt", b"short", "7 tokens in 1 documents of the split train, accepted: 8 or more"),
        ("a.jsonl", b'{"text": "x"}\n{no}\n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", json.dumps({"body": "x"}).encode(), "line 1 has no text 'text', it has body"),
        ("a.jsonl", b"[1]", "line 1 has no text 'text', it has list"),
        ("a.jsonl", b'{"text": "\xff"}', "not UTF-8"),
        ("a.png", b"", "no text in it"),
    ],
)
def test_what_is_no_text_is_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        source(tmp_path)
    with pytest.raises(ValueError, match=r"data\.path: got .*nothing"):
        source(tmp_path / "nothing")


def test_half_a_letter_in_json_is_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "whole \\ud83d\\ude42"}\n{"text": "half \\ud800"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: half a letter"):
        list(data.text.read(tmp_path))
