"""The Image tab: class-conditional pictures that appear entity by entity, with a Stop that stops the work itself.

A browser's limits bind nobody who talks to the server directly, so `checked` states every limit again.
"""

import atexit
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import gradio as gr
from PIL import Image

import nextok_mm as nx

MAX_PICTURES, MAX_STEPS, MAX_GUIDANCE, MAX_SEED = 64, 100, 20.0, 2**31 - 1
EVERY = "every class in turn"
T = TypeVar("T")
SOLVERS = ("euler_maruyama", "euler", "heun", "ab2")


def build(models: Sequence[str]) -> None:
    """Add the tab's parts to the page under construction; the models are loaded here, once."""
    if not models:
        raise ValueError("models: got none, accepted: at least one generator")
    turns, loaded = Turns(), {name: nx.load(name) for name in models}
    for name, pipeline in loaded.items():
        if pipeline.generator is None:
            raise ValueError(f"models: {name} is a tokenizer, accepted: generators")
    names = [(pipeline.card.name or name, name) for name, pipeline in loaded.items()]
    first = loaded[models[0]]
    own: Any = first.generator.config.sampling  # type: ignore[union-attr]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(names, value=models[0], label="Model", interactive=True)
            label = gr.Dropdown(classes_of(first), value=EVERY, label="Class")
            n = gr.Slider(1, MAX_PICTURES, 16, step=1, label="Pictures")
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed")
            with gr.Accordion("Sampling", open=False):
                steps = gr.Slider(1, MAX_STEPS, min(own.steps, MAX_STEPS), step=1, label="Steps an entity")
                cfg = gr.Slider(0, MAX_GUIDANCE, own.cfg, step=0.1, label="Guidance")
                solver = gr.Dropdown(SOLVERS, value=own.solver, label="Solver")
            with gr.Row():
                begin = gr.Button("Generate", variant="primary", elem_id="generate", min_width=100)
                stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=100)
        with gr.Column(scale=3, min_width=360):
            picture = gr.Image(
                label="Pictures", elem_id="pictures", format="png", interactive=False, height=560, buttons=["download"]
            )
            status = gr.Markdown("Choose a class and press Generate.", elem_id="status")

    def generate(
        model: str, label: str, n: float, seed: float, steps: float, cfg: float, solver: str
    ) -> Iterator[tuple[Image.Image, str]]:
        pipeline, arguments = checked(loaded, model, label, n, seed, steps, cfg, solver)
        # Closing this generator, which Stop does, ends the work after the entity that is being drawn.
        yield from turns.each(_shown(result) for result in pipeline.stream(**arguments))

    inputs = [model, label, n, seed, steps, cfg, solver]
    running = begin.click(
        generate, inputs, [picture, status], api_name="generate", concurrency_limit=1, show_progress="minimal"
    )
    stop.click(lambda: "Stopped.", None, status, cancels=[running], queue=False, api_visibility="private")
    model.change(
        lambda name: gr.Dropdown(classes_of(offered(loaded, name)), value=EVERY), model, label, api_visibility="private"
    )


class Turns:
    """Work that is done under a lock, which is taken for good when Python ends.

    A server's threads are cut off at that moment, and one that is inside torch would take the process down with it
    ("terminate called without an active exception"). So Ctrl-C waits for the entity that is being drawn.
    """

    def __init__(self) -> None:
        """Open until Python ends."""
        self.lock = threading.Lock()
        atexit.register(self.lock.acquire)

    def each(self, work: Iterator[T]) -> Iterator[T]:
        """What `work` gives, item by item, until it gives None."""
        try:
            while True:
                with self.lock:
                    item = next(work, None)
                if item is None:
                    return
                yield item
        finally:
            with self.lock:
                del work  # its tensors are torch's to free


def _shown(result: nx.Result) -> tuple[Image.Image, str]:
    words, took = "Done" if result.done == result.entities else "Drawing", sum(result.seconds.values())
    return result.grid(), f"{words}: entity {result.done} of {result.entities}, {took:.1f} s, seed {result.seed}"


def checked(
    loaded: dict[str, nx.Pipeline], model: str, label: str, n: float, seed: float, steps: float, cfg: float, solver: str
) -> tuple[nx.Pipeline, dict[str, Any]]:
    """The pipeline and the arguments of its `stream`; gr.Error names what isn't accepted."""
    pipeline = offered(loaded, model)
    arguments: dict[str, Any] = {
        "n": whole("pictures", n, 1, MAX_PICTURES),
        "seed": whole("seed", seed, 0, MAX_SEED),
        "steps": whole("steps", steps, 1, MAX_STEPS),
        "cfg": cfg,
        "solver": solver,
    }
    if isinstance(cfg, bool) or not isinstance(cfg, int | float) or not 0 <= cfg <= MAX_GUIDANCE:
        raise gr.Error(f"guidance: got {cfg!r:.40}, accepted: 0 to {MAX_GUIDANCE:g}", print_exception=False)
    if solver not in SOLVERS:
        raise gr.Error(f"solver: got {solver!r:.40}, accepted: {', '.join(SOLVERS)}", print_exception=False)
    if label not in classes_of(pipeline):
        raise gr.Error(f"class: got {label!r:.40}, accepted: {', '.join(classes_of(pipeline))}", print_exception=False)
    arguments["labels"] = None if label == EVERY else [classes_of(pipeline).index(label) - 1]
    return pipeline, arguments


def offered(loaded: dict[str, nx.Pipeline], model: str) -> nx.Pipeline:
    """The model of this name; gr.Error where none is offered under it."""
    if not isinstance(model, str) or model not in loaded:
        raise gr.Error(f"model: got {model!r:.40}, accepted: {', '.join(loaded)}", print_exception=False)
    return loaded[model]


def classes_of(pipeline: nx.Pipeline) -> list[str]:
    """What a visitor can ask a model for."""
    config: Any = pipeline.generator and pipeline.generator.config
    names = pipeline.card.labels or tuple(str(index) for index in range(getattr(config, "classes", 0)))
    return [EVERY, *names]


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number from low to high; gr.Error for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or not low <= value <= high:
        raise gr.Error(f"{name}: got {value!r:.40}, accepted: {low} to {high}", print_exception=False)
    if value != int(value):
        raise gr.Error(f"{name}: got {value!r:.40}, accepted: a whole number", print_exception=False)
    return int(value)
