"""Names of other libraries get a hint that names ours, whatever the model; nothing else does."""

import inspect

import pytest
import torch

import nextok_mm as nx
from nextok_mm import borrowed, registry


@pytest.fixture(scope="module")
def pipelines(tiny):
    return {name: nx.load(tiny / name, device="cpu") for name in ("xar", "clips", "flextok", "vae")}


@pytest.mark.parametrize(
    ("model", "given", "accepted"),
    [
        ("xar", {"num_inference_steps": 3}, "steps=..."),
        ("xar", {"guidance_scale": 3}, "cfg=..."),
        ("xar", {"eta": 0.0}, "solver=..."),
        ("xar", {"generator": torch.Generator()}, "seed=..."),
        ("xar", {"num_images_per_prompt": 3}, "n=..."),
        ("xar", {"output_type": "pil"}, "none; a Result has .images and .pil()"),
        ("xar", {"height": 3, "width": 3}, "none; a model draws samples of the size"),
        ("xar", {"size": 3}, "none; a model draws samples of the size"),
        ("xar", {"negative_prompt": "x"}, "none; guidance is away from the empty condition"),
        ("xar", {"max_new_tokens": 3}, "none; this model takes nothing of the kind"),
        ("xar", {"dtype": torch.bfloat16}, "none; load(name, dtype=...) chooses"),
        ("clips", {"steps": 3}, "none; this model has no solver"),
        ("clips", {"num_inference_steps": 3}, "none; this model has no solver"),
        ("clips", {"eta": 1.0}, "temperature=..."),
        ("clips", {"do_sample": False}, "temperature=..."),
    ],
)
def test_generate_and_stream_name_ours(pipelines, model, given, accepted):
    name, pattern = next(iter(given)), accepted.replace("(", r"\(").replace(")", r"\)").replace(".", r"\.")
    for run in (pipelines[model].generate, lambda **more: next(pipelines[model].stream(**more))):
        with pytest.raises(ValueError, match=f"^{name}: no such argument, accepted: {pattern}") as refused:
            run(**given)
        assert "\n" not in str(refused.value)


def test_tokenizers_name_theirs(pipelines):
    flextok, vae, images = pipelines["flextok"], pipelines["vae"], torch.rand(1, 1, 8, 8)
    for run in (lambda **more: flextok.detokenize([1, 2], **more), lambda **more: flextok.reconstruct(images, **more)):
        with pytest.raises(ValueError, match=r"^guidance_scale: no such argument, accepted: cfg=\.\.\."):
            run(guidance_scale=3)
        with pytest.raises(ValueError, match=r"^num_inference_steps: no such argument, accepted: steps=\.\.\."):
            run(num_inference_steps=3)
    with pytest.raises(ValueError, match=r"^output_type: no such argument, accepted: none; a Result has"):
        vae.reconstruct(images, output_type="pil")
    with pytest.raises(ValueError, match=r"^batch_size: no such argument, accepted: batch=\.\.\."):
        vae.detokenize(vae.tokenize(images), batch_size=3)
    assert flextok.detokenize([1, 2], eta=0.5, steps=1).sampling["eta"] == 0.5  # a setting of its own stays one


def test_names_of_before_are_answered_with_todays(pipelines):
    with pytest.raises(ValueError, match=r"^keep: no such argument, accepted: known=\.\.\."):
        pipelines["xar"].generate(keep=1)
    with pytest.raises(ValueError, match=r"^weight: no such argument, accepted: cfg=\.\.\."):
        pipelines["flextok"].detokenize([1, 2], weight=3)
    with pytest.raises(ValueError, match="^generator.elm.codes: unknown key, which is called 'num_codes' .* now$"):
        registry.build("generator", "elm", {"size": "tiny", "codes": 64})
    with pytest.raises(
        ValueError, match="^tokenizer.flextok.keep: unknown key, which is called 'nested_dropout' .* now$"
    ):
        registry.build("tokenizer", "flextok", {"size": "tiny", "keep": "all"})


def test_load_names_ours_and_refuses_others_as_python_does(tiny):
    with pytest.raises(ValueError, match=r"^torch_dtype: no such argument, accepted: dtype=\.\.\."):
        nx.load(tiny / "vae", torch_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"^device_map: no such argument, accepted: device=\.\.\."):
        nx.load(tiny / "vae", device_map="auto")
    with pytest.raises(ValueError, match=r"^torch_dtype: no such argument, accepted: dtype=\.\.\."):
        nx.Pipeline.from_pretrained(tiny / "vae", torch_dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="unexpected keyword argument 'banana'"):
        nx.load(tiny / "vae", banana=1)


def test_a_guess_by_spelling_is_a_near_one(pipelines):
    with pytest.raises(ValueError, match="temprature: unknown key; did you mean 'temperature'"):
        pipelines["clips"].generate(temprature=1)
    with pytest.raises(ValueError) as refused:
        pipelines["xar"].generate(tokens=1)  # nearly `steps` for a machine, not for a reader
    assert "did you mean" not in str(refused.value)


def test_every_name_of_ours_is_an_argument_or_a_setting_of_something():
    from generators import elm, language, next_block, xar
    from tokenizers_visual import flextok

    known = {name for module in (elm, language, next_block, xar, flextok) for name in module.Sampling.model_fields}
    for method in (nx.Pipeline.generate, nx.Pipeline.detokenize, nx.load):
        known |= set(inspect.signature(method).parameters)
    ours = {name for names in borrowed.OURS.values() for name in names}
    assert ours <= known
    assert all(text and not text.endswith(".") and "\n" not in text for text in borrowed.NONE.values())
    assert borrowed.meaning("cfg", {"cfg"}) is None and borrowed.meaning("banana", {"cfg"}) is None
