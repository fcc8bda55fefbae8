"""Commands about this installation: what it has, and the demo app."""

from typing import Annotated

import typer

from .base import app, shipped

SHOWN = ["xar-fashion", "elm-fashion", "elm-emoji", "next-block-moving", "text-tiny"]


@app.command(epilog="Example: nextok doctor")
def doctor() -> None:
    """Show what this installation has and what it lacks.

    Versions, devices, shipped models, data and optional packages are printed, one per line.
    """
    from ..doctor import report

    for row in report():
        print(row)


@app.command(epilog="Example: nextok demo --model xar-fashion")
def demo(
    port: Annotated[int, typer.Option(help="The port to serve on.")] = 7860,
    host: Annotated[
        str, typer.Option(help="The address to serve on; 127.0.0.1 is reached from this machine only.")
    ] = "127.0.0.1",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A generator to offer; repeatable. By default those that ship.",
            autocompletion=shipped("generator"),
        ),
    ] = None,
) -> None:
    """Start the Gradio app in the browser.

    It needs pip install 'nextok_mm[demo]'.
    """
    from .. import bundled

    bundled.demo("app").launch(model or SHOWN, host, port)
