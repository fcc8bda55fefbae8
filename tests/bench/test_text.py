"""`nextok bench text` from end to end on a small folder, with a model that knows nothing."""

import json

import pytest

from nextok_mm import bench, registry
from nextok_mm.bench import text
from nextok_mm.checkpoint import save_pretrained
from nextok_mm.files import write_files
from nextok_mm.media.words import Bytes


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"page {number} says what page {number - 1} said, and no more\n" * 3)
    return folder


def test_all_rows_by_the_same_bytes_and_gone_on_with(pages, tmp_path, capsys, monkeypatch):
    model = registry.build("generator", "language", {"size": "tiny", "vocabulary": 258, "begin": 256, "ends": [257]})
    save_pretrained(model, tmp_path / "model")
    write_files(tmp_path / "model", Bytes().files())
    line = ["text", "--model", str(tmp_path / "model"), "--data", f"path={pages}", "--data", "held_out=4"]
    line += ["--out", str(tmp_path / "out")]
    bench.main(line)
    found = json.loads((tmp_path / "out" / "text.json").read_text())
    assert len(found) == 5 and len({row["bytes"] for row in found.values()}) == 1
    bits = {name: row["bits per byte"] for name, row in found.items()}
    assert bits["5-grams of bytes"] == bits["5-grams of the model's tokens"]
    assert bits["5-grams of bytes"] < 1
    assert bits["xz -9 of these pages behind the training text"] < bits["xz -9 of these pages alone"] < 4
    assert 6 < bits[str(tmp_path / "model")] < 10
    assert capsys.readouterr().out.count("bits per byte") == 5
    monkeypatch.setattr(text, "xz", None)
    bench.main(line)  # nothing is measured again
    assert json.loads((tmp_path / "out" / "text.json").read_text()) == found


def test_pages_that_none_holds_out_are_one_line(pages, tmp_path):
    line = ["text", "--data", f"path={pages}", "--out", str(tmp_path), "--data"]
    with pytest.raises(ValueError, match="held_out: got 0"):
        bench.main([*line, "held_out=0"])
    with pytest.raises(ValueError, match="0 held out, accepted: both"):
        bench.main([*line, "held_out=1000000"])
    assert not list(tmp_path.glob("*.json"))
