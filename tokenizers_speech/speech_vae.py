"""Speech VAE: sounds to continuous latents and back by causal convolutions, with a small transformer between by choice.

Nothing looks ahead: convolutions see the past alone, and the transformer (the shared backbone) a window of it. So
sounds of any length pass in chunks that equal the whole, in constant memory: `encode_more`, `decode_more`. The
posterior has a fixed deviation, a learned one, or none; tokens are `(latent - shift) * scale`. Pocket TTS's codec is
one of its forms (adapters/pocket_codec.py).

Shapes: B batch, T samples, C latent channels, N tokens, D width, F frames of the inner rate (N * `token_stride`).
Sources: Continuous Audio Language Models (arXiv 2509.06926), section 3; SEANet and Mimi as in _causal1d; a fixed
deviation as in LatentLM's sigma-VAE (2412.08635).
"""

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import Config, ModelConfig
from nextok_mm.contracts import Batch, Loss, Tokens
from nextok_mm.registry import register
from nextok_mm.rng import Rng
from nextok_mm.sequence.backbone import Backbone, BackboneConfig
from nextok_mm.sequence.masks import continued

from ._causal1d import Carry, CausalConv1d, CausalTranspose1d, Elu, Residual, Stack
from ._losses import Adversarial, SoundLoss
from ._sound import SoundTokenizer

PIECE = 1024  # frames that a transformer reads at once where nothing is trained: beyond its window all costs grow
Ratio = int


class Transformer(Config):
    """The causal transformer at the inner rate, one in the encoder and one in the decoder."""

    depth: int = Field(default=2, ge=1, le=64, description="Number of transformer blocks.")
    heads: int = Field(default=8, ge=1, le=256, description="Number of attention heads.")
    mlp_hidden: int = Field(default=2048, ge=1, le=1 << 16, description="Width inside the MLP.")
    window: int = Field(
        default=250, ge=1, le=1 << 16, description="Number of frames that a frame sees, itself included."
    )
    layer_scale: float = Field(
        default=0.01, gt=0, le=1, description="Factor of the first weights of what each branch adds (layer scale)."
    )


class SpeechVAEConfig(ModelConfig):
    """A speech autoencoder. `size` names a preset; `pocket` is Pocket TTS's published codec (24 kHz, 12.5 latents per
    second), `small` one that a CPU can train (24 kHz, 20 latents per second)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(
            rate=800,
            sound_size=320,
            width=4,
            ratios=(2, 4),
            token_stride=2,
            inner_width=16,
            latent_channels=4,
            transformer=dict(depth=1, heads=2, mlp_hidden=32, window=5),
            spectra=(32, 64),
            bands=8,
        ),
        "small": dict(
            width=16,
            ratios=(3, 4, 5, 5),
            token_stride=4,
            inner_width=256,
            latent_channels=32,
            transformer=None,
            deviation=0.1,
        ),
        "pocket": dict(width=64, ratios=(4, 5, 6), token_stride=16, inner_width=512, latent_channels=32, deviation=0.0),
    }
    rate: int = Field(default=24_000, ge=100, le=192_000, description="Sample rate of the sounds (samples per second).")
    sound_channels: int = Field(default=1, ge=1, le=16, description="Number of channels of a sound.")
    sound_size: int = Field(
        default=24_000,
        ge=1,
        le=1 << 24,
        description="Length of the training sounds, in samples; other lengths can be encoded.",
    )
    width: int = Field(ge=1, le=1 << 12, description="Width at the full rate; every ratio doubles it.")
    ratios: tuple[Ratio, ...] = Field(
        min_length=1,
        max_length=10,
        description="Factors by which the encoder lowers the rate one after another, down to the inner rate.",
    )
    token_stride: int = Field(ge=1, le=256, description="Number of frames of the inner rate per token.")
    inner_width: int = Field(ge=1, le=1 << 14, description="Width at the inner rate.")
    latent_channels: int = Field(default=32, ge=1, le=1 << 14, description="Number of channels of a latent.")
    kernel: int = Field(
        default=7, ge=1, le=64, description="Kernel size of the first convolution, and of the decoder's first."
    )
    last_kernel: int = Field(default=3, ge=1, le=64, description="Kernel size of the last convolutions.")
    residual_kernel: int = Field(
        default=3, ge=1, le=64, description="Kernel size of the first convolution of a residual unit."
    )
    residual_units: int = Field(default=1, ge=0, le=16, description="Number of residual units per level.")
    dilation: int = Field(
        default=2, ge=1, le=16, description="Factor of the dilation from one residual unit to the next."
    )
    narrow: int = Field(default=2, ge=1, le=64, description="Factor by which residual units are narrower inside.")
    transformer: Transformer | None = Field(
        default=Transformer(), description="The causal transformers at the inner rate; null has none."
    )
    deviation: float | Literal["learned"] = Field(
        default=0.1,
        description="Standard deviation of the posterior: a fixed number (0 has no noise), or learned per channel and "
        "token.",
    )
    scale: float | tuple[float, ...] = Field(
        default=1.0, description="Factor of a token, which is (latent - shift) * scale: one number, or one per channel."
    )
    shift: float | tuple[float, ...] = Field(
        default=0.0, description="Offset that is subtracted from a latent: one number, or one per channel."
    )
    kl_weight: float = Field(
        default=1e-3, ge=0, description="Weight of the KL divergence from unit normal numbers, in nats per number."
    )
    wave_weight: float = Field(default=1.0, ge=0, description="Weight of the absolute error of the samples.")
    spectra: tuple[int, ...] = Field(
        default=(256, 512, 1024, 2048),
        min_length=1,
        max_length=16,
        description="Windows of the spectra that are compared, in samples.",
    )
    bands: int = Field(
        64, ge=1, le=512, description="Number of mel bands in which spectra are compared, in each of the windows."
    )
    adversarial: Adversarial | None = Field(
        default=None, description="The discriminator of spectra that sounds are judged by; null trains without one."
    )

    @property
    def samples_per_token(self) -> int:
        """How many samples one token stands for."""
        return math.prod(self.ratios) * self.token_stride

    @model_validator(mode="after")
    def _fits(self) -> "SpeechVAEConfig":
        if any(not 1 <= ratio <= 256 for ratio in self.ratios):
            raise ValueError(f"ratios: got {self.ratios}, accepted: whole numbers from 1 to 256")
        if any(not 4 <= window <= 1 << 16 for window in self.spectra):
            raise ValueError(f"spectra: got {self.spectra}, accepted: windows of 4 to 65536 samples")
        if isinstance(self.deviation, float) and not 0 <= self.deviation <= 10:
            raise ValueError(f"deviation: got {self.deviation}, accepted: 0 to 10, or learned")
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            if isinstance(value, tuple) and len(value) != self.latent_channels:
                raise ValueError(f"{name}: one number or {self.latent_channels} are accepted, got {len(value)}")
        if self.transformer is not None:
            _backbone_config(self.inner_width, self.transformer)
        return self


def _backbone_config(width: int, config: Transformer) -> BackboneConfig:
    """The one backbone, in the form of such a transformer."""
    return BackboneConfig(
        width=width,
        depth=config.depth,
        heads=config.heads,
        mlp="gelu",
        mlp_hidden=config.mlp_hidden,
        norm="layer",
        norm_bias=True,
        norm_eps=1e-5,
        norm_out=False,
        bias=False,
        qkv_bias=False,
    )


class Windowed(nn.Module):
    """The backbone over frames [B, D, F], each of which sees a window of those before it."""

    def __init__(self, width: int, config: Transformer):
        super().__init__()
        self.window = config.window
        self.backbone = Backbone(_backbone_config(width, config))
        self.backbone.backend = "sdpa"  # a window of its own for each frame of a chunk: one masked call is quicker
        with torch.no_grad():  # layer scale: branches begin as good as silent. Loaded ones are products with theirs
            for name, parameter in self.backbone.named_parameters():
                if name.endswith("out.weight"):
                    parameter.mul_(config.layer_scale)

    def forward(self, x_BDF: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, F] -> the same shape; with `carry` these are the frames behind those of the last call."""
        x_BFD = x_BDF.transpose(1, 2)
        if torch.is_grad_enabled():
            assert carry is None
            mask = continued(0, [1] * x_BFD.shape[1], self.window)
            places = torch.arange(x_BFD.shape[1], device=x_BFD.device)[:, None]
            return self.backbone(x_BFD, mask, places_NX=places).transpose(1, 2)
        carry = Carry() if carry is None else carry
        cache = carry.caches.get(self)
        if cache is None:
            room = self.window + min(PIECE, max(x_BFD.shape[1], self.window))
            cache = carry.caches[self] = self.backbone.cache(len(x_BFD), room, x_BFD, self.window)
        parts = []
        for part in x_BFD.split(PIECE, dim=1):
            count = part.shape[1]
            cache.make_room(count)
            places = torch.arange(count, device=part.device)[:, None] + cache.dropped + cache.length
            mask = continued(cache.length, [1] * count, self.window)
            parts.append(self.backbone(part, mask, cache=cache, places_NX=places))
            cache.commit(count)
        return torch.cat(parts, dim=1).transpose(1, 2)


class Autoencoder(nn.Module):
    """The network: sounds to the moments of their latents, latents to sounds."""

    def __init__(self, config: SpeechVAEConfig):
        super().__init__()
        channels, inner, stride = config.sound_channels, config.inner_width, config.token_stride
        widths = [config.width * 2**level for level in range(len(config.ratios) + 1)]
        moments = config.latent_channels * (2 if config.deviation == "learned" else 1)

        def units(width: int) -> list[nn.Module]:
            narrow = max(1, width // config.narrow)
            dilations = [config.dilation**unit for unit in range(config.residual_units)]
            return [Residual(width, narrow, config.residual_kernel, dilation) for dilation in dilations]

        encoder: list[nn.Module] = [CausalConv1d(channels, widths[0], config.kernel)]
        for width, wider, ratio in zip(widths, widths[1:], config.ratios):
            encoder += [*units(width), Elu(), CausalConv1d(width, wider, 2 * ratio, ratio)]
        encoder += [Elu(), CausalConv1d(widths[-1], inner, config.last_kernel)]
        self.encoder = Stack(encoder)
        self.decoder_in = CausalConv1d(config.latent_channels, inner, 1, bias=False)
        decoder: list[nn.Module] = [CausalConv1d(inner, widths[-1], config.kernel)]
        for width, wider, ratio in list(zip(widths, widths[1:], config.ratios))[::-1]:
            decoder += [Elu(), CausalTranspose1d(wider, width, ratio), *units(width)]
        decoder += [Elu(), CausalConv1d(widths[0], channels, config.last_kernel)]
        self.decoder = Stack(decoder)
        one = config.transformer
        self.encoder_transformer = None if one is None else Windowed(inner, one)
        self.decoder_transformer = None if one is None else Windowed(inner, one)
        self.down = CausalConv1d(inner, moments, 2 * stride, stride, bias=False, before="first")
        self.up = CausalTranspose1d(inner, inner, stride, groups=inner, bias=False)
        nn.init.constant_(self.up.pair.conv.weight, 0.5)  # each frame begins as the mean of two tokens

    def encode(self, sounds_BPT: Tensor, carry: Carry | None = None) -> Tensor:
        """Sounds [B, channels, T] -> moments [B, C or 2 * C, N]."""
        x = self.encoder(sounds_BPT, carry)
        x = x if self.encoder_transformer is None else self.encoder_transformer(x, carry)
        return self.down(x, carry)

    def decode(self, latents_BCN: Tensor, carry: Carry | None = None) -> Tensor:
        """Latents [B, C, N] -> sounds [B, channels, T], not cut."""
        x = self.up(self.decoder_in(latents_BCN, carry), carry)
        x = x if self.decoder_transformer is None else self.decoder_transformer(x, carry)
        return self.decoder(x, carry)


@register("tokenizer", "speech_vae")
class SpeechVAE(SoundTokenizer[SpeechVAEConfig]):
    """The model; see the module's text."""

    Config = SpeechVAEConfig
    training_only = ("adversarial",)
    scale: Tensor
    shift: Tensor

    def __init__(self, config: SpeechVAEConfig):
        super().__init__()
        self.config = config
        self.net = Autoencoder(config)
        self.sound_loss = SoundLoss(config.rate, config.spectra, config.bands, config.wave_weight, config.adversarial)
        self.adversarial = self.sound_loss.discriminators()
        self.register_buffer("scale", torch.tensor(config.scale, dtype=torch.float32), persistent=False)
        self.register_buffer("shift", torch.tensor(config.shift, dtype=torch.float32), persistent=False)

    @property
    def samples_per_token(self) -> int:
        """How many samples one token stands for."""
        return self.config.samples_per_token

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Sounds [B, channels, T] -> mean and standard deviation of the tokens, each [B, N, C] in fp32."""
        mean, deviation = self._moments(self.whole(images))
        return (mean - self.shift) * self.scale, deviation * self.scale

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Sounds [B, channels, T] -> Tokens [B, N, C]; the posterior's mean without `rng`, a sample with it."""
        mean, deviation = self.posterior(images)
        data = mean if rng is None else mean + deviation * rng.normal(*mean.shape[1:], like=mean)
        return Tokens(data, self.grid(images.shape[2:]), source=fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens [B, N, C] -> sounds [B, channels, N * samples_per_token] in [-1, 1], fp32."""
        return self.net.decode(self._latents(tokens.data)).float().clamp(-1, 1)

    def carry(self) -> Carry:
        """Nothing yet: the next chunk is the first."""
        return Carry()

    @torch.no_grad()
    def encode_more(self, samples: Tensor, carry: Carry) -> Tensor:
        """The next sounds [B, channels, T] of whole tokens -> the means of their tokens [B, N, C]."""
        mean, _ = self._moments(self.chunk(samples), carry)
        return (mean - self.shift) * self.scale

    @torch.no_grad()
    def decode_more(self, tokens: Tensor, carry: Carry) -> Tensor:
        """The next tokens [B, N, C] -> their sounds [B, channels, N * samples_per_token]; nothing is held back."""
        return self.net.decode(self._latents(tokens), carry).float().clamp(-1, 1)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Errors of samples and spectra, the KL divergence, and what the discriminators say where there are any."""
        target = self.whole(batch["images"])
        mean, deviation = self._moments(target)
        latents = mean + deviation * rng.normal(*mean.shape[1:], like=mean)
        sounds = self.net.decode(latents.transpose(1, 2)).float()
        kl = 0.5 * mean.square()
        if self.config.deviation == "learned":
            kl = kl + (0.5 * deviation.square() - deviation.log() - 0.5)
        loss = self.sound_loss(sounds, target.float(), self.adversarial)
        return loss.plus({"kl": kl}, {"kl": self.config.kl_weight})

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise."""
        return {"images": (rng.normal(self.config.sound_channels, self.config.sound_size) * 0.2).clamp(-1, 1)[:n]}

    def _latents(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens [B, N, C] -> raw latents [B, C, N]."""
        return (tokens_BNC.float() / self.scale + self.shift).transpose(1, 2)

    def _moments(self, sounds: Tensor, carry: Carry | None = None) -> tuple[Tensor, Tensor]:
        """Raw mean and deviation [B, N, C], always in fp32."""
        moments = self.net.encode(sounds, carry).transpose(1, 2).float()
        if self.config.deviation != "learned":
            return moments, torch.full_like(moments, float(self.config.deviation))
        mean, logs = moments.chunk(2, dim=2)
        return mean, logs.clamp(-10, 5).exp()
