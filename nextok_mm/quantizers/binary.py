"""Binary quantization: a vector becomes n independent bits, and the code is the number that they spell.

Nothing is looked up, so all 2 ** n codes are within reach from the start. Chances are in fp32: a bit has no tolerance.
Shapes: [B, D, h, w] vectors, [B, n, h, w] chances and bits, [B, h, w] codes below 2 ** n, the first bit counting most.
Source: Wang et al., Binary Latent Diffusion (arXiv 2304.04820), section 3.1.
"""

import torch
from torch import Tensor, nn

from ..rng import Rng


class BinaryQuantizer(nn.Module):
    """Vectors to chances, chances to bits, bits to vectors and to codes."""

    powers: Tensor

    def __init__(self, bits: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(width, bits, 1)
        self.vectors = nn.Embedding(bits, width)
        self.register_buffer("powers", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)

    def chances(self, vectors: Tensor) -> Tensor:
        """[B, D, h, w] -> how likely each bit is 1, [B, n, h, w], fp32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.proj(vectors.to(self.proj.weight.dtype)).float().sigmoid()

    def bits(self, chances: Tensor, rng: Rng | None = None) -> Tensor:
        """Bits 0.0 or 1.0 [B, n, h, w]: each drawn by its chance, or the likelier value without `rng`. No gradient."""
        # In fp32, whatever the chances are in: a bf16 number may be rounded to 1, which no chance is above.
        limit = 0.5 if rng is None else rng.uniform(*chances.shape[1:]).to(chances.device)
        return (chances.detach() > limit).to(chances.dtype)

    def embed(self, bits: Tensor) -> Tensor:
        """The sum of the vectors of all bits that are 1: [B, n, h, w] -> [B, D, h, w]."""
        return torch.einsum("bnhw,nd->bdhw", bits.to(self.vectors.weight.dtype), self.vectors.weight)

    def to_codes(self, bits: Tensor) -> Tensor:
        """[B, n, h, w] -> [B, h, w] int64."""
        return (bits.long() * self.powers[:, None, None]).sum(1)

    def to_bits(self, codes: Tensor) -> Tensor:
        """The inverse: [B, h, w] -> bits 0.0 or 1.0 [B, n, h, w]."""
        return (codes.long()[:, None] // self.powers[:, None, None] % 2).float()

    def entropy(self, bits: Tensor) -> Tensor:
        """How evenly the bits of a batch are used, a mean over bits: 1 (as often 0 as 1) to 0 (always the same)."""
        share = bits.mean((0, 2, 3)).clamp(1e-6, 1 - 1e-6)
        return -(share * share.log2() + (1 - share) * (1 - share).log2()).mean()
