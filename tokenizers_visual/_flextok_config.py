"""What a FlexTok can be: its config, the presets of it, and how it decodes."""

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from nextok_mm.config import Config, ModelConfig
from nextok_mm.flow.guidance import ordered
from nextok_mm.sequence.blocks import MAX_HEAD_DIM

from ._alignment import AlignmentConfig
from .kl_vae import KLVAEConfig


class Sampling(Config):
    """How to decode. guidance: classifier-free, or projected (APG); interval: only at times low <= t <= high.

    momentum, norm, eta: of projected guidance, see flow.guidance.Projected.
    """

    steps: int = Field(default=20, ge=1, le=1000, description="Solver steps of decoding.")
    solver: Literal["euler", "heun", "ab2"] = Field(default="euler", description="The solver: euler, heun or ab2.")
    guidance: Literal["none", "cfg", "apg"] = Field(
        default="apg", description="None, classifier-free (cfg) or adaptive projected (apg) guidance."
    )
    weight: float = Field(default=7.5, ge=0, le=100, description="Guidance weight; 1 means no guidance.")
    interval: tuple[float, float] = Field(
        default=(0.0, 1.0), description="Guide at times from low to high only (0 is data, 1 is noise)."
    )
    momentum: float = Field(
        default=-0.5, gt=-1, lt=1, description="Of apg: how much of earlier differences counts; below 0 they repel."
    )
    norm: float = Field(default=2.5, gt=0, description="Of apg: the longest guidance difference of a sample.")
    eta: float = Field(
        default=0.0, ge=0, le=1, description="Of apg: how much of the part parallel to the prediction stays."
    )

    _ordered = field_validator("interval")(ordered)


class Trunk(Config):
    """A transformer over [patches, registers].

    mask: two_way; causal, token by token; or causal_last, two-way among patches, which don't see the registers, and
    causal among registers, which see all patches. ada: AdaLN weights for each group, for both together, or none.
    """

    width: int = Field(gt=0, le=1 << 16)
    heads: int = Field(gt=0, le=1 << 12)
    depth: int = Field(gt=0, le=1 << 10)
    mask: Literal["two_way", "causal", "causal_last"] = "two_way"
    ada: Literal["group", "both", "none"] = "none"

    @field_validator("heads")
    @classmethod
    def _divides(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", 2 * heads)
        if width % heads or width // heads % 2 or width // heads > MAX_HEAD_DIM:
            raise ValueError(f"even width / heads of at most {MAX_HEAD_DIM} is accepted, of width {width}")
        return heads


class FlexTokConfig(ModelConfig):
    """A FlexTok. `size` names a preset; d12-d12, d18-d18 and d18-d28 are the published ones (256 x 256, VAE latents).

    image_size: of a picture; vae: its config (None: pixels); latent_size: rows and columns of the latents; registers:
    the most codes of a picture; levels: of the FSQ; positions: of the patches, fixed or learned; condition: the order
    in which the decoder's registers get positions, lose their tail and are swapped for the null condition; null: what
    stands for "no condition": a learned vector in every place, a single such token, or zeros; head_ada: the last
    layer is modulated by the time; predict: what the network says, the velocity (the paper) or the data, from which
    the velocity follows (for pixels, whose patches have more numbers than a small network is wide: arXiv 2511.13720);
    time_scale: of the times before their sinusoids; time_mean: of the
    training times' logit, above 0 for more noise; keep: how training draws the number
    of kept codes (all: no nested dropout, its ablation); drop: share of samples trained without condition;
    unquantised, corrupted: share of samples trained on numbers that aren't rounded, of codes swapped for random ones;
    repa: align a decoder layer with a feature network in training (its weights are no part of a released checkpoint).
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            image_channels=1,
            image_size=(8, 8),
            latent_channels=1,
            latent_size=(8, 8),
            patch=2,
            registers=8,
            levels=(5, 5, 5),
            encoder=dict(width=32, heads=2, depth=2, mask="causal_last"),
            decoder=dict(width=32, heads=2, depth=2, ada="group"),
            sampling=dict(steps=4),
        ),
        "fashion": dict(
            image_channels=1,
            image_size=(32, 32),
            latent_channels=16,
            latent_size=(4, 4),
            patch=1,
            registers=16,
            levels=(8, 8, 5, 5),
            vae=KLVAEConfig.SIZES["fashion"],
            encoder=dict(width=96, heads=3, depth=3, mask="causal_last"),
            decoder=dict(width=128, heads=4, depth=5, ada="both"),
        ),
        "emoji": dict(
            image_size=(64, 64),
            latent_channels=8,
            latent_size=(8, 8),
            patch=2,
            registers=64,
            levels=(8, 8, 8),
            vae=KLVAEConfig.SIZES["emoji"],
            encoder=dict(width=96, heads=3, depth=3, mask="causal_last"),
            decoder=dict(width=128, heads=4, depth=4, ada="both"),
        ),
        **{
            f"d{first}-d{second}": dict(
                vae=dict(block_channels=(128, 256, 512, 512)),
                encoder=dict(width=64 * first, heads=first, depth=first, mask="causal_last"),
                decoder=dict(width=64 * second, heads=second, depth=second, ada="group"),
            )
            for first, second in ((12, 12), (18, 18), (18, 28))
        },
    }
    image_channels: int = Field(default=3, gt=0, le=1 << 10)
    image_size: tuple[int, int] = (256, 256)
    vae: KLVAEConfig | None = None
    latent_channels: int = Field(default=16, gt=0, le=1 << 16)
    latent_size: tuple[int, int] = (32, 32)
    patch: int = Field(default=2, gt=0, le=1 << 10)
    registers: int = Field(default=256, gt=0, le=1 << 16)
    levels: tuple[int, ...] = Field(default=(8, 8, 8, 5, 5, 5), min_length=1, max_length=62)
    encoder: Trunk
    decoder: Trunk
    positions: Literal["sincos", "learned"] = "sincos"
    condition: tuple[Literal["positions", "dropout", "null"], ...] = Field(
        default=("positions", "dropout", "null"), max_length=3, fail_fast=True
    )
    null: Literal["token", "single", "zero"] = "token"
    head_ada: bool = True
    predict: Literal["velocity", "data"] = "velocity"
    time_scale: float = Field(default=1000.0, gt=0)
    time_mean: float = 0.0
    keep: Literal["uniform", "pow2", "uniform_pow2", "all"] = "uniform_pow2"
    drop: float = Field(default=0.2, ge=0, lt=1)
    unquantised: float = Field(default=0.0, ge=0, lt=1)
    corrupted: float = Field(default=0.0, ge=0, lt=1)
    repa: AlignmentConfig | None = None
    sampling: Sampling = Sampling()

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.latent_size[0] // self.patch, self.latent_size[1] // self.patch

    @model_validator(mode="after")
    def _consistent(self) -> "FlexTokConfig":
        if any(side % self.patch for side in self.latent_size):
            raise ValueError(f"latent_size {self.latent_size}: multiples of patch {self.patch} are accepted")
        if not {"dropout", "null"} <= set(self.condition) or len(set(self.condition)) != len(self.condition):
            raise ValueError(f"condition {self.condition}: dropout and null, and positions where wanted, each once")
        if self.encoder.ada != "none":
            raise ValueError("encoder.ada: got a modulated encoder, accepted: none, since it has no time")
        if self.decoder.ada == "none" and not self.head_ada:
            raise ValueError("decoder.ada: one of decoder.ada and head_ada has to take in the time")
        stride = 1 if self.vae is None else self.vae.stride
        channels = self.image_channels if self.vae is None else self.vae.latent_channels
        if (channels, *(side // stride for side in self.image_size)) != (self.latent_channels, *self.latent_size):
            raise ValueError(
                f"latent_size, latent_channels: got {self.latent_size} and {self.latent_channels}, but a picture of "
                f"{self.image_size} has {channels} channels at a stride of {stride}"
            )
        return self
