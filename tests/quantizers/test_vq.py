"""The learned codebook, against vector-quantize-pytorch, and what its updates keep: order, parts, processes."""

import pytest
import torch

from nextok_mm.quantizers.vq import VQ, VQConfig
from nextok_mm.rng import Rng

V, F = 16, 4


def make(**fields) -> VQ:
    torch.manual_seed(0)
    return VQ(VQConfig.parse({"size": V, "width": F, "start": "random", "revive": 0.0, **fields})).train()


def vectors(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, F, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_it_agrees_with_vector_quantize_pytorch(codebook):
    peer = pytest.importorskip("vector_quantize_pytorch")
    ours = make(codebook=codebook, decay=0.9, commitment=0.7)
    learned = codebook == "gradient"
    theirs = peer.VectorQuantize(
        dim=F,
        codebook_size=V,
        decay=0.9,
        commitment_weight=0.0 if learned else 0.7,
        ema_update=not learned,
        learnable_codebook=learned,
        rotation_trick=False,
    ).train()
    with torch.no_grad():
        theirs._codebook.embed.copy_(ours.codebook[None])
        theirs._codebook.cluster_size.copy_(64 * ours.shares[None])
        theirs._codebook.embed_avg.copy_(64 * (ours.codebook / V)[None])
    for step in range(3):
        mine, other = (vectors(seed=step)[None].clone().requires_grad_() for _ in range(2))
        quantized, codes, loss = ours(mine)
        expected, their_codes, their_loss = theirs(other)
        assert torch.equal(codes, their_codes)
        torch.testing.assert_close(quantized, expected)
        (quantized.square().sum() + (loss.mean() if not learned else 0)).backward()
        (expected.square().sum() + their_loss.sum()).backward()
        torch.testing.assert_close(mine.grad, other.grad)
        ours.after_step(Rng([step]))
        if not learned:
            torch.testing.assert_close(ours.codebook, theirs._codebook.embed[0])
            torch.testing.assert_close(64 * ours.shares, theirs._codebook.cluster_size[0])


def test_both_sides_of_a_learned_codebook_are_pulled():
    """The gradients of the two squared distances, by hand."""
    vq, z = make(codebook="gradient", commitment=0.5), vectors().requires_grad_()
    _, codes, loss = vq(z)
    loss.mean().backward()
    gap = (z - vq.codebook[codes]).detach() * 2 / (64 * F)
    torch.testing.assert_close(z.grad, 0.5 * gap)
    torch.testing.assert_close(vq.codebook.grad, torch.zeros(V, F).index_add_(0, codes, -gap))


def test_codes_are_the_nearest_and_come_back():
    vq, z = make().eval(), vectors()
    quantized, codes, _ = vq(z)
    assert torch.equal(codes, torch.cdist(z, vq.codebook).argmin(1))
    torch.testing.assert_close(vq.dequantize(codes), quantized)
    with pytest.raises(ValueError, match=f"accepted: 0 to {V - 1}"):
        vq.dequantize(torch.tensor([0, V]))


def test_a_step_in_parts_is_the_whole_step():
    whole, parts = make(revive=0.5, decay=0.5), make(revive=0.5, decay=0.5)
    for step in range(4):
        z = vectors(seed=step)
        whole(z)
        for part in z.split(16):
            parts(part)
        for vq in (whole, parts):
            vq.after_step(Rng([step]))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values()))
    assert int(whole.steps) == 4


@pytest.mark.parametrize("start", ["data", "kmeans"])
def test_it_starts_on_the_vectors_of_the_first_step(start):
    vq, z = make(start=start), vectors() + 100
    before = vq.codebook.clone()
    vq(z)
    assert torch.equal(vq.codebook, before)  # the forward pass reads only
    vq.after_step(Rng([0]))
    on_data = (torch.cdist(vq.codebook, z, compute_mode="donot_use_mm_for_euclid_dist").min(1).values == 0).all()
    assert on_data if start == "data" else not on_data
    errors = vq(z)[2].mean(), make(start="data")
    errors[1](z)
    errors[1].after_step(Rng([0]))
    assert errors[0] <= errors[1](z)[2].mean()
    assert len(vq(z)[1].unique()) > V // 2


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_dead_codes_are_put_back_onto_data(codebook):
    vq = make(codebook=codebook, revive=0.1, decay=0.5)
    with torch.no_grad():
        vq.codebook[3:] += 1000  # nobody is near
    for step in range(20):
        vq(vectors(seed=step))
        vq.after_step(Rng([step]))
    assert vq.codebook.abs().max() < 10
    assert len(vq(vectors(512, seed=99))[1].unique()) > V // 2


def test_nothing_is_updated_where_nothing_learns():
    vq = make(revive=0.5)
    before = {name: value.clone() for name, value in vq.state_dict().items()}
    with torch.no_grad():
        vq(vectors())
    vq.after_step(Rng([0]))
    vq.eval()(vectors())
    vq.after_step(Rng([0]))
    assert all(torch.equal(before[name], value) for name, value in vq.state_dict().items())


def test_it_stays_in_fp32_under_autocast():
    vq = make()
    with torch.autocast("cpu", torch.bfloat16):
        quantized, codes, _ = vq(vectors())
    assert quantized.dtype == torch.float32 and torch.equal(codes, vq(vectors())[1])
