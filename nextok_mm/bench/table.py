"""The Markdown table of a bench's or a study's JSON, written where the documents keep its place, so nothing is copied.

    nextok bench table runs/claims/claims.json                into docs/benchmarks/*.md
    nextok bench table runs/claims/claims.json --print        on the terminal, all columns

A place is a pair of comments around the table, which names the file and may choose rows and columns by their names:

    <!-- table claims.json: frechet (fashion-judge); agreement (fashion-judge) -->
    <!-- end of table -->

A study's JSON has parts: `<!-- table elm.json/variants: ... -->`. Rows that differ in their seed alone become one: the
mean, and every value in brackets. A row that has none of the chosen columns, or only its n,
is left out.

The JSON is kept beside the documents, in docs/benchmarks/results, from which a test makes the tables anew.
"""

import re
import statistics
from pathlib import Path
from typing import Any

from ..files import write_files
from .harness import options, read_json, write_json

RESULTS = "results"
PLACE = re.compile(r"<!-- table (?P<file>[^:\n]+?)(?:: (?P<columns>[^\n]*?))? -->\n.*?<!-- end of table -->", re.DOTALL)


def main(arguments: list[str]) -> None:
    """Write the tables of one JSON file into every place that names it, and keep the file beside the documents."""
    parser = options("bench table", __doc__)
    parser.add_argument("file", type=Path, help="the JSON file of a bench or study")
    parser.add_argument("--docs", type=Path, default=Path("docs/benchmarks"), help="folder of the documents")
    parser.add_argument("--print", action="store_true", help="print all columns, change nothing")
    given = parser.parse_args(arguments)
    figures = read_json(given.file)
    if given.print:
        for part, rows in parts(given.file.name, figures).items():
            print(f"{part}\n\n{markdown(rows)}\n")
        return
    changed = [path for path in sorted(given.docs.glob("*.md")) if fill(path, given.file.name, figures)]
    if not changed:
        raise ValueError(
            f"docs: no place for {given.file.name} in {given.docs}/*.md, accepted: <!-- table {given.file.name} --> "
            "before and <!-- end of table --> behind it, or --print"
        )
    write_json(given.docs / RESULTS / given.file.name, figures)
    print(f"written into {', '.join(map(str, changed))}")


def fill(document: Path, file: str, figures: dict[str, Any]) -> bool:
    """Write the tables of one JSON file into the places of a document that name it; whether there is one."""
    text, tables = document.read_text(), parts(file, figures)

    def table(place: re.Match[str]) -> str:
        if place["file"] not in tables:
            return place[0]
        columns = [column.strip() for column in (place["columns"] or "").split(";") if column.strip()]
        begin = place[0].split("\n", 1)[0]
        return f"{begin}\n\n{markdown(tables[place['file']], columns)}\n\n<!-- end of table -->"

    filled = PLACE.sub(table, text)
    if filled != text:
        write_files(document.parent, {document.name: filled.encode()})
    return any(place["file"] in tables for place in PLACE.finditer(text))


def markdown(figures: dict[str, Any], columns: list[str] | None = None) -> str:
    """A table of figures by name. columns: which, in this order; else all. ValueError for one that no row has."""
    rows = _seeds_joined(_flat(figures))
    known = list(dict.fromkeys(name for row in rows.values() for name in row))
    if wrong := [column for column in columns or () if column not in known]:
        raise ValueError(f"columns: got {wrong[0]!r}, accepted: {', '.join(known)}")
    if columns:
        figures_of = [column for column in columns if column != "n"] or columns
        rows = {name: row for name, row in rows.items() if any(column in row for column in figures_of)}
    columns = columns or known
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parts(file: str, figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """File, or file/part where figures are those of a study, whose rows are another level down -> figures by name."""
    if "checkpoints" in figures:
        figures = _of_the_zoo(figures["checkpoints"])
    nested = {f"{file}/{part}": rows for part, rows in figures.items() if isinstance(rows, dict) and _flat(rows)}
    return {file: figures} | nested


def _of_the_zoo(checkpoints: dict[str, Any]) -> dict[str, Any]:
    """A row per checkpoint and way of using it; real data and baselines have rows behind it, without its n."""
    rows: dict[str, Any] = {}
    for name, checkpoint in checkpoints.items():
        counted = {"n": checkpoint["n"]} if "n" in checkpoint else {}
        for figure, value in checkpoint.get("figures", {}).items():
            measured, _, what = figure.rpartition(": ")
            way = measured.removeprefix(name).strip(" ,")
            own = not measured or measured.startswith(name)
            rows.setdefault(f"{name}, {way}" if way else name, dict(counted if own else {}))[what] = value
    return rows


def _flat(figures: dict[str, Any], above: str = "") -> dict[str, dict[str, Any]]:
    """Every row of numbers by its full name, however deep it lies."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in figures.items():
        full = f"{above}, {name}" if above else name
        if isinstance(value, list) and all(isinstance(row, dict) for row in value):
            value = {str(place): row for place, row in enumerate(value, 1)}
        if not isinstance(value, dict):
            continue
        if numbers := {key: n for key, n in value.items() if isinstance(n, int | float)}:
            found[full] = numbers
        found |= _flat(value, full)
    return found


def _seeds_joined(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Rows as text; those named `..., seed 0`, `..., seed 1` become their mean and all values in brackets."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        groups.setdefault(re.sub(r", seed \d+$", "", name), []).append(row)
    return {
        name: {key: _number([row[key] for row in group if key in row]) for key in group[0]}
        for name, group in groups.items()
    }


def _number(values: list[Any]) -> str:
    each = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return each[0] if len(each) == 1 else f"{statistics.mean(values):.4g} ({', '.join(each)})"
