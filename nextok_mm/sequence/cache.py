"""Keys and values of the past, preallocated once: append, commit, roll back.

Rows: with classifier-free guidance the first half of the batch is conditional and the second half is not. A pass over
the first b rows alone (guidance weight zero) touches only those.
"""

import torch
from torch import Tensor


class KVCache:
    """[layers, B, H, capacity, A] keys and values; `length` tokens of them are committed."""

    def __init__(self, layers: int, rows: int, heads: int, capacity: int, head_dim: int, like: Tensor):
        shape = (layers, rows, heads, capacity, head_dim)
        self.keys = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.values = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.length = 0

    def append(self, layer: int, k_BHNA: Tensor, v_BHNA: Tensor) -> tuple[Tensor, Tensor]:
        """Write N new tokens behind the committed ones; returns views of both together, [B, H, length + N, A]."""
        rows, stop = k_BHNA.shape[0], self.length + k_BHNA.shape[2]
        self.keys[layer, :rows, :, self.length : stop] = k_BHNA
        self.values[layer, :rows, :, self.length : stop] = v_BHNA
        return self.keys[layer, :rows, :, :stop], self.values[layer, :rows, :, :stop]

    def commit(self, tokens: int) -> None:
        """Keep the first `tokens` of what was appended last; what lies behind is overwritten by the next pass."""
        self.length += tokens
        assert self.length <= self.keys.shape[3], (self.length, self.keys.shape)

    def rollback(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length
