"""What a FlexTok can be: its config, the presets of it, and how it decodes."""

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from nextok_mm.config import Config, ModelConfig
from nextok_mm.flow.guidance import ordered
from nextok_mm.sequence.blocks import MAX_HEAD_DIM

from ._alignment import AlignmentConfig
from .kl_vae import KLVAEConfig


class Sampling(Config):
    """How to decode: the flow's solver, and classifier-free or adaptive projected guidance (APG).

    The last three settings belong to APG, see `nextok_mm.flow.guidance.Projected`.
    """

    steps: int = Field(default=20, ge=1, le=1000, description="Number of solver steps from noise to a picture.")
    solver: Literal["euler", "heun", "ab2"] = Field(
        default="euler", description="The method that integrates the velocity from noise (time 1) to data (time 0)."
    )
    guidance: Literal["none", "cfg", "apg"] = Field(
        default="apg", description="The kind of guidance: none, classifier-free (cfg), or adaptive projected (apg)."
    )
    cfg: float = Field(default=7.5, ge=0, le=100, description="Weight of guidance; 1 turns it off.")
    cfg_interval: tuple[float, float] = Field(
        default=(0.0, 1.0),
        description="Guide only at times t of the flow with low <= t <= high; time 0 is data, time 1 is noise.",
    )
    momentum: float = Field(
        default=-0.5,
        gt=-1,
        lt=1,
        description="Momentum of the guidance difference over the steps; a negative one pushes away from the past.",
    )
    norm: float = Field(default=2.5, gt=0, description="The largest length of the guidance difference of a sample.")
    eta: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the difference's component parallel to the prediction that is kept.",
    )

    _ordered = field_validator("cfg_interval")(ordered)


class Trunk(Config):
    """A transformer over [patches, registers].

    The mask causal_last is two-way among patches, which do not see the registers, and causal among registers, which
    see all patches.
    """

    width: int = Field(gt=0, le=1 << 16, description="Width of the transformer's hidden states.")
    heads: int = Field(
        gt=0, le=1 << 12, description="Number of attention heads; width / heads has to be an even number."
    )
    depth: int = Field(gt=0, le=1 << 10, description="Number of transformer blocks.")
    mask: Literal["two_way", "causal", "causal_last"] = Field(
        default="two_way",
        description="Which tokens see which: two_way (all), causal (token by token), or causal_last (registers "
        "are causal).",
    )
    ada: Literal["group", "both", "none"] = Field(
        default="none",
        description="Weights of AdaLN, by which the time modulates the blocks: per group (patches, registers), "
        "for both, or none.",
    )

    @field_validator("heads")
    @classmethod
    def _divides(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width", 2 * heads)
        if width % heads or width // heads % 2 or width // heads > MAX_HEAD_DIM:
            raise ValueError(f"even width / heads of at most {MAX_HEAD_DIM} is accepted, of width {width}")
        return heads


class FlexTokConfig(ModelConfig):
    """A FlexTok. `size` names a preset; d12-d12, d18-d18 and d18-d28 are the published ones (256 x 256, VAE latents).

    The latents that `vae` makes of a picture of `image_size` must be those that `latent_channels` and `latent_size`
    say; without a `vae` they are the pixels themselves. The weights of `repa` are no part of a released checkpoint.
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
    image_channels: int = Field(
        default=3, gt=0, le=1 << 10, description="Number of channels of a picture: 1 is grey, 3 is color."
    )
    image_size: tuple[int, int] = Field(default=(256, 256), description="Rows and columns of a picture, in pixels.")
    vae: KLVAEConfig | None = Field(
        default=None, description="The KL-VAE whose latents are modeled; null models pixels."
    )
    latent_channels: int = Field(default=16, gt=0, le=1 << 16, description="Number of channels of a latent.")
    latent_size: tuple[int, int] = Field(default=(32, 32), description="Rows and columns of the latents.")
    patch: int = Field(default=2, gt=0, le=1 << 10, description="Side of a patch, in latents.")
    registers: int = Field(
        default=256,
        gt=0,
        le=1 << 16,
        description="Number of registers, which is the largest number of codes of a picture.",
    )
    levels: tuple[int, ...] = Field(
        default=(8, 8, 8, 5, 5, 5),
        min_length=1,
        max_length=62,
        description="Levels of finite scalar quantization (FSQ), one number per channel of a code.",
    )
    encoder: Trunk = Field(description="The transformer that compresses patches to registers.")
    decoder: Trunk = Field(description="The transformer that predicts the flow of the patches, given the registers.")
    positions: Literal["sincos", "learned"] = Field(
        default="sincos", description="Position embeddings of the patches: fixed sinusoids, or learned."
    )
    condition: tuple[Literal["positions", "dropout", "null"], ...] = Field(
        default=("positions", "dropout", "null"),
        max_length=3,
        fail_fast=True,
        description="Order in which the decoder's registers get positions, lose their tail (dropout) and are "
        "swapped for the null condition.",
    )
    null: Literal["token", "single", "zero"] = Field(
        default="token",
        description='What stands for "no condition": a learned vector per place (token), a single learned token, '
        "or zeros.",
    )
    head_ada: bool = Field(default=True, description="Let the time modulate the decoder's last layer.")
    predict: Literal["velocity", "data"] = Field(
        default="velocity",
        description="What the decoder predicts: the velocity (the paper), or the data, from which the velocity "
        "follows. The data suit pixels, whose patches hold more numbers than a small network is wide "
        "(arXiv 2511.13720).",
    )
    time_scale: float = Field(
        default=1000.0, gt=0, description="Factor of the times before their sinusoidal embedding."
    )
    time_mean: float = Field(
        default=0.0, description="Mean of the training times' logit; above 0, training sees more noise."
    )
    nested_dropout: Literal["uniform", "pow2", "uniform_pow2", "all"] = Field(
        default="uniform_pow2",
        description="Distribution of nested dropout: how many leading codes training keeps; all, its ablation, "
        "drops none.",
    )
    condition_dropout: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of training samples whose condition is left out, so that guidance has an "
        "unconditional prediction.",
    )
    unquantized: float = Field(
        default=0.0, ge=0, lt=1, description="Share of training samples whose registers are not rounded to codes."
    )
    corrupted: float = Field(default=0.0, ge=0, lt=1, description="Share of codes that training swaps for random ones.")
    repa: AlignmentConfig | None = Field(
        default=None,
        description="The alignment of a decoder layer with a feature network in training; null aligns none.",
    )
    sampling: Sampling = Field(
        default=Sampling(), description="The decoding settings that are used where a call gives no others."
    )

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.latent_size[0] // self.patch, self.latent_size[1] // self.patch

    @model_validator(mode="after")
    def _consistent(self) -> "FlexTokConfig":
        if any(side % self.patch for side in self.latent_size):
            raise ValueError(f"latent_size {self.latent_size}: multiples of patch {self.patch} are accepted")
        if not {"dropout", "null"} <= set(self.condition) or len(set(self.condition)) != len(self.condition):
            raise ValueError(
                f"condition: got {self.condition}, accepted: dropout, null and, where wanted, positions, each once"
            )
        if self.encoder.ada != "none":
            raise ValueError("encoder.ada: accepted is none, since the encoder has no time that could modulate it")
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
