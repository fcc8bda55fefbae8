"""Python's documentation as text: what a page says, where code's lines stay, what is left out, what isn't there."""

import pytest

from nextok_mm.data.python_docs import find, main, plain, write

PAGE = """<html><head><title>no</title></head><body><div class="related">menu</div>
<div class="body" role="main">
<section><h1><code><span class="pre">json</span></code> — JSON<a class="headerlink" href="#x">¶</a></h1>
<nav class="contents"><ul><li>left out</li></ul></nav>
<p>One <em>line</em>
of a&nbsp;paragraph,<br/>and &lt;more&gt;.<script>no()</script></p>
<ul><li><p>first</p></li><li><p>second</p><p>its rest</p></li></ul>
<div class="highlight"><pre><span></span><span>&gt;&gt;&gt; </span><span>for x in y:</span>
<span>...     print(x)</span>

1
</pre></div>
<dl><dt><span>dumps(</span><em>obj</em><span>)</span></dt><dd><p>Says it.</p></dd></dl>
<table><tr><th><p>A</p></th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>
<h2>Next</h2><img src="x"><hr><p>last</p></section></div>
<div class="sphinxsidebar">menu</div></body></html>"""


def test_a_page_is_its_body():
    assert plain(PAGE).split("\n\n") == [
        *("# json — JSON", "One line of a paragraph, and <more>.", "- first", "- second", "its rest"),
        *(">>> for x in y:\n...     print(x)", "1", "dumps(obj)", "Says it.", "A", "B", "1 | 2", "## Next", "last\n"),
    ]
    assert plain("<p>no body</p>") == plain("") == ""


@pytest.fixture
def docs(tmp_path):
    for version in ("3.9", "3.11"):
        html = tmp_path / f"python{version}" / "html"
        for page in ("contents", "library/json", "library/empty", "gone"):
            source = html / "_sources" / f"{page}.rst.txt"
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text("")
            if page != "gone":
                (html / page).parent.mkdir(exist_ok=True)
                (html / f"{page}.html").write_text(PAGE if page != "library/empty" else "<p>nothing</p>")
        (html / "genindex.html").write_text(PAGE)
    return tmp_path


def test_pages_become_files(docs, tmp_path, capsys):
    assert find(docs) == docs / "python3.11" / "html"
    out = tmp_path / "out"
    main([str(out), "--docs", str(find(docs))])
    assert capsys.readouterr().out == f"1 pages in {out}\n"
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.*")] == ["library/json.txt"]
    assert (out / "library" / "json.txt").read_text(encoding="utf8") == plain(PAGE)


def test_what_is_not_there_is_one_line(docs, tmp_path):
    with pytest.raises(ValueError, match="docs: no folder .*apt install python3-doc"):
        find(tmp_path / "nothing")
    with pytest.raises(ValueError, match="docs: got .*nothing"):
        write(tmp_path / "out", tmp_path / "nothing")
    with pytest.raises(ValueError, match="out: .* holds something already"):
        write(docs, find(docs))
    with pytest.raises(SystemExit, match="error: out"):
        main([str(docs), "--docs", str(find(docs))])
