"""The metrics against closed forms and torchmetrics."""

import pytest
import torch

from nextok_mm.eval import metrics


def test_frechet_of_known_gaussians():
    """Diagonal Gaussians: |mu1 - mu2|^2 + sum (s1 - s2)^2."""
    mean1, mean2 = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    s1, s2 = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 0.0])  # one dimension has collapsed
    got = metrics.frechet_of_gaussians(mean1, s1.square().diag(), mean2, s2.square().diag())
    assert got == pytest.approx(1 + 4 + 4 + 0.25, rel=1e-9)


def test_frechet_of_rotated_gaussians():
    """Covariances with the same axes: the distance doesn't see a rotation of both."""
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    s1, s2 = torch.arange(1.0, 6.0).double(), torch.arange(5.0, 0.0, -1).double()
    cov1, cov2 = (rotation @ s.square().diag() @ rotation.T for s in (s1, s2))
    got = metrics.frechet_of_gaussians(torch.zeros(5), cov1, torch.zeros(5), cov2)
    assert got == pytest.approx(float((s1 - s2).square().sum()), rel=1e-9)


def test_frechet_equals_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.fid")
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.randn(400, 6, generator=generator), 1.5 * torch.randn(300, 6, generator=generator) + 0.3

    class Identity(torch.nn.Module):
        num_features = 6

        def forward(self, x):
            return x.flatten(1)

    theirs = image.FrechetInceptionDistance(feature=Identity(), input_img_size=(1, 1, 6), normalize=True)
    theirs.set_dtype(torch.float64)
    theirs.update(real[:, None, None].double(), real=True)
    theirs.update(fake[:, None, None].double(), real=False)
    # torchmetrics turns [0, 1] pictures into bytes unless told otherwise: compare on its own accumulated moments.
    assert metrics.frechet_distance(real, fake) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_frechet_of_a_set_with_itself_is_zero():
    features = torch.randn(50, 80, generator=torch.Generator().manual_seed(2))  # fewer samples than features
    assert metrics.frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "fake, message",
    [
        (torch.zeros(10, 3), "fake features: got shape"),
        (torch.zeros(1, 4), "fake features: got shape"),
        (torch.full((10, 4), float("nan")), "NaN"),
    ],
)
def test_frechet_refuses(fake, message):
    with pytest.raises(ValueError, match=message):
        metrics.frechet_distance(torch.zeros(10, 4), fake)


def test_precision_recall_of_identical_and_disjoint_sets():
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(3))
    assert metrics.precision_recall(features, features.clone()) == (1.0, 1.0)
    assert metrics.precision_recall(features, features + 100) == (0.0, 0.0)


def test_precision_recall_of_a_line():
    """By hand: real 0 1 2 3 and k = 1 have radius 1 each, generated 0.5 1.5 9 have radii 1, 1, 7.5."""
    real, fake = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[0.5], [1.5], [9.0]])
    precision, recall = metrics.precision_recall(real, fake, k=1)
    assert precision == pytest.approx(2 / 3)  # 9 lies in no ball
    assert recall == 1.0  # 3 lies within 7.5 of 9


def test_collapsed_samples_have_precision_without_recall():
    real = torch.randn(300, 4, generator=torch.Generator().manual_seed(4))
    fake = real[:1] + 1e-3 * torch.randn(300, 4, generator=torch.Generator().manual_seed(5))
    precision, recall = metrics.precision_recall(real, fake)
    assert precision > 0.9 and recall < 0.05


def test_chunks_do_not_change_the_result():
    real, fake = (torch.randn(130, 8, generator=torch.Generator().manual_seed(seed)) for seed in (6, 7))
    assert metrics.precision_recall(real, fake, chunk=17) == metrics.precision_recall(real, fake)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="k: got 3"):
        metrics.precision_recall(torch.zeros(3, 2), torch.zeros(10, 2))


def test_psnr_and_ssim():
    generator = torch.Generator().manual_seed(8)
    target = torch.rand(3, 1, 16, 16, generator=generator)
    noisy = (target + torch.tensor([0.1, 0.01, 0.0]).view(3, 1, 1, 1)).double()
    assert metrics.psnr(noisy, target.double()).tolist() == pytest.approx([20.0, 40.0, 120.0], abs=1e-4)
    functional = pytest.importorskip("torchmetrics.functional.image")
    blurred = 0.5 * target + 0.25
    whole = functional.structural_similarity_index_measure(blurred, target, data_range=1.0)
    each = metrics.ssim(blurred, target)
    assert each.shape == (3,) and each.mean() == pytest.approx(float(whole), abs=1e-6)


def test_agreement():
    assert metrics.agreement(torch.tensor([1, 2, 3, 3]), torch.tensor([1, 2, 0, 3])) == 0.75
