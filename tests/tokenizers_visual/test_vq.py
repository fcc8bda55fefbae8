"""What is special to the grid of codes: both quantizers, a codebook that learns, exact resume with one that does."""

import pytest
import torch
from safetensors.torch import save_file

from nextok_mm import registry
from nextok_mm.contracts import Tokens
from nextok_mm.rng import Rng
from nextok_mm.train import TrainConfig, train

FSQ = {"kind": "fsq", "levels": (5, 5, 3)}


def make(**fields):
    torch.manual_seed(0)
    return registry.build("tokenizer", "vq", {"size": "tiny", **fields})


@pytest.mark.parametrize("quantizer, codes", [(FSQ, 75), ({"kind": "vq", "size": 32, "width": 4}, 32)])
def test_a_picture_is_a_grid_of_codes(quantizer, codes):
    model = make(quantizer=quantizer).eval()
    images = model.example(2, Rng(range(2)))["images"]
    tokens = model.encode(images)
    assert model.num_codes == codes and tokens.grid == (4, 4) and tokens.data.dtype == torch.int64
    quantized, _, *_ = model.quantizer(model.encoder(images).movedim(1, -1))
    torch.testing.assert_close(model._decode(quantized).clamp(0, 1), model.decode(tokens))
    assert {"pixel", "code_usage", "code_perplexity"} <= set(model.loss({"images": images}, Rng(range(2))).parts)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_the_codebook_learns(codebook):
    model = make(quantizer={"kind": "vq", "size": 32, "width": 4, "codebook": codebook}).train()
    batch = model.example(16, Rng(range(16)))
    before = model.quantizer.codebook.detach().clone()
    used = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(20):
        loss = model.loss(batch, Rng(range(16)))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        model.after_step(Rng([step]))
        used.append(float(loss.parts["code_perplexity"]))
    assert not torch.equal(model.quantizer.codebook, before)
    assert used[-1] > used[0] and used[-1] > 8


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_a_cut_training_ends_in_the_same_bits(codebook, tmp_path):
    save_file(
        {"images": torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))}, tmp_path / "d.safetensors"
    )
    fields = {
        "model": {"role": "tokenizer", "kind": "vq", "size": "tiny"},
        "data": {"kind": "tensors", "path": str(tmp_path / "d.safetensors")},
        "train": {"steps": 6, "batch": 8, "cpu": True, "save_every": 2},
        "optim": {"warmup": 2},
    }
    fields["model"]["quantizer"] = {"kind": "vq", "size": 32, "width": 4, "codebook": codebook, "revive": 0.5}

    def run(name: str, **more) -> bytes:
        summary = train(
            TrainConfig.parse({**fields, "train": {**fields["train"], "out": str(tmp_path / name), **more}})
        )
        return b"" if summary.status == "stopped" else (tmp_path / name / "final/model.safetensors").read_bytes()

    whole = run("whole")
    while not (cut := run("cut", max_minutes=1e-9)):
        pass
    assert cut == whole


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: Tokens(t.data + 32, t.grid, t.source), "codes: got 32 to .*, accepted: 0 to 31"),
        (lambda t: Tokens(t.data - 32, t.grid), "accepted: 0 to 31"),
        (lambda t: Tokens(t.data.float(), t.grid), "accepted: whole numbers from 0 to 31"),
    ],
)
def test_wrong_codes_are_refused_in_one_line(change, words):
    model = make().eval()
    tokens = model.encode(model.example(2, Rng(range(2)))["images"])
    with pytest.raises(ValueError, match=words) as error:
        model.decode(change(Tokens(tokens.data.clamp_min(0) * 0, tokens.grid, tokens.source)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"quantizer": {"kind": "lfq"}}, "quantizer"),
        ({"quantizer": {"kind": "vq", "size": 1, "width": 4}}, "size"),
        ({"quantizer": {"kind": "fsq", "levels": (8, 1)}}, "levels: got"),
        ({"attention": (2,)}, "levels 0 to 1"),
        ({"image_size": (9, 8)}, "multiples of the stride 2"),
    ],
)
def test_a_wrong_config_is_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**fields)
    assert "\n" not in str(error.value)
