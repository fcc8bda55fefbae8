"""The numbers themselves: distances between sets of features, agreement of labels, errors of reconstructions.

Shapes: M real samples, N generated samples, F features, B batch, C H W picture.
"""

import torch
from torch import Tensor


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two feature sets [M, F] and [N, F], in fp64.

    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances over n - 1. Its square root of a matrix product is taken
    as the eigenvalues of S1^(1/2) S2 S1^(1/2): symmetric, so that rounding can't make them complex.
    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule (arXiv 1706.08500), section 2.
    """
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != real.shape[1]:
            raise ValueError(
                f"{name} features: got shape {tuple(features.shape)}, accepted: [2 or more, same features]"
            )
        if not features.isfinite().all():
            raise ValueError(f"{name} features: got NaN or infinite values, finite ones are accepted")
    return frechet_of_gaussians(*_gaussian(real), *_gaussian(fake))


def frechet_of_gaussians(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Frechet distance of two Gaussians given as mean [F] and covariance [F, F]; see `frechet_distance`."""
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    return max(float(distance), 0.0)


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, chunk: int = 2048) -> tuple[float, float]:
    """How much of `fake` [N, F] lies on the manifold of `real` [M, F] (precision), and the reverse (recall).

    A manifold is the union of balls around its samples, each reaching to the k-th nearest other sample.
    Source: Kynkäänniemi et al., Improved Precision and Recall Metric (arXiv 1904.06991), section 2.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"k: got {k}, accepted: less than the samples ({len(real)} real, {len(fake)} generated)")
    return _covered(real, fake, k, chunk), _covered(fake, real, k, chunk)


def agreement(predicted: Tensor, labels: Tensor) -> float:
    """Share of samples [N] that the judge assigns to the class they were asked for."""
    return float((predicted == labels).double().mean())


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture of [B, C, H, W] in [0, 1], in dB: [B]."""
    return -10 * (images - target).cpu().double().square().flatten(1).mean(1).clamp(min=1e-12).log10()


def ssim(images: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each picture of [B, C, H, W] in [0, 1] (torchmetrics, 11 x 11 Gaussian window): [B]."""
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise ValueError("SSIM needs torchmetrics: pip install 'nextok_mm[eval]'") from None
    similarity = structural_similarity_index_measure(images, target, reduction="none", data_range=1.0)
    assert isinstance(similarity, Tensor)  # a pair only where its gradient is asked for
    return similarity


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), torch.atleast_2d(torch.cov(features.T))


def _covered(centres: Tensor, queries: Tensor, k: int, chunk: int) -> float:
    """Share of `queries` that lie in at least one centre's ball; `chunk` rows of distances at a time."""
    # The distance of a sample to itself is 0 and comes first, hence k + 1.
    radii = torch.cat([torch.cdist(part, centres).kthvalue(k + 1, dim=1).values for part in centres.split(chunk)])
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in queries.split(chunk)]
    return float(torch.cat(inside).double().mean())
