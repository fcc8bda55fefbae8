"""A small residual classifier that judges generated pictures: class agreement, and a feature space close to the data.

Trained on the training split alone; the test split measures it. GroupNorm rather than BatchNorm, so that a picture is
judged the same in any batch.

Shapes: B batch, P picture channels, H W rows and columns, K classes, F features (the last width).
"""

from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ...config import Channels, ModelConfig
from ...contracts import Batch, Loss, Model, check_labels
from ...registry import register
from ...rng import Rng


class FashionCNNConfig(ModelConfig):
    """A classifier of small pictures: one stage per width, with the resolution halved in between."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(image_size=(8, 8), classes=3, widths=(8, 16)),
        "fashion": dict(image_size=(32, 32), classes=10, widths=(32, 64, 96)),
    }
    image_channels: int = Field(
        1, gt=0, le=1 << 10, description="Number of channels of a picture: 1 is grey, 3 is color."
    )
    image_size: tuple[int, int] = Field(default=(32, 32), description="Rows and columns of a picture, in pixels.")
    classes: int = Field(10, gt=1, description="Number of classes to tell apart.")
    widths: tuple[Annotated[Channels, Field(ge=8)], ...] = Field(
        min_length=1, max_length=16, description="Width of each stage, from the first to the last."
    )
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Share of the loss's target that is spread evenly over all classes."
    )


@register("judge", "fashion_cnn")
class FashionCNN(Model):
    """The model; see the module's text."""

    Config = FashionCNNConfig
    config: FashionCNNConfig

    def __init__(self, config: FashionCNNConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(config.image_channels, widths[0], 3, 2, 1)
        stages = [Stage(a, b, halve=i > 0) for i, (a, b) in enumerate(zip((widths[0], *widths), widths))]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.GroupNorm(1, widths[-1])
        self.head = nn.Linear(widths[-1], config.classes)

    @property
    def protocol(self) -> dict[str, Any]:
        """What a figure in this feature space has to be quoted with."""
        return {"net": self.kind, "resolution": list(self.config.image_size), "resize": "none", "layer": "pooled"}

    def features(self, images: Tensor) -> Tensor:
        """Images [B, P, H, W] in [0, 1] -> pooled features [B, F], fp32."""
        self._check_images(images)
        return F.gelu(self.norm(self.maps(images)[-1])).mean(dim=(2, 3)).float()

    def _check_images(self, images: Tensor) -> None:
        expected = (self.config.image_channels, *self.config.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"images: got shape {tuple(images.shape)}, accepted: [batch, {expected}]")

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [B, P, H, W] in [0, 1] -> feature maps of all stages [B, width, h, w], finest first."""
        found = [self.stem((images * 2 - 1).to(self.stem.weight.dtype))]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]

    def logits(self, images: Tensor) -> Tensor:
        """Images [B, P, H, W] in [0, 1] -> class logits [B, K], fp32."""
        return self.classify(self.features(images))

    def classify(self, features: Tensor) -> Tensor:
        """Features [B, F] -> class logits [B, K], fp32."""
        return self.head(features.to(self.head.weight.dtype)).float()

    def check(self, batch: Batch) -> None:
        """Labelled pictures in this model's shape."""
        if not {"images", "labels"} <= batch.keys():
            raise ValueError(
                f"data: got {', '.join(sorted(batch))}, accepted: images with labels, a judge learns from both"
            )
        self._check_images(batch["images"])
        check_labels(batch, self.config.classes)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Cross entropy with label smoothing; the accuracy of the batch is logged beside it. Draws nothing."""
        self.check(batch)
        logits = self.logits(batch["images"])
        labels_B, smoothing = batch["labels"], self.config.label_smoothing
        nats_B = F.cross_entropy(logits, labels_B, label_smoothing=smoothing, reduction="none")
        return Loss({"nats": nats_B}, measures={"accuracy": (logits.argmax(1) == labels_B).float()})

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise pictures with random labels, in this model's shapes."""
        images = rng.uniform(self.config.image_channels, *self.config.image_size)
        return {"images": images, "labels": rng.integers(self.config.classes)}


class Stage(nn.Module):
    """A change of width (and, by choice, half the resolution) and one pre-norm residual block."""

    def __init__(self, width_in: int, width: int, halve: bool):
        super().__init__()
        self.enter = nn.Conv2d(width_in, width, 3, 2 if halve else 1, 1)
        self.block = nn.Sequential(*(layer for _ in range(2) for layer in _preactivated(width)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, H, W] -> [B, width, H or H / 2, W or W / 2]."""
        x = self.enter(x)
        return x + self.block(x)


def _preactivated(width: int) -> tuple[nn.Module, ...]:
    return nn.GroupNorm(width // 8, width), nn.GELU(), nn.Conv2d(width, width, 3, 1, 1)
