"""Python's documentation as plain text, a file a page: what `text-tiny` is trained on.

    apt install python3-doc
    python -m nextok_mm.data.python_docs runs/python-docs

The pages are the HTML of Debian's package `python3-doc`, copyright the Python Software Foundation, under the PSF's
license (`/usr/share/doc/python3.*-doc/copyright`). What is written is their text: a heading's line begins with one # a
level, an item's with a dash; a paragraph is one line, code keeps its lines; menus, indexes and the list of contents are
left out. The `text` source reads the folder and holds pages out by itself.
"""

import argparse
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path("/usr/share/doc")
HELP = "on Debian: apt install python3-doc"
LEFT_OUT = frozenset({"contents", "whatsnew/changelog"})  # lists of other pages' headings, and of bugs
MAX_BYTES = 32 << 20

_BLOCKS = frozenset("p div section dl dt dd ul ol li table tr blockquote hr figure h1 h2 h3 h4 h5 h6 pre".split())
_SILENT = frozenset("script style nav head footer".split())
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())


class _Page(HTMLParser):
    """What a reader sees of the part of a page that Sphinx marks as its body."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.blocks: list[str] = []
        self.depth = 0  # of tags within the body; 0 is outside
        self.hidden = 0  # the depth at which silence began
        self.code = 0  # the depth of a pre
        self.prefix = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = (dict(attrs).get("class") or "").split()
        if not self.depth:
            self.depth = int(tag == "div" and "body" in names)
            return
        if tag in _VOID:
            self.parts.append("\n" if tag == "br" and self.code else " " if tag == "br" else "")
            return
        self.depth += 1
        if not self.hidden and (tag in _SILENT or "headerlink" in names or "contents" in names):
            self.hidden = self.depth
        if tag in _BLOCKS:
            self._flush()
            if self.hidden:
                pass
            elif re.fullmatch("h[1-6]", tag):
                self.prefix = "#" * int(tag[1]) + " "
            elif tag == "li":
                self.prefix = "- "
            elif tag == "pre" and not self.code:
                self.code = self.depth
        elif tag in ("td", "th") and "".join(self.parts).strip():
            self.parts.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        if not self.depth or tag in _VOID:
            return
        if tag in _BLOCKS:
            self._flush()
        self.code = 0 if self.code == self.depth else self.code
        self.hidden = 0 if self.hidden == self.depth else self.hidden
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        if self.depth and not self.hidden:
            self.parts.append(data)

    def _flush(self) -> None:
        """End a block: its text joins the page, if it has any."""
        text, self.parts = "".join(self.parts).replace("\xa0", " "), []
        text = text.strip("\n").rstrip() if self.code else " ".join(text.split())
        if text:
            self.blocks.append(text if self.code else self.prefix + text)
            self.prefix = ""


def plain(html: str) -> str:
    """The text of a page that Sphinx has made.

    Args:
        html: The page.

    Returns:
        Its blocks (paragraphs, headings, items, code), an empty line between two of them; "" where it has no body.

    Example:
        >>> from nextok_mm.data.python_docs import plain
        >>> plain('<div class="body"><h1>A<a class="headerlink">#</a></h1><p>One\\ntwo.</p></div>')
        '# A\\n\\nOne two.\\n'
    """
    page = _Page()
    page.feed(html)
    page.close()
    return "\n\n".join(page.blocks) + "\n" if page.blocks else ""


def find(root: Path = ROOT) -> Path:
    """The HTML folder of the newest Python whose documentation lies under root; ValueError where there is none."""
    found = {
        tuple(map(int, match[1].split("."))): folder
        for folder in root.glob("python3.*/html")
        if (match := re.fullmatch(r"python(\d+\.\d+)", folder.parent.name)) and (folder / "_sources").is_dir()
    }
    if not found:
        raise ValueError(f"docs: no folder python3.*/html with pages under {root}; {HELP}")
    return found[max(found)]


def write(out: Path, docs: Path | None = None) -> int:
    """Write every page as text.

    Args:
        out: The folder; one that holds something is refused.
        docs: The HTML folder; None takes the newest under /usr/share/doc.

    Returns:
        How many pages were written.

    Raises:
        ValueError: There are no pages, or the folder isn't empty.
    """
    docs = find() if docs is None else docs
    sources = docs / "_sources"
    names = sorted(path.relative_to(sources).as_posix() for path in sources.rglob("*.rst.txt"))
    pages = [name.removesuffix(".rst.txt") for name in names]
    pages = [page for page in pages if page not in LEFT_OUT and (docs / f"{page}.html").is_file()]
    if not pages:
        raise ValueError(f"docs: got {str(docs)!r}, accepted: a folder of HTML that Sphinx has made, with _sources")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: {out} holds something already, accepted: a new or an empty folder")
    count = 0
    for page in pages:
        source, target = docs / f"{page}.html", out / f"{page}.txt"
        if source.stat().st_size > MAX_BYTES:
            raise ValueError(f"docs: {source} has {source.stat().st_size} bytes, at most {MAX_BYTES} accepted")
        text = plain(source.read_text(encoding="utf8", errors="replace"))
        if text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf8")
            count += 1
    return count


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m nextok_mm.data.python_docs", description=(__doc__ or "")[:91])
    parser.add_argument("out", type=Path, help="the folder to write; new or empty")
    parser.add_argument("--docs", type=Path, help="the HTML folder; by default the newest of python3-doc")
    given = parser.parse_args(arguments)
    try:
        print(f"{write(given.out, given.docs)} pages in {given.out}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
