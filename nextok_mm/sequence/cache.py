"""Keys and values of the past: append, commit, roll back; of sequences without a fixed end, grow and slide.

Rows: with classifier-free guidance the first half of the batch is conditional and the second half is not. A pass over
the first b rows alone (guidance weight zero) touches only those.

Shapes: B rows, H heads of keys and values, N new tokens, A head dim.
"""

import torch
from torch import Tensor


class KVCache:
    """[layers, B, H, capacity, A] keys and values; `length` tokens of them are committed.

    capacity: slots made at once; a cache that runs over grows by half. window: tokens that are still seen (None: all);
    older ones are dropped where there is no slot left (`make_room`), so that a stream of any length takes constant
    memory; `dropped` counts them.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        capacity: int,
        head_dim: int,
        like: Tensor,
        window: int | None = None,
    ):
        shape = (layers, rows, heads, capacity, head_dim)
        self.keys = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.values = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.length, self.window, self.dropped = 0, window, 0

    @property
    def capacity(self) -> int:
        """Tokens that there is room for."""
        return self.keys.shape[3]

    def append(self, layer: int, k_BHNA: Tensor, v_BHNA: Tensor) -> tuple[Tensor, Tensor]:
        """Write N new tokens behind the committed ones; returns views of both together, [B, H, length + N, A]."""
        rows, stop = k_BHNA.shape[0], self.length + k_BHNA.shape[2]
        if stop > self.capacity:
            self._grow(stop)
        keys, values = self.keys[layer], self.values[layer]
        if rows < len(keys):
            keys, values = keys[:rows], values[:rows]
        keys.narrow(2, self.length, k_BHNA.shape[2]).copy_(k_BHNA)
        values.narrow(2, self.length, k_BHNA.shape[2]).copy_(v_BHNA)
        return keys.narrow(2, 0, stop), values.narrow(2, 0, stop)

    def commit(self, tokens: int) -> None:
        """Keep the first `tokens` of what was appended last; what lies behind is overwritten by the next pass."""
        self.length += tokens
        assert self.length <= self.capacity, (self.length, self.keys.shape)

    def rollback(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def make_room(self, tokens: int) -> None:
        """Before a pass over so many new tokens: drop what no window reaches any more, where there is no room left."""
        over = 0 if self.window is None else self.length - (self.window - 1)
        if over > 0 and self.length + tokens > self.capacity:
            for store in (self.keys, self.values):
                store[:, :, :, : self.length - over] = store[:, :, :, over : self.length].clone()
            self.length, self.dropped = self.length - over, self.dropped + over

    def like(self, rows: int, capacity: int) -> "KVCache":
        """An empty cache of the same kind with other rows and room."""
        layers, _, heads, _, head_dim = self.keys.shape
        return KVCache(layers, rows, heads, capacity, head_dim, self.keys, self.window)

    def select(self, rows_B: Tensor) -> "KVCache":
        """A cache of these rows alone, in this order (a row may be there twice); it shares nothing with this one."""
        chosen = object.__new__(KVCache)
        chosen.keys, chosen.values = (x[:, rows_B.to(x.device)] for x in (self.keys, self.values))
        chosen.length, chosen.window, chosen.dropped = self.length, self.window, self.dropped
        return chosen

    def place(self, rows_B: Tensor, other: "KVCache") -> None:
        """Take over another cache's tokens for these rows, so that they end where this one's end.

        The slots before them are zeros: nobody sees them, but a masked product of what was in memory may not be finite.
        """
        rows = rows_B.to(self.keys.device)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, rows, :, : self.length - other.length] = 0
            mine[:, rows, :, self.length - other.length : self.length] = theirs[:, :, :, : other.length]

    def shift(self, slots: int) -> None:
        """Move all tokens to later slots, with zeros in front that nobody sees; or forget so many of the first ones."""
        held = self.length + slots
        assert held >= 0, (slots, self.length)
        if held > self.capacity:
            self._grow(held)
        for store in (self.keys, self.values):
            first = max(-slots, 0)
            moved = store[:, :, :, first : self.length].clone()
            store[:, :, :, : max(slots, 0)] = 0
            store[:, :, :, max(slots, 0) : held] = moved
        self.length = held

    def tensors(self) -> dict[str, Tensor]:
        """What has to be stored to go on: the committed keys and values."""
        return {"keys": self.keys[:, :, :, : self.length], "values": self.values[:, :, :, : self.length]}

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, window: int | None = None, dropped: int = 0) -> "KVCache":
        """A cache that holds these keys and values, [layers, B, H, length, A], as `tensors` gave them."""
        layers, rows, heads, length, head_dim = keys.shape
        cache = cls(layers, rows, heads, length, head_dim, keys, None)
        cache.keys.copy_(keys)
        cache.values.copy_(values)
        cache.length, cache.window, cache.dropped = length, window, dropped
        return cache

    def _grow(self, least: int) -> None:
        """More slots, at least `least`: half as many again, so that the copies cost a constant a token."""
        room = max(least, self.capacity + self.capacity // 2)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty((*old.shape[:3], room, old.shape[4]))
            new[:, :, :, : self.length] = old[:, :, :, : self.length]
            setattr(self, name, new)
