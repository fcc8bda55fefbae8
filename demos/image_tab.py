"""The Image tab: pictures of a class or of a caption that appear entity by entity, and a Stop that stops the work.

Which controls show is the model's matter: classes or a caption, and those sampling settings that it has.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

import nextok_mm as nx
from nextok_mm.contracts import OrderedTokenizer

from .limits import (
    EVERY,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TEXT,
    OWN,
    Turns,
    choices,
    classes_of,
    field,
    generators,
    label_of,
    number,
    offered,
    refused,
    typed,
    unchecked,
    whole,
)

MAX_PICTURES = 64


@dataclass(frozen=True)
class Setting:
    """A sampling setting as a visitor sees it: a number from low to high (a whole one where `step` is 1), or a menu."""

    label: str
    low: float = 0
    high: float = 0
    step: float = 1
    menu: tuple[str, ...] = ()


SETTINGS = {
    "steps": Setting("Steps an entity", 1, 100),
    "cfg": Setting("Guidance", 0, MAX_GUIDANCE, 0.1),
    "solver": Setting("Solver", menu=("euler_maruyama", "euler", "heun", "ab2")),
    "temperature": Setting("Temperature", 0, MAX_TEMPERATURE, 0.05),
    "tokens": Setting("Tokens, coarse to fine", 1, 256),
}


def build(models: Sequence[str]) -> None:
    """Add the tab's parts to the page under construction; the models are loaded here, once."""
    turns, loaded = Turns(), generators(models)
    first = loaded[models[0]]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            model = unchecked(gr.Dropdown(choices(loaded), value=models[0], label="Model", interactive=True))
            asked = [unchecked(_label(first)), unchecked(_caption(first))]
            n = unchecked(gr.Slider(1, MAX_PICTURES, 16, step=1, label="Pictures"))
            seed = unchecked(gr.Number(0, minimum=0, maximum=MAX_SEED, step=1, label="Seed"))
            with gr.Accordion("Sampling", open=False):
                settings = [unchecked(_control(first, name)) for name in SETTINGS]
            with gr.Row():
                begin = gr.Button("Generate", variant="primary", elem_id="generate", min_width=100)
                stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=100)
            status = gr.Markdown("Say what to draw and press Generate.", elem_id="status")
        with gr.Column(scale=3, min_width=360):
            picture = gr.Image(
                label="Pictures", elem_id="pictures", format="png", interactive=False, height=560, buttons=["download"]
            )

    def generate(
        model: str,
        label: str,
        text: str,
        n: float,
        seed: float,
        steps: str,
        cfg: str,
        solver: str,
        temperature: str,
        tokens: str,
    ) -> Iterator[tuple[str, str]]:
        own = map(typed, (steps, cfg, solver, temperature, tokens))
        pipeline, arguments = checked(loaded, model, label, text, n, seed, *own)
        # Closing this generator, which Stop does, ends the work after the entity that is being drawn.
        yield from turns.each(_shown(pipeline.stream(**arguments)))

    entered = [box.submit for box in (asked[1], seed, *settings) if not isinstance(box, gr.Dropdown)]
    running = gr.on(
        [begin.click, *entered],
        generate,
        [model, *asked, n, seed, *settings],
        [picture, status],
        api_name="generate",
        concurrency_limit=1,
        show_progress="minimal",
    )
    stop.click(lambda: "Stopped.", None, status, cancels=[running], queue=False, api_visibility="private")

    def changed(name: str) -> list[Any]:
        pipeline = offered(loaded, name)
        return [_label(pipeline), _caption(pipeline), *(_control(pipeline, setting) for setting in SETTINGS)]

    model.change(changed, model, [*asked, *settings], api_visibility="private")


def checked(
    loaded: dict[str, nx.Pipeline], model: str, label: str, text: str, n: float, seed: float, *settings: Any
) -> tuple[nx.Pipeline, dict[str, Any]]:
    """The pipeline and the arguments of its `stream`; gr.Error names what isn't accepted. settings: in SETTINGS' order,
    those that the model hasn't, and those that are left to it, are left out."""
    pipeline = offered(loaded, model)
    arguments: dict[str, Any] = {"n": whole("pictures", n, 1, MAX_PICTURES), "seed": whole("seed", seed, 0, MAX_SEED)}
    if reads_captions(pipeline):
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
            raise refused("caption", text, f"1 to {MAX_TEXT} letters")
        arguments["text"] = text
    else:
        arguments["labels"] = label_of(pipeline, label)
    for (name, setting), value in zip(SETTINGS.items(), settings, strict=True):
        if name in _own(pipeline) and value is not None:
            arguments[name] = _checked(setting, value, _highest(pipeline, name))
    return pipeline, arguments


def reads_captions(pipeline: nx.Pipeline) -> bool:
    """Whether a model draws what a caption says, rather than a class."""
    return pipeline.generator is not None and "text" in pipeline.generator.takes


def _checked(setting: Setting, value: Any, high: float) -> Any:
    name = setting.label.lower()
    if setting.menu:
        if value not in setting.menu:
            raise refused(name, value, ", ".join(setting.menu))
        return value
    return (
        whole(name, value, int(setting.low), int(high)) if setting.step == 1 else number(name, value, setting.low, high)
    )


def _own(pipeline: nx.Pipeline) -> dict[str, Any]:
    """Those of SETTINGS that a model has, with its own values."""
    generator: Any = pipeline.generator
    own = {name: value for name, value in generator.config.sampling.model_dump().items() if name in SETTINGS}
    if "tokens" in own and not isinstance(pipeline.tokenizer, OrderedTokenizer):
        del own["tokens"]  # a part of such codes makes no picture
    elif "tokens" in own:
        own["tokens"] = own["tokens"] or generator.layout.entities
    return own


def _highest(pipeline: nx.Pipeline, name: str) -> float:
    most = SETTINGS[name].high
    return min(most, pipeline.generator.layout.entities) if name == "tokens" else most  # type: ignore[union-attr]


def _label(pipeline: nx.Pipeline) -> gr.Dropdown:
    return gr.Dropdown(classes_of(pipeline), value=EVERY, label="Class", visible=not reads_captions(pipeline))


def _caption(pipeline: nx.Pipeline) -> gr.Textbox:
    visible = reads_captions(pipeline)
    return gr.Textbox("", label="Caption", placeholder="red apple", max_length=MAX_TEXT, visible=visible)


def _control(pipeline: nx.Pipeline, name: str) -> Any:
    setting, own = SETTINGS[name], _own(pipeline)
    if setting.menu:
        menu = [(f"{OWN} ({own.get(name, '')})", ""), *((choice, choice) for choice in setting.menu)]
        return gr.Dropdown(menu, value="", label=setting.label, visible=name in own)
    high = _highest(pipeline, name)
    return field(setting.label, own.get(name, ""), setting.low, high, name in own)


def _shown(results: Iterator[nx.Result]) -> Iterator[tuple[str, str]]:
    """Each result as a PNG with its settings, in a folder of its own: what a browser reads is never written again."""
    for result in results:
        words, took = "Done" if result.finished == result.total else "Drawing", sum(result.seconds.values())
        with tempfile.TemporaryDirectory() as folder:
            path = result.save(Path(folder) / f"seed-{result.seed}.png")
            yield str(path), f"{words}: entity {result.finished} of {result.total}, {took:.1f} s, seed {result.seed}"
