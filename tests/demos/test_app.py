"""The app: what the server refuses, and a visit with a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
    page = bundled.demo("app").launch([model, f"{tiny / 'xar'}/"], port=port, block=False)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(scope="module")
def client(served: str) -> Any:
    return pytest.importorskip("gradio_client").Client(served, verbose=False, analytics_enabled=False)


def ask(client: Any, model: str, **other: Any) -> Any:
    given = dict(label="every class in turn", text="", n=2, seed=0, steps=2, cfg=1.0, solver="euler")
    given |= {"temperature": 1.0, "tokens": 1} | other
    return client.predict(given.pop("model", model), *given.values(), api_name="/generate")


def test_the_server_answers(client: Any, model: str) -> None:
    picture, status = ask(client, model)
    assert Path(picture if isinstance(picture, str) else picture["path"]).suffix == ".png"
    assert status.startswith("Done: entity 4 of 4")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(model="/etc"), "model|choices"),
        (dict(label="hat"), "class|choices"),
        (dict(solver="rk45"), "solver|choices"),
        (dict(n=65), "pictures|maximum"),
        (dict(n=10**9), "pictures|maximum"),
        (dict(n=0), "pictures|minimum"),
        (dict(n=1.5), "whole number"),
        (dict(n="many"), "pictures|number|str"),
        (dict(steps=101), "steps|maximum"),
        (dict(steps=None), "steps|raised an exception"),
        (dict(cfg=1e9), "guidance|maximum"),
        (dict(seed=-1), "seed|minimum"),
    ],
)
def test_the_servers_own_limits(client: Any, model: str, wrong: dict, message: str) -> None:
    with pytest.raises(Exception, match=f"(?i){message}"):
        ask(client, model, **wrong)


def test_limits_hold_without_gradios_own_checks(tiny: Path) -> None:
    import gradio as gr

    import nextok_mm as nx

    tab = bundled.demo("image_tab")
    loaded = {"m": nx.load(tiny / "xar")}
    good = dict(model="m", label="bag", text="", n=4, seed=1, steps=5, cfg=2, solver="heun", temperature=1, tokens=1)
    arguments = tab.checked(loaded, *good.values())[1]
    assert arguments == dict(n=4, seed=1, labels=[1], steps=5, cfg=2, solver="heun")  # no more than the model has
    for name, values in {
        "model": ("other", None, ["m"]),
        "label": ("hat", None, 1, ["bag"]),
        "n": (0, 65, 1e300, float("nan"), float("inf"), True, None, "4", 1.5),
        "seed": (-1, 2**31, None),
        "steps": (0, 101, None),
        "cfg": (-1, 21, float("nan"), None, "2"),
        "solver": ("rk45", None, ["heun"]),
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
            drawn.append(result.done)
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
