"""Vector quantization: a vector becomes the nearest of V learned ones, and the code is its number.

The forward pass only reads the codebook and notes what it saw; `after_step` then updates it, once an optimizer step.
So a row's loss doesn't depend on its neighbours, a step may be cut into parts or shared out over processes, and all
that a step changes lies in weights and buffers: a resumed training repeats the uninterrupted one. The running mean of
a training's weights leaves an ema codebook alone, since it is a mean already. Everything here runs in fp32: a nearest
neighbour has no tolerance.

Shapes: n vectors, F numbers of a vector, V codes.
Sources: van den Oord et al., Neural Discrete Representation Learning (arXiv 1711.00937), section 3 and appendix A.1 for
the running means; dead codes put back onto data as in Jukebox (arXiv 2005.00341), section 3.
"""

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Config
from ..rng import Rng
from . import check_codes

CHUNK = 4096  # vectors whose distances to all codes are in memory at a time
LLOYD = 10  # rounds of k-means at the start
MAX_NUMBERS = 1 << 28  # of a codebook, of which training keeps two more
EPS = 1e-5  # of the smoothed shares, as a count of one vector


class VQConfig(Config):
    """A learned codebook of `size` vectors, learned as running means (ema) or by a gradient of its own."""

    kind: Literal["vq"] = Field(default="vq", description="Name of this quantizer, which selects this config.")
    size: int = Field(gt=1, le=1 << 20, description="Number of different codes in the codebook.")
    width: int = Field(gt=0, le=1 << 16, description="Width of a vector of the codebook.")
    codebook: Literal["ema", "gradient"] = Field(
        default="ema",
        description="How the codebook learns: by running means of the vectors assigned to each code (ema), or by "
        "gradient.",
    )
    decay: float = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="Decay per step of the running means, which also tell how much a code is used.",
    )
    commitment: float = Field(
        default=0.25, ge=0, description="Weight of the commitment loss, which pulls vectors towards their codes."
    )
    start: Literal["random", "data", "kmeans"] = Field(
        default="kmeans",
        description="First codebook: random, or after the first step from its vectors (data) or their k-means "
        "(kmeans).",
    )
    revive: float = Field(
        default=0.03,
        ge=0,
        lt=1,
        description="A code that is used less than this share of an even use is moved onto a vector of the step; "
        "0 moves none.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "VQConfig":
        if self.size * self.width > MAX_NUMBERS:
            raise ValueError(f"size, width: got {self.size} x {self.width}, accepted: {MAX_NUMBERS} numbers in all")
        return self


class VQ(nn.Module):
    """The quantizer: [..., F] -> quantized [..., F], codes [...], and the loss terms of each vector [...].

    Buffers: shares [V], running share of the vectors that each code gets; sums [V, F], the running mean of those
    vectors times the share (of an ema codebook); steps, how many have updated it.
    """

    codebook: Tensor
    shares: Tensor
    sums: Tensor | None
    steps: Tensor

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config, self.size = config, config.size
        codes = torch.randn(config.size, config.width)
        if config.codebook == "gradient":
            self.codebook = nn.Parameter(codes)
        else:
            self.register_buffer("codebook", codes)
        self.register_buffer("shares", torch.full((config.size,), 1 / config.size))
        self.register_buffer("sums", codes / config.size if config.codebook == "ema" else None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._seen: list[tuple[Tensor, Tensor]] = []  # vectors and codes of each part of this step

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Any vectors [..., F] -> (quantized, codes, loss); the gradient of the quantized ones passes straight to z."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            vectors = z.reshape(-1, z.shape[-1])
            codes = nearest(vectors.detach(), self.codebook.detach().float())
            chosen = F.embedding(codes, self.codebook).float().reshape(z.shape)
            loss = self.config.commitment * (z - chosen.detach()).square().mean(-1)
            if self.config.codebook == "gradient":
                loss = loss + (chosen - z.detach()).square().mean(-1)
            if self.training and torch.is_grad_enabled():
                self._seen.append((vectors.detach(), codes))
            return z + (chosen - z).detach(), codes.reshape(z.shape[:-1]), loss

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [...] -> vectors [..., F]. ValueError for codes out of range."""
        check_codes(codes, self.size)
        return F.embedding(codes.long(), self.codebook).float()

    @torch.no_grad()
    def after_step(self, rng: Rng) -> None:
        """Update the codebook by the vectors seen since the last call; `rng`: one stream, alike in every process."""
        if not self._seen:
            return
        parts = [(_everywhere(vectors), _everywhere(codes)) for vectors, codes in self._seen]
        self._seen.clear()
        z, codes = (torch.cat(column) for column in zip(*parts))
        if int(self.steps) == 0 and self.config.start != "random":
            self._start(z, rng)
        else:
            self._track(z, codes)
            self._revive(z, rng)
        self.steps += 1

    def _start(self, z: Tensor, rng: Rng) -> None:
        """Lay the codes over the vectors."""
        centres = z[_draw(rng, len(z), self.size).to(z.device)]
        for _ in range(LLOYD if self.config.start == "kmeans" else 0):
            counts, sums = _tally(z, nearest(z, centres), self.size)
            centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
        self._put(torch.arange(self.size, device=z.device), centres)

    def _track(self, z: Tensor, codes: Tensor) -> None:
        """The running means, and the codes from them."""
        counts, sums = _tally(z, codes, self.size)
        self.shares.lerp_((counts / len(z)).to(self.shares), 1 - self.config.decay)
        if self.sums is not None:
            self.sums.lerp_((sums / len(z)).to(self.sums), 1 - self.config.decay)
            eps, total = EPS / len(z), self.shares.sum()
            smooth = (self.shares + eps) / (total + self.size * eps) * total
            self.codebook.copy_(self.sums / smooth[:, None])

    def _revive(self, z: Tensor, rng: Rng) -> None:
        """Put dead codes onto vectors of this step, with the share of an even use, so that they have time to live."""
        dead = (self.shares < self.config.revive / self.size).nonzero()[:, 0]
        if len(dead):
            self._put(dead, z[_draw(rng, len(z), len(dead)).to(z.device)])

    def _put(self, codes: Tensor, vectors: Tensor) -> None:
        if hasattr(self.codebook, "full_tensor"):
            raise ValueError(
                "codebook: gradient can't take over vectors while it is spread over processes (FSDP); "
                "accepted: ema, or start random with revive 0"
            )
        self.codebook[codes] = vectors.to(self.codebook.dtype)
        self.shares[codes] = 1 / self.size
        if self.sums is not None:
            self.sums[codes] = (vectors / self.size).to(self.sums.dtype)


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """The number of the nearest of the codes [V, F], for each of the vectors [n, F]."""
    half = 0.5 * codebook.square().sum(-1)
    return torch.cat([(half - part @ codebook.T).argmin(-1) for part in z.split(CHUNK)])


def _tally(z: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How many vectors each code has [V], and their sum [V, F]."""
    counts = z.new_zeros(size).index_add_(0, codes, z.new_ones(len(z)))
    return counts, z.new_zeros(size, z.shape[1]).index_add_(0, codes, z)


def _draw(rng: Rng, among: int, count: int) -> Tensor:
    """Numbers below `among`, different ones as long as there are any."""
    rounds = -(-count // among)
    return torch.cat([rng.uniform(among)[0].argsort() for _ in range(rounds)])[:count]


def _everywhere(tensor: Tensor) -> Tensor:
    """The rows of all processes, in the order that one process would have seen them."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
