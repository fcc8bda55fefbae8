"""How a `flow_omni` model is built, trained and sampled."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from nextok_mm.config import Config, ModelConfig

from ._alignment import AlignmentConfig


class Sampling(Config):
    """How to speak. The defaults are those published with Pocket TTS."""

    steps: int = Field(default=1, ge=1, le=1000, description="Euler steps of the flow per latent.")
    temperature: float = Field(
        default=0.7, ge=0, le=100, description="Variance of the noise that a latent is drawn from; 0 draws none."
    )
    clamp: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="Bound of the noise on both sides: what is drawn is a normal number within it; null sets none.",
    )
    cfg: float = Field(default=1.0, ge=0, le=100, description="Weight of classifier-free guidance; 1 turns it off.")
    stop_logit: float = Field(
        default=-4.0,
        ge=-100,
        le=100,
        description="Logit of the stop head above which a row ends; rows with durations end with them.",
    )
    after: int = Field(
        default=1,
        ge=1,
        le=1 << 10,
        description="Number of latents that are made from the stop on, where the condition gives no `after` per row.",
    )
    pace: float = Field(
        default=3.0,
        gt=0,
        le=1e4,
        description="Number of text tokens per second at the slowest, by which a row that never stops is ended.",
    )
    tokens: int = Field(default=4096, ge=1, le=1 << 20, description="Largest number of latents per row.")
    speed: float = Field(
        default=1.0, gt=0.1, le=10, description="Factor by which predicted durations are shortened; 1 is as learned."
    )
    piece: int = Field(
        default=50,
        ge=8,
        le=1 << 16,
        description="Number of text tokens beyond which a text is cut, at ends of sentences, then at commas.",
    )


class FlowOmniConfig(ModelConfig):
    """A model that speaks in continuous latents. `size` names a preset; Pocket-TTS is the published English one.

    With `alignment` each step is told its phonemes and speech ends with their durations; without, the text is a prefix
    and a stop head says where speech ends.
    """

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            vocabulary=61,
            channels=4,
            width=32,
            heads=4,
            depth=2,
            mlp_hidden=64,
            flow_width=24,
            flow_depth=2,
            sampling=dict(stop_logit=0.02, steps=2),
        ),
        "tiny-aligned": dict(
            vocabulary=61,
            channels=4,
            width=32,
            heads=4,
            depth=2,
            mlp_hidden=64,
            flow_width=24,
            flow_depth=2,
            rope=False,
            window=9,
            voice=False,
            alignment=dict(width=16, depth=2, kernel=3),
        ),
        "Pocket-TTS": dict(
            vocabulary=4001,
            channels=32,
            width=1024,
            heads=16,
            depth=6,
            mlp_hidden=4096,
            flow_width=512,
            flow_depth=6,
            flow_times=2,
            distill=0.25,
        ),
    }
    vocabulary: int = Field(ge=1, le=1 << 24, description="Number of different tokens of text, or phonemes.")
    channels: int = Field(gt=0, le=1 << 14, description="Number of channels of a latent.")
    rate: float = Field(default=12.5, gt=0, le=1e4, description="Number of latents per second.")
    width: int = Field(gt=0, le=1 << 16, description="Width of the transformer's hidden states.")
    heads: int = Field(gt=0, le=1 << 10, description="Number of attention heads.")
    depth: int = Field(gt=0, le=1 << 10, description="Number of transformer blocks.")
    mlp_hidden: int = Field(gt=0, le=1 << 18, description="Width inside the MLPs of the transformer.")
    norm_eps: float = Field(default=1e-5, gt=0, le=1, description="The small number that norms add to the variance.")
    rope: bool = Field(default=True, description="Rotate queries and keys by the place in the whole sequence.")
    rope_theta: float = Field(
        default=10000.0, gt=0, le=1e12, description="Base of the wavelengths of rotary positions."
    )
    window: int | None = Field(
        default=None, ge=1, le=1 << 24, description="Number of tokens back that a token sees; null sees all."
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Probability with which dropout zeroes an activation in training."
    )
    voice: bool = Field(default=True, description="Read a voice, the latents of a recording, before the text.")
    voice_begin: bool = Field(default=True, description="Put a learned vector before the voice.")
    alignment: AlignmentConfig | None = Field(
        default=None, description="Durations of phonemes, where the model is told these; null reads text as a prefix."
    )
    flow_width: int = Field(gt=0, le=1 << 14, description="Width of the flow head.")
    flow_depth: int = Field(gt=0, le=1 << 8, description="Number of residual blocks of the flow head.")
    flow_times: int = Field(
        default=1,
        ge=1,
        le=2,
        description="Times that the flow head reads: 1, or 2, the beginning and the end of a jump.",
    )
    draws: int = Field(
        default=4, ge=1, le=256, description="Number of noised versions of each latent in a training step."
    )
    time_mean: float = Field(
        default=-0.4,
        ge=-10,
        le=10,
        description="Mean of the logit of training times; above 0 there are more times near the noise.",
    )
    distill: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Weight of the loss that teaches jumps, which takes one of the draws; 0 teaches velocities alone.",
    )
    history_noise: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Largest deviation of the noise that training adds to the latents that are read back.",
    )
    condition_dropout: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of training rows whose text is left out, so that guidance has an unconditional prediction.",
    )
    stop_weight: float = Field(
        default=0.1, gt=0, le=100, description="Weight of the stop head's cross-entropy in training."
    )
    sampling: Sampling = Field(
        default=Sampling(), description="The sampling settings that are used where a call gives no others."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "FlowOmniConfig":
        if self.distill and (self.flow_times < 2 or self.draws < 2):
            raise ValueError(
                f"distill: got {self.distill} with flow_times {self.flow_times} and draws {self.draws}, accepted: 0, "
                "or flow_times 2 and draws of at least 2"
            )
        if self.alignment is not None and self.alignment.kernel % 2 == 0:
            raise ValueError(f"alignment.kernel: got {self.alignment.kernel}, accepted: an odd number")
        return self
