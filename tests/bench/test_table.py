"""`nextok bench table`: tables come from the benches' JSON, and every place in the documents is one it can fill."""

import json
import re
from pathlib import Path

import pytest

from nextok_mm import bench
from nextok_mm.bench import table

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
CLAIMS = {
    "cells, seed 0": {"frechet": 0.376, "agreement": 0.8},
    "patches, seed 0": {"frechet": 0.362, "agreement": 0.9},
    "cells, seed 1": {"frechet": 0.382, "agreement": 0.9},
    "patches, seed 1": {"frechet": 0.398, "agreement": 0.9},
}


def test_seeds_are_one_row_and_columns_are_chosen():
    assert table.markdown(CLAIMS, ["frechet"]).splitlines() == [
        "|  | frechet |",
        "| --- | --- |",
        "| cells | 0.379 (0.376, 0.382) |",
        "| patches | 0.38 (0.362, 0.398) |",
    ]
    with pytest.raises(ValueError, match="columns: got 'fid', accepted: frechet, agreement"):
        table.markdown(CLAIMS, ["fid"])


def test_rows_lie_at_any_depth_and_what_is_no_number_is_left_out():
    nested = {"vae": {"1": {"psnr": 12.0, "solver": "ab2"}, "2": {"psnr": 13.5, "n": 12345, "protocol": {}}}}
    assert table.markdown(nested).splitlines()[2:] == ["| vae, 1 | 12 |  |", "| vae, 2 | 13.5 | 12345 |"]
    assert "| elm, 2 | 4.5 |" in table.markdown({"elm": [{"distance": 1.0}, {"distance": 4.5}]})


def test_a_table_is_written_into_its_place_alone(tmp_path, capsys):
    document, other = tmp_path / "xar.md", tmp_path / "elm.md"
    place = "<!-- table claims.json: agreement; frechet -->\n<!-- transcribed -->\n\n| old |\n\n<!-- end of table -->"
    more = "<!-- table steps.json -->\n| kept |\n<!-- end of table -->"
    document.write_text(f"# xAR\n\nbefore\n\n{place}\n\nbetween\n\n{more}\n\nafter\n")
    other.write_text("# ELM\n")
    path = tmp_path / "claims.json"
    path.write_text(json.dumps(CLAIMS))
    for _ in range(2):  # the second time nothing changes
        bench.main(["table", str(path), "--docs", str(tmp_path)])
        assert f"written into {document}\n" == capsys.readouterr().out
        text = document.read_text()
        assert text.startswith("# xAR\n\nbefore\n\n<!-- table claims.json: agreement; frechet -->\n\n|  | agreement |")
        assert text.endswith(f"\n\n<!-- end of table -->\n\nbetween\n\n{more}\n\nafter\n")
        assert "| patches | 0.9 (0.9, 0.9) | 0.38 (0.362, 0.398) |" in text and "old" not in text
    assert other.read_text() == "# ELM\n"
    assert json.loads((tmp_path / "results" / "claims.json").read_text()) == CLAIMS


def test_a_part_of_a_study_and_the_zoo_have_places_too(tmp_path):
    document = tmp_path / "elm.md"
    document.write_text("<!-- table elm.json/sweeps -->\n<!-- end of table -->\n")
    assert table.fill(document, "elm.json", {"entropy": {"a": {"bits": 1.5}}, "sweeps": {"b": {"frechet": 2.5}}})
    assert "| b | 2.5 |" in document.read_text() and "bits" not in document.read_text()
    checkpoints = {"xar": {"pictures": {"shape": [1]}, "figures": {"psnr": 1.5}}}
    document.write_text("<!-- table zoo.json -->\n<!-- end of table -->\n")
    assert table.fill(document, "zoo.json", {"seed": 0, "checkpoints": checkpoints})
    assert document.read_text().splitlines()[2:5] == ["|  | psnr |", "| --- | --- |", "| xar | 1.5 |"]


def test_a_file_without_a_place_is_one_line_or_printed(tmp_path, capsys):
    path = tmp_path / "claims.json"
    path.write_text(json.dumps(CLAIMS))
    with pytest.raises(ValueError, match=r"docs: no place for claims.json in .*, accepted: <!-- table claims.json -->"):
        bench.main(["table", str(path), "--docs", str(tmp_path)])
    bench.main(["table", str(path), "--print"])
    said = capsys.readouterr().out
    assert "| cells | 0.379 (0.376, 0.382) | 0.85 (0.8, 0.9) |" in said and said.count("claims.json") == 1


def test_what_the_zoo_measured_beside_a_checkpoint_has_rows_of_its_own():
    vae = {"n": 7, "figures": {"vae: psnr (pixels)": 12.5, "vae: frechet (judge)": 0.5, "test: agreement (judge)": 0.9}}
    elm = {"n": 9, "figures": {"elm, held out: rank (clip)": 51, "elm, trained: rank (clip)": 17}}
    judge = {"figures": {"test: accuracy (judge)": 0.95}}
    rows = table.parts("zoo.json", {"checkpoints": {"vae": vae, "elm": elm, "judge": judge}})["zoo.json"]
    assert table.markdown(rows, ["n", "psnr (pixels)"]).splitlines()[2:] == ["| vae | 7 | 12.5 |"]
    ranks = table.markdown(rows, ["rank (clip)", "n"]).splitlines()[2:]
    assert ranks == ["| elm, held out | 51 | 9 |", "| elm, trained | 17 | 9 |"]
    assert [line.split(" | ")[0] for line in table.markdown(rows).splitlines()[2:]] == [
        "| vae",
        "| vae, test",
        "| elm, held out",
        "| elm, trained",
        "| judge, test",
    ]


@pytest.mark.parametrize("path", sorted((DOCS / table.RESULTS).glob("*.json")), ids=lambda path: path.name)
def test_documents_and_results_agree(path, tmp_path):
    """Making the tables anew from the kept JSON changes nothing, and each file stands behind one at least."""
    places = []
    for document in DOCS.glob("*.md"):
        copy = tmp_path / document.name
        copy.write_text(document.read_text())
        places.append(table.fill(copy, path.name, json.loads(path.read_text())))
        assert copy.read_text() == document.read_text(), f"nextok bench table {path}"
    assert any(places)


def test_a_changed_result_is_noticed(tmp_path):
    """The test above can fail: another number makes another table."""
    document = tmp_path / "xar.md"
    document.write_text("<!-- table claims.json -->\n<!-- end of table -->\n")
    table.fill(document, "claims.json", CLAIMS)
    before = document.read_text()
    table.fill(document, "claims.json", CLAIMS | {"patches, seed 0": {"frechet": 0.363, "agreement": 0.9}})
    assert document.read_text() != before


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_table_of_the_documents_says_where_it_comes_from(path):
    """A place of JSON that is kept, or that it was transcribed, from what."""
    text = path.read_text()
    assert text.count("<!-- table ") == len(table.PLACE.findall(text)) == text.count("<!-- end of table -->")
    tables = re.findall(r"(?:^|\n)([^\n]*)\n\n?(\|[^\n]*\|)\n\|[-| ]+\|\n", text)
    assert all(
        above.startswith(("<!-- transcribed from", "<!-- table ")) for above, _ in tables[path.name == "README.md" :]
    )
    for place in table.PLACE.finditer(text):
        kept = DOCS / table.RESULTS / place["file"].split("/")[0]
        empty = "\n|" not in place[0]  # its run is not done yet
        assert kept.is_file() or empty or "\n<!-- transcribed from" in place[0], place["file"]
