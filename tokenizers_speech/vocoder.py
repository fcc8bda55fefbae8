"""Vocoder: the tokens of a `mel` tokenizer, decoded to sound by a small causal network of spectra.

The network gives sizes and phases of every frame's spectrum, which an inverse short-time Fourier transform makes sound;
it sees its token whole, and no later one. Frames overlap, so the last window - hop samples of a token are final when
the next one is there: `decode_more` gives what is final, `decode_end` the rest. Chunks equal the whole, in constant
memory. The mel tokenizer inside is not trained; its checkpoint is what a training begins from:

    init: {mel: CHECKPOINT}

Shapes: B batch, T samples, N tokens, C channels of a token, r frames of a token, F frames (N * r), K frequencies,
D width.
Sources: Vocos (arXiv 2306.00814), section 3; ConvNeXt blocks (2201.03545), here causal.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from nextok_mm.checkpoint import fingerprint
from nextok_mm.config import ModelConfig
from nextok_mm.contracts import Batch, Loss, Tokens
from nextok_mm.registry import register
from nextok_mm.rng import Rng

from ._causal1d import Carry, CausalConv1d
from ._losses import Adversarial, SoundLoss
from ._mel import overlap_add
from ._sound import SoundTokenizer
from .mel import Mel, MelCarry, MelConfig


class VocoderConfig(ModelConfig):
    """A vocoder; `small` has 2.6 M parameters and a CPU runs it at about a fiftieth of real time."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": dict(mel=MelConfig.SIZES["tiny"], width=16, depth=1, hidden=32, kernel=3, spectra=(32, 64), bands=8),
        "small": dict(width=256, depth=6, hidden=768),
    }
    mel: MelConfig = Field(default=MelConfig(), description="The mel tokenizer whose tokens are decoded.")
    width: int = Field(ge=1, le=1 << 12, description="Width of the network.")
    depth: int = Field(ge=1, le=64, description="Number of blocks.")
    hidden: int = Field(ge=1, le=1 << 14, description="Width inside a block.")
    kernel: int = Field(default=7, ge=1, le=64, description="Number of frames that a convolution sees.")
    wave_weight: float = Field(default=0.0, ge=0, description="Weight of the absolute error of the samples.")
    spectra: tuple[int, ...] = Field(
        default=(256, 512, 1024, 2048),
        min_length=1,
        max_length=16,
        description="Windows of the spectra that are compared, in samples.",
    )
    bands: int = Field(
        default=80, ge=1, le=512, description="Number of mel bands in which spectra are compared, in each window."
    )
    adversarial: Adversarial | None = Field(
        default=None, description="The discriminator of spectra that sounds are judged by; null trains without one."
    )

    @property
    def rate(self) -> int:
        """Sample rate, in samples per second."""
        return self.mel.rate

    @property
    def sound_channels(self) -> int:
        """Number of channels of a sound."""
        return self.mel.sound_channels

    @property
    def sound_size(self) -> int:
        """Length of the training sounds, in samples."""
        return self.mel.sound_size

    @property
    def latent_channels(self) -> int:
        """Number of channels of a token."""
        return self.mel.latent_channels


class Block(nn.Module):
    """x + a causal convolution of each channel by itself, a norm, and an MLP of each frame by itself."""

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.spread = CausalConv1d(config.width, config.width, config.kernel, groups=config.width)
        self.norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.hidden)
        self.out = nn.Linear(config.hidden, config.width)
        self.scale = nn.Parameter(torch.full((config.width,), 1 / config.depth))

    def forward(self, x_BDF: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, D, F] -> the same shape."""
        y = self.norm(self.spread(x_BDF, carry).transpose(1, 2))
        return x_BDF + (self.out(nn.functional.gelu(self.up(y))) * self.scale).transpose(1, 2)


class Network(nn.Module):
    """Tokens to complex spectra of their frames."""

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.frames, bins = config.mel.frames, config.mel.window // 2 + 1
        self.enter = nn.Linear(config.latent_channels, self.frames * config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.spectrum = nn.Linear(config.width, 2 * bins)
        with torch.no_grad():
            nn.init.normal_(self.spectrum.weight, std=0.02)
            self.spectrum.bias[:bins].fill_(-6.0)  # begin nearly silent

    def forward(self, tokens_BNC: Tensor, carry: Carry | None = None) -> Tensor:
        """[B, N, C] -> spectra [B, F, K], complex in single precision."""
        x = self.enter(tokens_BNC).unflatten(2, (self.frames, -1)).flatten(1, 2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, carry)
        sizes, phases = self.spectrum(self.norm(x.transpose(1, 2))).float().chunk(2, dim=2)
        return torch.polar(sizes.clamp(max=3).exp(), phases)


@register("tokenizer", "vocoder")
class Vocoder(SoundTokenizer[VocoderConfig]):
    """The model; see the module's text."""

    Config = VocoderConfig
    training_only = ("adversarial",)

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.config = config
        self.mel = Mel(config.mel).requires_grad_(False)
        self.net = Network(config)
        self.sound_loss = SoundLoss(config.rate, config.spectra, config.bands, config.wave_weight, config.adversarial)
        self.adversarial = self.sound_loss.discriminators()

    @property
    def samples_per_token(self) -> int:
        """How many samples one token stands for."""
        return self.config.mel.samples_per_token

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.net.enter.weight.device

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tokens:
        """Sounds [B, 1, T] in [-1, 1] -> Tokens [B, N, C], those of the mel tokenizer; nothing is drawn."""
        return Tokens(self.mel.encode(images).data, self.grid(images.shape[2:]), fingerprint(self))

    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens [B, N, C] -> sounds [B, 1, N * samples_per_token] in [-1, 1], fp32."""
        return self._sounds(tokens.data).clamp(-1, 1)

    def carry(self) -> "VocoderCarry":
        """Nothing yet: the next chunk is the first."""
        return VocoderCarry()

    def encode_more(self, samples: Tensor, carry: "VocoderCarry") -> Tensor:
        """The next sounds [B, 1, T] of whole tokens -> their tokens [B, N, C]."""
        return self.mel.encode_more(samples, carry.mel)

    @torch.no_grad()
    def decode_more(self, tokens: Tensor, carry: "VocoderCarry") -> Tensor:
        """The next tokens [B, N, C] -> what is final of the sounds, [B, 1, N * samples_per_token], of the first tokens
        window - hop samples less."""
        frames, weights = self._overlapping(self.net(tokens.float(), carry), carry)
        reach = self._reach
        if carry.held is None:
            carry.skip = reach  # what the first frames have before the sound
        carry.held, carry.weight = frames[:, frames.shape[1] - reach :], weights[:, weights.shape[1] - reach :]
        made = (frames / weights.clamp(min=1e-3))[:, : frames.shape[1] - reach]
        skipped, carry.skip = min(carry.skip, made.shape[1]), carry.skip - min(carry.skip, made.shape[1])
        return made[:, skipped:][:, None].clamp(-1, 1)

    @torch.no_grad()
    def decode_end(self, carry: "VocoderCarry") -> Tensor | None:
        """The last window - hop samples of a sound, [B, 1, window - hop]."""
        if carry.held is None or carry.weight is None:
            return None
        return (carry.held / carry.weight.clamp(min=1e-3))[:, None, carry.skip :].clamp(-1, 1)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Errors of spectra, and what the discriminators say where there are any."""
        target = self.whole(batch["images"]).float()
        with torch.no_grad():
            tokens = self.mel.encode(target).data
        return self.sound_loss(self._sounds(tokens), target, self.adversarial)

    def example(self, n: int, rng: Rng) -> Batch:
        """Noise."""
        return self.mel.example(n, rng)

    @property
    def _reach(self) -> int:
        """How many samples of a frame lie before those of its hop."""
        return self.config.mel.window - self.config.mel.hop

    def _sounds(self, tokens_BNC: Tensor) -> Tensor:
        """Tokens [B, N, C] -> sounds [B, 1, T], not cut."""
        frames, weights = self._overlapping(self.net(tokens_BNC.float()), None)
        return (frames / weights.clamp(min=1e-3))[:, None, self._reach :]

    def _overlapping(self, spectra_BFK: Tensor, carry: "VocoderCarry | None") -> tuple[Tensor, Tensor]:
        """The sum of the frames and that of their squared windows, [B or 1, F * hop + window - hop], with what the
        frames before reach over."""
        hann, hop = self.mel.front.hann, self.config.mel.hop
        with torch.autocast(spectra_BFK.device.type, enabled=False):
            frames = overlap_add(torch.fft.irfft(spectra_BFK * (hann.sum() / 2), len(hann)) * hann, hop)
            weights = overlap_add(hann.square().expand(1, spectra_BFK.shape[1], -1), hop)
        if carry is not None and carry.held is not None and carry.weight is not None:
            frames[:, : self._reach] += carry.held
            weights[:, : self._reach] += carry.weight
        return frames, weights


class VocoderCarry(Carry):
    """What a stream hands on: the mel tokenizer's past, the network's, the frames that reach over, and how many of the
    first samples are still to be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelCarry()
        self.held: Tensor | None = None
        self.weight: Tensor | None = None
        self.skip = 0
