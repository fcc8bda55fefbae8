"""The Gradio app of `nextok demo`: one tab a kind of thing to make.

It listens on 127.0.0.1 unless told otherwise, is never shared through anybody's server, counts nothing and fetches
nothing from outside: no fonts, no scripts, no analytics.
"""

import os
from collections.abc import Callable, Sequence

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from gradio.themes import Soft

from nextok_mm.media import Clips, Medium, Pictures, Words
from nextok_mm.pipeline import medium_of

from . import image_tab, text_tab, video_tab

QUEUE = 16
TABS: dict[type[Medium], tuple[str, Callable[[Sequence[str]], None]]] = {
    Pictures: ("Image", image_tab.build),
    Clips: ("Video", video_tab.build),
    Words: ("Text", text_tab.build),
}
KEPT = (300, 1800)
"""Seconds between two looks for files of results, and after which such a file is deleted. All go when the app ends."""
CSS = """
.gradio-container {width: 100% !important; max-width: 1080px !important; margin: 0 auto !important}
@media (max-width: 700px) {#pictures {height: min(100vw, 560px) !important}}
#pictures img, #clips img, #frames img {image-rendering: pixelated}
footer {display: none !important}
"""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
THEME = Soft(primary_hue="indigo", font=FONTS, font_mono=["ui-monospace", "Consolas", "monospace"])


def build(models: Sequence[str]) -> gr.Blocks:
    """The page; `models` are the only generators that a visitor can ask for. ValueError where one can't be loaded."""
    with gr.Blocks(title="nextok_mm", analytics_enabled=False, delete_cache=KEPT) as page:
        gr.Markdown("# nextok_mm\nNext-X prediction: pictures, clips and texts that grow one entity at a time.")
        if not models:
            raise ValueError("models: got none, accepted: at least one generator")
        media = {name: medium_of(name) for name in models}
        for name, found in media.items():
            if found is not None and not isinstance(found, tuple(TABS)):
                known = " or ".join(each.plural for each in TABS)
                raise ValueError(f"models: got {name}, which makes {found.plural}, accepted: those of {known}")
        for medium, (title, build_tab) in TABS.items():
            own = [name for name in models if isinstance(media[name], medium)]
            if own:
                with gr.Tab(title):
                    build_tab(own)
    return page.queue(max_size=QUEUE, default_concurrency_limit=1)


def launch(models: Sequence[str], host: str = "127.0.0.1", port: int = 7860, block: bool = True) -> gr.Blocks:
    """Serve the page until it is interrupted, or return at once with `block=False`; ValueError for a taken port."""
    page = build(models)
    try:
        page.launch(
            server_name=host, server_port=port, share=False, theme=THEME, css=CSS, prevent_thread_lock=not block
        )
    except (OSError, OverflowError) as error:
        raise ValueError(f"port: {port} on {host} can't be used ({error}); choose another (--port)") from None
    return page
