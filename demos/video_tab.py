"""The Video tab: clips whose frames appear as soon as they are final, played when the last one is there."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

import nextok_mm as nx
from nextok_mm.media import clips as video
from nextok_mm.pipeline import prediction
from nextok_mm.rng import mix

from .limits import (
    EVERY,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_TEMPERATURE,
    Turns,
    choices,
    classes_of,
    generators,
    label_of,
    number,
    offered,
    whole,
)

MAX_CLIPS, MAX_FRAMES = 9, 65


def build(models: Sequence[str]) -> None:
    """Add the tab's parts to the page under construction; the models are loaded here, once."""
    turns, loaded = Turns(), generators(models)
    first = loaded[models[0]]
    own: Any = first.generator.config.sampling  # type: ignore[union-attr]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(choices(loaded), value=models[0], label="Model", interactive=True)
            label = gr.Dropdown(classes_of(first), value=EVERY, label="What moves")
            n = gr.Slider(1, MAX_CLIPS, 4, step=1, label="Clips")
            frames = gr.Slider(1, MAX_FRAMES, _trained(first), step=1, label="Frames")
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed")
            with gr.Accordion("Sampling", open=False):
                temperature = gr.Slider(0, MAX_TEMPERATURE, own.temperature, step=0.05, label="Temperature")
                top_p = gr.Slider(0.01, 1, own.top_p, step=0.01, label="Top p")
                cfg = gr.Slider(0, MAX_GUIDANCE, own.cfg, step=0.1, label="Guidance")
            with gr.Row():
                begin = gr.Button("Generate", variant="primary", elem_id="generate-clips", min_width=100)
                stop = gr.Button("Stop", variant="stop", elem_id="stop-clips", min_width=100)
        with gr.Column(scale=3, min_width=360):
            played = gr.Image(label="Clips", elem_id="clips", interactive=False, height=380, buttons=["download"])
            shown = gr.Image(
                label="Frames", elem_id="frames", format="png", interactive=False, height=240, buttons=["download"]
            )
            status = gr.Markdown("Choose what moves and press Generate.", elem_id="clip-status")

    def generate(
        model: str, label: str, n: float, frames: float, seed: float, temperature: float, top_p: float, cfg: float
    ) -> Iterator[tuple[Any, Image.Image | None, str]]:
        pipeline, arguments = checked(loaded, model, label, n, frames, seed, temperature, top_p, cfg)
        yield from turns.each(_shown(pipeline, arguments))

    inputs = [model, label, n, frames, seed, temperature, top_p, cfg]
    running = begin.click(
        generate, inputs, [played, shown, status], api_name="clips", concurrency_limit=1, show_progress="minimal"
    )
    stop.click(lambda: "Stopped.", None, status, cancels=[running], queue=False, api_visibility="private")

    def own_settings(name: str) -> list[Any]:
        """What moves, and where a model's sliders begin."""
        chosen: Any = offered(loaded, name)
        own = chosen.generator.config.sampling
        values = (_trained(chosen), own.temperature, own.top_p, own.cfg)
        return [gr.Dropdown(classes_of(chosen), value=EVERY), *(gr.Slider(value=value) for value in values)]

    model.change(own_settings, model, [label, frames, temperature, top_p, cfg], api_visibility="private")


def _shown(pipeline: nx.Pipeline, arguments: dict[str, Any]) -> Iterator[tuple[Any, Image.Image | None, str]]:
    """The frames so far with how far it is, then the clips as an animation."""
    frames, last = arguments.pop("frames"), None
    for result in pipeline.stream(**arguments):
        last, there = result, result.images.shape[2]
        words = f"Drawing: {there} frames, step {result.done} of {result.entities}, seed {result.seed}"
        yield gr.skip(), result.grid(zoom=1) if there else None, words
    assert last is not None
    images = last.images[:, :, :frames]
    given = {name: value for name, value in arguments.items() if name not in ("n", "labels")}
    given["seed"] = mix(arguments["seed"], "continued")  # other chances than those that drew the first frames
    if frames > images.shape[2]:
        for result in prediction.stream(pipeline, images, frames, labels=last.labels, **given):
            images = result.images
            yield gr.skip(), video.strip(images, zoom=1), f"Drawing: {images.shape[2]} frames of {frames}"
    with tempfile.TemporaryDirectory() as folder:
        path = video.save_clips(images, Path(folder) / "clips.webp", last.settings())
        yield str(path), video.strip(images, zoom=1), f"Done: {images.shape[2]} frames, seed {last.seed}"


def checked(
    loaded: dict[str, nx.Pipeline],
    model: str,
    label: str,
    n: float,
    frames: float,
    seed: float,
    temperature: float,
    top_p: float,
    cfg: float,
) -> tuple[nx.Pipeline, dict[str, Any]]:
    """The pipeline and the arguments of its `stream`, with `frames`; gr.Error names what isn't accepted."""
    pipeline = offered(loaded, model)
    arguments: dict[str, Any] = {
        "n": whole("clips", n, 1, MAX_CLIPS),
        "frames": whole("frames", frames, 1, MAX_FRAMES),
        "seed": whole("seed", seed, 0, MAX_SEED),
        "temperature": number("temperature", temperature, 0, MAX_TEMPERATURE),
        "top_p": number("top p", top_p, 0.01, 1),
        "cfg": number("guidance", cfg, 0, MAX_GUIDANCE),
        "labels": label_of(pipeline, label),
    }
    return pipeline, arguments


def _trained(pipeline: nx.Pipeline) -> int:
    """Frames of the clips that a model was trained on."""
    assert pipeline.tokenizer is not None
    return (pipeline.tokenizer.size or (1,))[0]
