"""What tokenizers that give pictures or clips back are trained with: pixels, feature maps, and a discriminator.

The discriminator learns in the same backward pass and the same optimizer as the tokenizer (see `adversarial`).

Shapes: B batch, P picture channels, T frames, H W rows and columns; clips have one dimension more than pictures.
Sources: Zhang et al. (arXiv 1801.03924) for the perceptual distance; Esser et al., Taming Transformers (arXiv
2012.09841), section 3.1, for the patch discriminator; Lim and Ye (arXiv 1705.02894) for its hinge loss.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nextok_mm.adversarial import hinge, judged
from nextok_mm.config import Config
from nextok_mm.contracts import Loss


class Adversarial(Config):
    """A patch discriminator, trained with the hinge loss."""

    weight: float = Field(0.1, gt=0, description="Weight of the adversarial loss in the tokenizer's loss.")
    width: int = Field(32, gt=0, le=1 << 12, multiple_of=8, description="Width of the discriminator's first layer.")
    depth: int = Field(2, ge=1, le=6, description="Number of times that the discriminator halves the resolution.")


class Perceptual(Config):
    """A distance between feature maps of a fixed network."""

    net: str = Field(
        default="effnet-lite0-imagenet", description="Name of the feature network (see nextok_mm.features.pictures)."
    )
    weight: float = Field(0.1, gt=0, description="Weight of the perceptual loss in the tokenizer's loss.")


class FrozenFeatures:
    """A feature network by its name, loaded when it is first needed.

    It is no module, so a model that holds one neither trains nor saves the network's weights.
    """

    def __init__(self, name: str, *options: Any):
        self.name, self.options = name, options
        self._net: Any = None

    def on(self, device: torch.device) -> Any:
        """The network on `device`; ValueError in one line for a name that nobody knows."""
        if self._net is None:
            from nextok_mm.features.pictures import load_features

            self._net = load_features(self.name, *self.options).requires_grad_(False)
        return self._net.to(device)


class PictureLoss:
    """How far pictures [B, P, H, W] or clips [B, P, T, H, W] that came back are from what they were.

    pixel: l1 or l2 error; low: their numbers lie in [low, 1], 0 or -1; critic_low: the same of what the discriminator
    is shown. Feature networks are always shown [0, 1].
    """

    def __init__(
        self,
        pixel: Literal["l1", "l2"],
        perceptual: Perceptual | None,
        adversarial: Adversarial | None,
        low: int = 0,
        critic_low: int = -1,
    ):
        self.error: Any = F.l1_loss if pixel == "l1" else F.mse_loss
        self.perceptual, self.adversarial = perceptual, adversarial
        self.low, self.critic_low = low, critic_low
        self.features = None if perceptual is None else FrozenFeatures(perceptual.net)

    def __call__(self, pictures: Tensor, target: Tensor, discriminator: nn.Module | None) -> Loss:
        """What came back (fp32, not clamped) and what it was -> the loss, to which a tokenizer may add terms."""
        loss = Loss({"pixel": self.error(pictures, target.float(), reduction="none")})
        if self.perceptual is not None:
            assert self.features is not None
            seen = (_frames(_ranged(x, self.low, 0)) for x in (pictures, target))
            maps = perceive(self.features.on(pictures.device), *seen)
            maps = tuple(torch.unflatten(each, 0, (len(pictures), -1)) for each in maps)  # the frames of a clip
            loss = loss.plus({"perceptual": maps}, {"perceptual": self.perceptual.weight})
        if self.adversarial is not None:
            shown = (_ranged(x, self.low, self.critic_low) for x in (pictures, target))
            fooled, told = adversarial(discriminator, *shown)
            terms = {"adversarial": fooled, "discriminator": told}
            loss = loss.plus(terms, {"adversarial": self.adversarial.weight})
        return loss


def perceive(net: Any, pictures: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Squared distance of channel-normalised feature maps (as LPIPS, no weights), of each map a tensor [B, h, w].

    Both are [B, P, H, W] in [0, 1]; net: see nextok_mm.features.pictures.
    """
    pairs = zip(net.maps(pictures), net.maps(target))
    return tuple((F.normalize(a) - F.normalize(b)).square().sum(1) for a, b in pairs)


def adversarial(discriminator: Any, pictures: Tensor, target: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The autoencoder's and the discriminator's hinge terms, of pictures or clips, a number per patch.

    Neither pushes the other's parameters (see `nextok_mm.adversarial`).
    """
    logits, real, fake = judged(discriminator, pictures, target.float())
    return -logits, hinge(real, fake)


def patch_discriminator(channels: int, config: Adversarial | None, dimensions: Literal[2, 3] = 2) -> Any:
    """Pictures [B, P, H, W] (2 dimensions) or clips [B, P, T, H, W] (3) -> one logit per patch; None without a config.

    Rows and columns are halved, frames are not. GroupNorm, not BatchNorm: a row must not see its neighbours.
    """
    if config is None:
        return None
    conv: Any = nn.Conv2d if dimensions == 2 else nn.Conv3d
    time = dimensions - 2
    kernel, stride = (3,) * time + (4, 4), (1,) * time + (2, 2)
    layers: list[nn.Module] = [conv(channels, config.width, 3, 1, 1), nn.LeakyReLU(0.2)]
    for level in range(config.depth):
        width, wider = (config.width * 2**i for i in (level, level + 1))
        layers += [conv(width, wider, kernel, stride, 1), nn.GroupNorm(8, wider), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, conv(config.width * 2**config.depth, 1, 3, 1, 1))


def _ranged(pictures: Tensor, low: int, wanted: int) -> Tensor:
    """Numbers in [low, 1] as numbers in [wanted, 1]."""
    if low == wanted:
        return pictures
    return pictures * 2 - 1 if wanted else pictures * 0.5 + 0.5


def _frames(pictures: Tensor) -> Tensor:
    """Clips [B, P, T, H, W] as pictures [B * T, P, H, W]; pictures as they are."""
    return pictures.transpose(1, 2).flatten(0, 1) if pictures.dim() == 5 else pictures
