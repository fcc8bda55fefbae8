"""The Text tab: what a language model writes, word by word, and a Stop that stops the work.

A model with a chat template answers in a conversation, which the server keeps and every message goes on; one without
goes on with each text by itself. Nothing of what a visitor says is kept when the page is closed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

import nextok_mm as nx

from .limits import (
    MAX_SEED,
    MAX_TEMPERATURE,
    Turns,
    choices,
    field,
    generators,
    number,
    offered,
    refused,
    typed,
    unchecked,
    whole,
)

MAX_TOKENS, MAX_PROMPT, MAX_SAID = 512, 4000, 40
"""New tokens of one answer, letters of one message, and messages of one conversation."""
TOKENS = 128
SETTINGS = {
    "temperature": ("Temperature", 0, MAX_TEMPERATURE),
    "top_p": ("Top p", 0.01, 1),
    "repetition": ("Repetition penalty", 0.5, 2),
}
"""What a visitor can set: its label, the lowest and the highest number."""
Said = list[dict[str, str]]


def build(models: Sequence[str]) -> None:
    """Add the tab's parts to the page under construction; the models are loaded here, once."""
    turns, loaded = Turns(), generators(models)
    first = loaded[models[0]]
    said = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            model = unchecked(gr.Dropdown(choices(loaded), value=models[0], label="Model", interactive=True))
            text = unchecked(gr.Textbox("", label="Text", lines=3, max_length=MAX_PROMPT, placeholder="Once upon a"))
            tokens = unchecked(gr.Slider(1, MAX_TOKENS, TOKENS, step=1, label="Tokens at most"))
            seed = unchecked(gr.Number(0, minimum=0, maximum=MAX_SEED, step=1, label="Seed"))
            with gr.Accordion("Sampling", open=False):
                settings = [unchecked(_field(first, name)) for name in SETTINGS]
            with gr.Row():
                begin = gr.Button("Write", variant="primary", elem_id="write", min_width=100)
                stop = gr.Button("Stop", variant="stop", elem_id="stop-text", min_width=100)
            status = gr.Markdown("Say something and press Write.", elem_id="text-status")
        with gr.Column(scale=3, min_width=360):
            shown = gr.Chatbot([], label="Texts", elem_id="texts", height=560, render_markdown=False)

    def write(
        model: str, text: str, said: Said, tokens: float, seed: float, temperature: str, top_p: str, repetition: str
    ) -> Iterator[tuple[Said, Said, str]]:
        own = map(typed, (temperature, top_p, repetition))
        pipeline, arguments = checked(loaded, model, text, said, tokens, seed, *own)
        yield from turns.each(_written(pipeline, said, text, arguments))

    running = gr.on(
        [begin.click, *(box.submit for box in (text, seed, *settings))],
        write,
        [model, text, said, tokens, seed, *settings],
        [shown, said, status],
        api_name="write",
        concurrency_limit=1,
        show_progress="minimal",
    )
    stop.click(lambda: "Stopped.", None, status, cancels=[running], queue=False, api_visibility="private")

    def changed(name: str) -> list[Any]:
        """Another model begins anew."""
        return [[], [], *(_field(offered(loaded, name), setting) for setting in SETTINGS)]

    model.change(changed, model, [shown, said, *settings], api_visibility="private")
    shown.clear(lambda: [], None, said, api_visibility="private")


def checked(
    loaded: dict[str, nx.Pipeline], model: str, text: str, said: Said, tokens: float, seed: float, *settings: Any
) -> tuple[nx.Pipeline, dict[str, Any]]:
    """The pipeline, and the settings of what it writes; gr.Error names what isn't accepted. settings: in SETTINGS'
    order, those that are left to the model are left out."""
    pipeline = offered(loaded, model)
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_PROMPT:
        raise refused("text", text, f"1 to {MAX_PROMPT} letters")
    if len(said) >= MAX_SAID and chats(pipeline):
        raise refused("conversation", len(said), f"at most {MAX_SAID} messages; begin a new one")
    arguments: dict[str, Any] = {"tokens": whole("tokens", tokens, 1, MAX_TOKENS)}
    arguments["seed"] = whole("seed", seed, 0, MAX_SEED)
    for (name, (label, low, high)), value in zip(SETTINGS.items(), settings, strict=True):
        if value is not None:
            arguments[name] = number(label.lower(), value, low, high)
    return pipeline, arguments


def chats(pipeline: nx.Pipeline) -> bool:
    """Whether a model answers in a conversation, rather than going on with a text."""
    return "chat" in pipeline.tasks


def _field(pipeline: nx.Pipeline, name: str) -> gr.Textbox:
    """A sampling setting of a model."""
    label, low, high = SETTINGS[name]
    own: Any = pipeline.generator.config.sampling  # type: ignore[union-attr]
    return field(label, getattr(own, name), low, high)


def _written(
    pipeline: nx.Pipeline, said: Said, text: str, arguments: dict[str, Any]
) -> Iterator[tuple[Said, Said, str]]:
    """What is shown, what has been said, and a status, after every token that made a letter whole."""
    asked = [*said, {"role": "user", "content": text}]
    if chats(pipeline):
        results = nx.Chat(pipeline, messages=said, **arguments).stream(text)
    else:
        results = pipeline.stream(text=text, **arguments)
    for result in results:
        done = result.finished == result.total
        if done or result.added[0]:
            now = [*asked, {"role": "assistant", "content": result[0]}]
            words = f"{'Done' if done else 'Writing'}: {result.finished} tokens, {sum(result.seconds.values()):.1f} s"
            yield now, now, f"{words}, seed {result.seed}"
