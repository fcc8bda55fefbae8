"""Next-block prediction: block shapes, both starts, guidance, known codes, clips through the pipeline."""

import pytest
import torch

from generators.next_block import NextBlock, Sampling
from nextok_mm import registry
from nextok_mm.checkpoint import Card
from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.pipeline import Pipeline, prediction
from nextok_mm.rng import Rng
from nextok_mm.sequence.masks import block_causal, continued
from tests.contract.test_rows import KNOWN, check_rows, masks

GRID = (3, 4, 4)


def build(**fields) -> NextBlock:
    torch.manual_seed(0)
    model = registry.build("generator", "next_block", {"size": "tiny", **fields}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def run(model, seeds=(1, 2), labels=(0, 1), known=None, **sampling):
    label = torch.tensor(labels) if model.config.classes else None
    *_, last = decode(model, model.start({"labels": label}, Rng(seeds), Sampling(**sampling), known))
    return last


BLOCKS = {"token": (1, 1, 1), "half row": (1, 1, 2), "row": (1, 1, 4), "rows": (1, 2, 4), "frame": (1, 4, 4)}
BLOCKS |= {"cube": (3, 2, 2), "frames": (3, 4, 4)}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_every_block_shape_trains_and_samples(block):
    model = build(block=block)
    codes, size = 48, block[0] * block[1] * block[2]
    batch = model.example(2, Rng([1, 2]))
    assert model.predict(batch, Rng([1, 2])).shape == (2, codes, size + 3 + 100)
    done = run(model)
    assert done.calls == codes // size + size - 1 and done.data.shape == (2, codes)
    assert 0 <= done.data.min() and done.data.max() < 100
    assert torch.equal(done.data, run(model, cache=False).data)


def test_a_token_predicts_its_counterpart_in_the_next_block():
    """In a block of two rows by two columns, the code that a position's target is lies one block on, at its place."""
    model = build(block=(1, 2, 2), start="given", classes=0)
    raster = torch.arange(48)[None]
    order = model.layout.to_sequence(raster)[0]
    offsets = order[4:] - order[:-4]
    assert torch.equal(offsets.view(-1, 4), offsets.view(-1, 4)[:, :1].expand(-1, 4))


@pytest.mark.parametrize("block", [(1, 1, 3), (2, 4, 4), (0, 1, 1)])
def test_a_block_that_does_not_divide_the_grid_is_refused(block):
    with pytest.raises(ValueError, match=r"block: got .*, accepted: divisors of the grid \(3, 4, 4\)"):
        build(block=block)


def test_a_given_start_needs_its_first_block():
    model = build(start="given", classes=0)
    with pytest.raises(ValueError, match=r"known: got none of the first block \(1, 1, 4\), accepted: its codes"):
        model.start(None, Rng([0]))
    known = torch.randint(100, (1, 48))
    state = model.start(None, Rng([0]), None, Known(known, torch.arange(48) < 16))
    *_, done = decode(model, state)
    assert torch.equal(done.data[:, :16], known[:, :16])
    assert done.calls == 8  # four known blocks cost nothing, the first call takes them in at once


def test_known_codes_in_between_stay_and_those_behind_follow_them():
    model = build()
    known = torch.randint(100, (1, 48), generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(48, dtype=torch.bool)
    mask[:16] = mask[32:] = True  # first and last frame
    done = run(model, known=Known(known, mask))
    assert torch.equal(done.data[:, mask], known.expand(2, -1)[:, mask]) and done.calls == 4
    other = run(model, known=Known(known.flip(1), mask))
    assert not torch.equal(other.data[:, 16:32], done.data[:, 16:32])


def test_wrong_codes_to_keep_are_refused():
    with pytest.raises(ValueError, match="known: got codes 0 to 100, accepted: 0 to 99"):
        run(build(), known=Known(torch.tensor([[100] + [0] * 47]), torch.ones(48, dtype=torch.bool)))


def test_special_ids_are_drawn_only_on_request():
    model = build()
    with torch.no_grad():
        model.head.logits.weight[: model.config.shift] *= 100  # a filler is the likeliest everywhere
    assert run(model, temperature=0).data.min() >= 0
    assert run(model, temperature=0, special=True).data.min() < 0


def test_guidance_of_one_is_none_and_more_is_some():
    model = build()
    plain, same, more = (run(model, cfg=cfg).data for cfg in (1.0, 1.0, 4.0))
    assert torch.equal(plain, same) and not torch.equal(plain, more)
    torch.testing.assert_close(run(model, cfg=4.0, cache=False).data, more)


def test_a_condition_of_several_tokens():
    model = build(condition=3, classes=7)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    *_, done = decode(model, model.start({"labels": ids}, Rng([1, 2]), Sampling(cfg=2.0)))
    assert done.data.shape == (2, 48)
    without = Pipeline(pipeline().tokenizer, model, Card(role="generator", kind="next_block", name="t"))
    assert without.generate(n=2).images.shape == (2, 1, 5, 8, 8)
    with pytest.raises(ValueError, match=r"labels: got shape \(2, 2\), accepted: \(2, 3\) condition ids of 0 to 6"):
        model.start({"labels": ids[:, :2]}, Rng([1, 2]))


def test_nobody_sees_padding():
    """What a short condition is filled up with changes nothing, wherever its embedding goes."""
    model = build(condition=3, classes=7, pad=6)
    ids = torch.tensor([[1, 6, 6], [4, 5, 6]])
    batch = {"tokens": model.example(2, Rng([1, 2]))["tokens"], "labels": ids}
    results = []
    for _ in range(2):
        with torch.no_grad():
            kept = torch.zeros(2, dtype=torch.bool)
            logits = model.logits(model.layout.to_sequence(batch["tokens"]), ids, kept)
            *_, done = decode(model, model.start({"labels": ids}, Rng([1, 2]), Sampling(temperature=0, cfg=1.0)))
            *_, plain = decode(
                model, model.start({"labels": ids}, Rng([1, 2]), Sampling(temperature=0, cfg=1.0, cache=False))
            )
            results.append((logits, done.data))
            assert torch.equal(done.data, plain.data)
            model.embed.table.weight[4 + 6] += 5
    torch.testing.assert_close(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    with pytest.raises(ValueError, match="labels: got a condition of 6"):
        model.start({"labels": torch.tensor([[6, 6, 6]])}, Rng([1]))
    with pytest.raises(ValueError, match="pad: got 9"):
        build(condition=3, classes=7, pad=9)


def test_the_mask_of_a_pass_is_that_of_the_whole():
    sizes = (1, 1, 1, 4, 4)
    whole = block_causal(sizes)
    assert torch.equal(continued(3, (4, 4)).dense(), whole.dense()[3:])
    assert continued(7, (4,)).full


def pipeline() -> Pipeline:
    torch.manual_seed(0)
    tokenizer = registry.build("tokenizer", "video_vq", {"size": "tiny"}).eval()
    return Pipeline(tokenizer, build(), Card(role="generator", kind="next_block", name="tiny-clips"))


def test_frames_are_handed_out_as_soon_as_they_are_final():
    speaks = pipeline()
    partials = [result.images for result in speaks.stream([0, 1], n=2, seed=5)]
    whole = speaks.generate([0, 1], n=2, seed=5).images
    lengths = [partial.shape[2] for partial in partials]
    assert lengths == [0] * 3 + [1] * 4 + [3] * 4 + [5]
    for partial in partials:
        torch.testing.assert_close(partial, whole[:, :, : partial.shape[2]], rtol=0, atol=1e-5)


def test_prediction_slides_beyond_the_trained_length(tmp_path):
    speaks = pipeline()
    given = torch.rand(2, 1, 3, 8, 8)
    result = prediction.predict(speaks, given, frames=14, seed=1)
    assert result.images.shape == (2, 1, 14, 8, 8) and torch.equal(result.images[:, :, :3], given)
    lengths = [part.images.shape[2] for part in prediction.stream(speaks, given, 14, 1)]
    assert lengths == [5, 7, 9, 11, 13, 14]
    for frames in (3, 17.5, "17"):
        with pytest.raises(ValueError, match="frames: got .*, accepted: a whole number above the 3 that are given"):
            prediction.predict(speaks, given, frames=frames)
    for wrong in (given[..., :4], given[:0], given[:, :, :0]):
        with pytest.raises(ValueError, match="clips: got shape"):
            prediction.predict(speaks, wrong)
    with pytest.raises(ValueError, match=r"given: got 2 frames, accepted: 1, 3 \(what makes whole codes\)"):
        prediction.predict(speaks, given[:, :, :2])


def test_prediction_has_no_condition_unless_one_is_given():
    speaks, given = pipeline(), torch.rand(3, 1, 3, 8, 8)
    plain = prediction.predict(speaks, given, seed=1)
    assert plain.labels is None and speaks.generate("none", n=3).labels is None
    assert prediction.predict(speaks, given, seed=1, labels=[2]).labels == [2, 2, 2]


def test_every_given_frame_counts():
    speaks, given = pipeline(), torch.rand(1, 1, 3, 8, 8)
    other = given.clone()
    other[:, :, 0] = 1 - other[:, :, 0]
    with torch.random.fork_rng():
        after = [prediction.predict(speaks, clips, seed=1).images[:, :, 3:] for clips in (given, other)]
    assert not torch.equal(*after)


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp", ".png"])
def test_a_result_is_saved_by_its_ending(tmp_path, ending):
    pytest.importorskip("av")
    path = pipeline().generate([0, 1], n=2).save(tmp_path / f"out{ending}")
    assert path.stat().st_size > 100


def test_a_picture_s_ending_is_checked_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r"out: got .*clip.avi.*\.mp4, \.gif, \.webp, \.png"):
        pipeline().medium.check_out(tmp_path / "clip.avi", False)


@pytest.mark.parametrize("start", ["hybrid", "given"])
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_row_of_every_block_shape_is_the_same_alone(block, start):
    size = block[0] * block[1] * block[2]
    if start == "given" and size == 48:
        pytest.skip("one block leaves nothing to predict")
    model = build(block=block, **({} if start == "hybrid" else {"start": start, "classes": 0}))
    labels = {"labels": torch.tensor([0, 1, 2, 0])} if start == "hybrid" else None
    first = model.layout.inverse < size if start == "given" else torch.zeros(48, dtype=torch.bool)
    for kinds in (("nothing", "all", "the first half", "some tokens"), KNOWN[1:]):
        for cfg in (1.0, 2.0):
            check_rows(model, (3, 4, 5, 6), labels, masks(model, kinds, 7) | first, cfg=cfg)


def test_no_condition_has_no_padding():
    """Id 0 stands in for a condition that isn't there, which may be the padding's: its vectors are seen still."""
    tokens = torch.randint(100, (1, 48), generator=torch.Generator().manual_seed(0))
    found = []
    for pad in (0, 8):
        model = build(condition=3, classes=9, pad=pad)
        with torch.no_grad():
            state = model.start(None, Rng([1]))
            sampled = model._pass(state, model._place(0), 1)[:, 0]
            trained = model.logits(model.layout.to_sequence(tokens), None, torch.ones(1, dtype=torch.bool))[:, 0]
        torch.testing.assert_close(sampled, trained[:, model.config.shift :])
        found.append(sampled)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8], ids=str)
def test_known_codes_of_any_whole_dtype(dtype):
    known = torch.randint(100, (1, 48), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(48) < 16
    small, large = (run(build(), known=Known(codes, mask)).data for codes in (known.to(dtype), known))
    assert torch.equal(small, large)
