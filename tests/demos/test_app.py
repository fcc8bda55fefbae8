"""The app: what the server refuses, and a visit with a browser."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from nextok_mm import bundled
from nextok_mm.checkpoint import ZOO

pytest.importorskip("gradio", reason="the app needs pip install 'nextok_mm[demo]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
SWITCHES += " --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def model(tiny: Path) -> str:
    """The shipped model where there is one."""
    return "xar-fashion" if (ZOO / "xar-fashion").is_dir() else str(tiny / "xar")


@pytest.fixture(scope="module")
def served(model: str, tiny: Path) -> Iterator[str]:
    """The app's address; a second model is offered beside the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    captions = ["elm-emoji"] if (ZOO / "elm-emoji").is_dir() else []
    page = bundled.demo("app").launch([model, f"{tiny / 'xar'}/", *captions], port=port, block=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(scope="module")
def client(served: str) -> Any:
    return pytest.importorskip("gradio_client").Client(served, verbose=False, analytics_enabled=False)


def ask(client: Any, first: str, **other: Any) -> Any:
    given = dict(model=first, label="every class in turn", text="", n=2, seed=0, steps=2, cfg=1.0, solver="euler")
    given |= {"temperature": 1.0, "tokens": 1} | other
    return client.predict(*given.values(), api_name="/generate")


def test_the_server_answers(client: Any, model: str) -> None:
    picture, status = ask(client, model)
    assert Path(picture if isinstance(picture, str) else picture["path"]).suffix == ".png"
    assert status.startswith("Done: entity 4 of 4")


def sampling_of(picture: Any) -> dict[str, Any]:
    """The settings in a PNG that the server sent."""
    with Image.open(picture if isinstance(picture, str) else picture["path"]) as png:
        return ast.literal_eval(png.text["nextok.sampling"])


def test_what_is_left_out_is_the_chosen_models_own(client: Any, model: str, tiny: Path) -> None:
    """Not the first model's, which the controls show when the page opens."""
    import nextok_mm as nx

    own = nx.load(tiny / "xar").generator.config.sampling.model_dump(mode="json")
    assert own["steps"] != 25
    given = {"model": f"{tiny / 'xar'}/", "n": 1, "api_name": "/generate"}
    assert sampling_of(client.predict(**given)[0]) == own
    for empty in ("", None):
        given |= {"steps": empty, "cfg": empty, "solver": empty}
        assert sampling_of(client.predict(**given)[0]) == own
    assert sampling_of(client.predict(**{**given, "steps": "3", "cfg": 2.5})[0]) == {**own, "steps": 3, "cfg": 2.5}


@pytest.mark.skipif(not (ZOO / "elm-emoji").is_dir(), reason="no shipped model of captions")
def test_a_caption_is_drawn_as_the_model_means_it(client: Any) -> None:
    import nextok_mm as nx

    given = {"model": "elm-emoji", "text": "red apple", "n": 1, "seed": 3, "api_name": "/generate"}
    pipeline = nx.load("elm-emoji")
    for tokens in ({}, {"tokens": 8}):
        picture, said = client.predict(**given, **tokens)
        wanted = pipeline.generate(text="red apple", seed=3, **tokens)
        assert said.startswith(f"Done: entity {wanted.finished} of {wanted.total}")
        with Image.open(picture if isinstance(picture, str) else picture["path"]) as png:
            assert ImageChops.difference(png.convert("RGB"), wanted.sheet()).getbbox() is None
    with pytest.raises(Exception, match="tokens, coarse to fine: got 33.0, accepted: 1 to 32"):
        client.predict(**given, tokens="33")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(model="/etc"), "model: got '/etc'"),
        (dict(model=["xar"]), "model: got "),
        (dict(label="hat"), "class: got 'hat'"),
        (dict(label=None), "class: got None"),
        (dict(solver="rk45"), "solver: got 'rk45'"),
        (dict(n=65), "pictures: got 65, accepted: 1 to 64"),
        (dict(n=10**9), "pictures: got 1000000000"),
        (dict(n=0), "pictures: got 0"),
        (dict(n=1.5), "pictures: got 1.5, accepted: a whole number"),
        (dict(n="many"), "pictures: got 'many'"),
        (dict(n=None), "pictures: got None"),
        (dict(steps=101), "steps an entity: got 101, accepted: 1 to 100"),
        (dict(steps="few"), "steps an entity: got 'few'"),
        (dict(steps=2.5), "steps an entity: got 2.5, accepted: a whole number"),
        (dict(cfg=1e9), "guidance: got 1000000000.0"),
        (dict(cfg="nan"), "guidance: got nan"),
        (dict(seed=-1), "seed: got -1"),
        (dict(seed=1.5), "seed: got 1.5, accepted: a whole number"),
        (dict(seed=2**31), "seed: got 2147483648"),
    ],
)
def test_the_servers_own_limits(client: Any, model: str, wrong: dict, message: str, capfd: Any) -> None:
    """Each is one line for the visitor, and nothing in the server's log."""
    with pytest.raises(Exception, match=re.escape(message)):
        ask(client, model, **wrong)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_files_of_results_are_deleted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = bundled.demo("app")
    monkeypatch.setattr(app, "KEPT", (1, 1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = app.launch([str(tiny / "xar"), str(tiny / "clips")], port=port, block=False)
    try:
        asked = pytest.importorskip("gradio_client").Client(
            f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False, download_files=False
        )
        asked.predict(n=1, api_name="/generate")
        asked.predict(n=1, api_name="/clips")
        made = {Path(file) for files in page.temp_file_sets for file in files}
        made |= {file for block in page.blocks.values() for file in map(Path, block.temp_files)}
        assert len(made) >= 5
        until = time.monotonic() + 30
        while any(file.exists() for file in made) and time.monotonic() < until:
            time.sleep(0.2)
        assert not [file for file in made if file.exists()]
    finally:
        page.close()


def test_every_result_is_a_file_of_its_own(tiny: Path) -> None:
    """A file that is written again while a browser reads it breaks the answer off."""
    import nextok_mm as nx

    pipeline = nx.load(tiny / "xar")
    result = list(pipeline.stream(n=1))[-1]
    paths, tab = [], bundled.demo("image_tab")
    for path, _ in tab._shown(iter([result, result, result])):
        with Image.open(path) as png:
            assert png.text["nextok.seed"] == "0"
        paths.append(path)
    assert len(set(paths)) == 3 and not any(Path(path).exists() for path in paths)


def test_limits_hold_without_gradios_own_checks(tiny: Path) -> None:
    import gradio as gr

    import nextok_mm as nx

    tab = bundled.demo("image_tab")
    loaded = {"m": nx.load(tiny / "xar")}
    good = dict(model="m", label="bag", text="", n=4, seed=1, steps=5, cfg=2, solver="heun", temperature=1, tokens=1)
    arguments = tab.checked(loaded, *good.values())[1]
    assert arguments == dict(n=4, seed=1, labels=[1], steps=5, cfg=2, solver="heun")  # no more than the model has
    left = {**good, **dict.fromkeys(("steps", "cfg", "solver", "temperature", "tokens"))}
    assert tab.checked(loaded, *left.values())[1] == dict(n=4, seed=1, labels=[1])
    for name, values in {
        "model": ("other", None, ["m"]),
        "label": ("hat", None, 1, ["bag"]),
        "n": (0, 65, 1e300, float("nan"), float("inf"), True, None, "4", 1.5),
        "seed": (-1, 2**31, None),
        "steps": (0, 101, 1.5, True),
        "cfg": (-1, 21, float("nan"), "2", True),
        "solver": ("rk45", 1.0, ["heun"]),
    }.items():
        for value in values:
            with pytest.raises(gr.Error, match="accepted: "):
                tab.checked(loaded, *{**good, name: value}.values())


@pytest.mark.skipif(not (ZOO / "elm-fashion").is_dir(), reason="no shipped ELM")
def test_controls_are_those_that_the_model_has() -> None:
    import gradio as gr

    import nextok_mm as nx

    tab = bundled.demo("image_tab")
    loaded = {"m": nx.load("elm-fashion")}
    good = dict(model="m", label="bag", text="", n=4, seed=1, steps=5, cfg=2, solver="heun", temperature=1, tokens=3)
    arguments = tab.checked(loaded, *good.values())[1]
    assert arguments == dict(n=4, seed=1, labels=[8], cfg=2, temperature=1, tokens=3)
    for name, value in {"tokens": 17, "temperature": -1}.items():
        with pytest.raises(gr.Error, match="accepted: "):
            tab.checked(loaded, *{**good, name: value}.values())
    shown = {name: tab._control(loaded["m"], name).visible for name in tab.SETTINGS}
    assert shown == dict(steps=False, cfg=True, solver=False, temperature=True, tokens=True)


@pytest.mark.skipif(not (ZOO / "elm-emoji").is_dir(), reason="no shipped model of captions")
def test_a_caption_is_asked_for_where_the_model_reads_one() -> None:
    import gradio as gr

    import nextok_mm as nx

    tab = bundled.demo("image_tab")
    loaded = {"m": nx.load("elm-emoji")}
    good = dict(model="m", label="", text="red apple", n=4, seed=1, steps=5, cfg=2, solver="", temperature=1, tokens=3)
    assert tab.checked(loaded, *good.values())[1]["text"] == "red apple"
    assert tab._caption(loaded["m"]).visible and not tab._label(loaded["m"]).visible
    for text in ("", "  ", "x" * 201, None, ["a"]):
        with pytest.raises(gr.Error, match="caption: got .*accepted: 1 to 200 letters"):
            tab.checked(loaded, *{**good, "text": text}.values())
    too_long = bundled.demo("limits").Turns().each(loaded["m"].stream(text="apple " * 30))
    with pytest.raises(gr.Error, match="text: .* tokens long"):
        next(too_long)


@pytest.mark.parametrize("port", [99999, -1])
def test_a_port_that_cannot_be_is_one_line(tiny: Path, port: int) -> None:
    with pytest.raises(ValueError, match=f"^port: {port} on 127.0.0.1 can't be used"):
        bundled.demo("app").launch([str(tiny / "xar")], port=port, block=False)


WORKER = """
import threading, time, torch
from nextok_mm import bundled
def work():
    x = torch.randn(64, 64)
    while True:
        for _ in range(2000):
            x = torch.softmax(x @ x, -1)
        yield float(x[0, 0])
def run():
    for _ in bundled.demo("limits").Turns().each(work()):
        begun.set()
begun = threading.Event()
threading.Thread(target=run, daemon=True).start()
begun.wait()
"""


@pytest.mark.slow
def test_python_may_end_while_something_is_drawn() -> None:
    """Without the lock such a thread, caught inside torch, aborts the process (exit code -6)."""
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.slow
def test_a_visit(served: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate shows partial pictures, then the last one; Stop ends the server's work; nothing comes from outside."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    from nextok_mm.pipeline import Pipeline

    drawn: list[int] = []
    plain = Pipeline.stream

    def slow(self: Pipeline, *given: Any, **named: Any) -> Iterator[Any]:
        for result in plain(self, *given, **named):
            drawn.append(result.finished)
            yield result
            time.sleep(1.0)

    monkeypatch.setattr(Pipeline, "stream", slow)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=SWITCHES.split())
        page = browser.new_page(viewport={"width": 1180, "height": 860})
        outside: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((served, "data:", "blob:")) else outside.append(r.url))
        page.goto(served)
        status = page.locator("#status")
        page.click("#generate")
        playwright.expect(status).to_contain_text("Drawing: entity 2", timeout=60_000)
        partial = page.locator("#pictures img").get_attribute("src")
        playwright.expect(status).to_contain_text("Done: entity 4 of 4", timeout=60_000)
        assert page.locator("#pictures img").get_attribute("src") != partial
        page.wait_for_timeout(1500)
        page.screenshot(path=os.environ.get("NEXTOK_SCREENSHOT", str(tmp_path / "app.png")))
        drawn.clear()
        page.click("#generate")
        playwright.expect(status).to_contain_text("Drawing: entity 1", timeout=60_000)
        page.click("#stop")
        playwright.expect(status).to_contain_text("Stopped", timeout=60_000)
        page.wait_for_timeout(5000)
        assert max(drawn) < 4
        page.click("#generate")  # the queue is free again
        playwright.expect(status).to_contain_text("Done: entity 4 of 4", timeout=60_000)
        browser.close()
    assert not outside


@pytest.mark.parametrize(("width", "height"), [(390, 844), (768, 1024), (1280, 800)])
def test_the_page_stands_still_and_says_how_it_is(served: str, tiny: Path, width: int, height: int) -> None:
    """Full width from the beginning, nothing moves when pictures come, status and errors are seen; Enter generates."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=SWITCHES.split())
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(served)
        begin, status, pictures = (page.locator(part) for part in ("#generate", "#status", "#pictures"))
        begin.wait_for()
        page.wait_for_timeout(500)
        boxes = [part.bounding_box() for part in (page.locator(".gradio-container"), begin, pictures)]
        assert boxes[0]["width"] == min(width, 1080)
        assert (boxes[2]["x"] > boxes[1]["x"] + boxes[1]["width"]) == (width > 700)  # side by side where there is room
        page.get_by_label("Pictures").first.fill("1")
        page.get_by_label("Seed").first.fill("2")
        page.get_by_label("Seed").first.press("Enter")
        playwright.expect(status).to_contain_text("Done: entity 4 of 4, ", timeout=60_000)
        assert "seed 2" in status.inner_text()
        assert boxes == [part.bounding_box() for part in (page.locator(".gradio-container"), begin, pictures)]
        begin.scroll_into_view_if_needed()
        under = status.bounding_box()
        assert under["y"] + under["height"] <= height and 0 < under["y"] - begin.bounding_box()["y"] < 100
        page.get_by_label("Seed").first.fill("1.5")
        begin.click()
        wrong = page.locator(".toast-body")
        playwright.expect(wrong).to_contain_text("seed: got 1.5, accepted: a whole number", timeout=60_000)
        box = wrong.bounding_box()
        assert 0 <= box["y"] < height and 0 <= box["x"] and box["x"] + box["width"] <= width
        browser.close()
