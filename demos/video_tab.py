"""The Video tab: clips whose frames appear as soon as they are final, played when the last one is there."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

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
    field,
    generators,
    label_of,
    number,
    offered,
    typed,
    unchecked,
    whole,
)

MAX_CLIPS, MAX_FRAMES = 9, 65
SETTINGS = {
    "temperature": ("Temperature", 0, MAX_TEMPERATURE),
    "top_p": ("Top p", 0.01, 1),
    "cfg": ("Guidance", 0, MAX_GUIDANCE),
}
"""What a visitor can set: its label, the lowest and the highest number."""


def build(models: Sequence[str]) -> None:
    """Add the tab's parts to the page under construction; the models are loaded here, once."""
    turns, loaded = Turns(), generators(models)
    first = loaded[models[0]]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            model = unchecked(gr.Dropdown(choices(loaded), value=models[0], label="Model", interactive=True))
            label = unchecked(gr.Dropdown(classes_of(first), value=EVERY, label="What moves"))
            n = unchecked(gr.Slider(1, MAX_CLIPS, 4, step=1, label="Clips"))
            seed = unchecked(gr.Number(0, minimum=0, maximum=MAX_SEED, step=1, label="Seed"))
            frames = unchecked(_field(first, "frames"))
            with gr.Accordion("Sampling", open=False):
                settings = [unchecked(_field(first, name)) for name in SETTINGS]
            with gr.Row():
                begin = gr.Button("Generate", variant="primary", elem_id="generate-clips", min_width=100)
                stop = gr.Button("Stop", variant="stop", elem_id="stop-clips", min_width=100)
            status = gr.Markdown("Choose what moves and press Generate.", elem_id="clip-status")
        with gr.Column(scale=3, min_width=360):
            played = gr.Image(label="Clips", elem_id="clips", interactive=False, height=380, buttons=["download"])
            shown = gr.Image(
                label="Frames", elem_id="frames", format="png", interactive=False, height=240, buttons=["download"]
            )

    def generate(
        model: str,
        label: str,
        n: float,
        frames: str,
        seed: float,
        temperature: str,
        top_p: str,
        cfg: str,
    ) -> Iterator[tuple[Any, Any, str]]:
        own = map(typed, (temperature, top_p, cfg))
        pipeline, arguments = checked(loaded, model, label, n, typed(frames), seed, *own)
        yield from turns.each(_shown(pipeline, arguments))

    running = gr.on(
        [begin.click, *(box.submit for box in (seed, frames, *settings))],
        generate,
        [model, label, n, frames, seed, *settings],
        [played, shown, status],
        api_name="clips",
        concurrency_limit=1,
        show_progress="minimal",
    )
    stop.click(lambda: "Stopped.", None, status, cancels=[running], queue=False, api_visibility="private")

    def own_settings(name: str) -> list[Any]:
        """What moves, and what a model's settings are."""
        chosen = offered(loaded, name)
        fields = (_field(chosen, name) for name in ("frames", *SETTINGS))
        return [gr.Dropdown(classes_of(chosen), value=EVERY), *fields]

    model.change(own_settings, model, [label, frames, *settings], api_visibility="private")


def _field(pipeline: nx.Pipeline, name: str) -> gr.Textbox:
    """The frames, or a sampling setting, of a model."""
    if name == "frames":
        return field("Frames", _trained(pipeline), 1, MAX_FRAMES)
    label, low, high = SETTINGS[name]
    own: Any = pipeline.generator.config.sampling  # type: ignore[union-attr]
    return field(label, getattr(own, name), low, high)


def _shown(pipeline: nx.Pipeline, arguments: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """The frames so far with how far it is, then the clips as an animation; each in a file of its own."""
    frames, last = arguments.pop("frames"), None
    for result in pipeline.stream(**arguments):
        last, there = result, result.data.shape[2]
        words = f"Drawing: {there} frames, step {result.finished} of {result.total}, seed {result.seed}"
        if there:
            with _strip(result.data) as strip:
                yield gr.skip(), strip, words
        else:
            yield gr.skip(), None, words
    assert last is not None
    images = last.data[:, :, :frames]
    given = {name: value for name, value in arguments.items() if name not in ("n", "labels")}
    given["seed"] = mix(arguments["seed"], "continued")  # other chances than those that drew the first frames
    if frames > images.shape[2]:
        for result in prediction.stream(pipeline, images, frames, labels=last.labels, **given):
            images = result.data
            with _strip(images) as strip:
                yield gr.skip(), strip, f"Drawing: {images.shape[2]} frames of {frames}"
    with tempfile.TemporaryDirectory() as folder, _strip(images) as strip:
        path = video.save_clips(images, Path(folder) / f"seed-{last.seed}.webp", last.settings())
        yield str(path), strip, f"Done: {images.shape[2]} frames, seed {last.seed}"


@contextmanager
def _strip(images: Tensor) -> Iterator[str]:
    """The frames of clips side by side, as a file that nobody else writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.png"
        video.strip(images, zoom=1).save(path)
        yield str(path)


def checked(
    loaded: dict[str, nx.Pipeline],
    model: str,
    label: str,
    n: float,
    frames: float | None,
    seed: float,
    temperature: float | None,
    top_p: float | None,
    cfg: float | None,
) -> tuple[nx.Pipeline, dict[str, Any]]:
    """The pipeline and the arguments of its `stream`, with `frames`; gr.Error names what isn't accepted."""
    pipeline = offered(loaded, model)
    arguments: dict[str, Any] = {
        "n": whole("clips", n, 1, MAX_CLIPS),
        "frames": whole("frames", _trained(pipeline) if frames is None else frames, 1, MAX_FRAMES),
        "seed": whole("seed", seed, 0, MAX_SEED),
        "labels": label_of(pipeline, label),
    }
    for (name, (label_, low, high)), value in zip(SETTINGS.items(), (temperature, top_p, cfg)):
        if value is not None:
            arguments[name] = number(label_.lower(), value, low, high)
    return pipeline, arguments


def _trained(pipeline: nx.Pipeline) -> int:
    """Frames of the clips that a model was trained on."""
    assert pipeline.tokenizer is not None
    return (pipeline.tokenizer.size or (1,))[0]
