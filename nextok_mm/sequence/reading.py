"""Taking tokens into a cache where a sequence has no fixed end: rows of different lengths end at the same slot.

Every row's past lies at the end of the common cache. The empty slots before it are seen by nobody, and a row's
positions count from its own first token, so a row is what it is alone.

Shapes: R rows, N new tokens, D width, K slots.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .backbone import Backbone
from .cache import KVCache
from .masks import causal, continued


def take_in(
    backbone: Backbone, x_RND: Tensor, cache: KVCache, empty_R: Tensor | None = None, last: int | None = None
) -> Tensor:
    """Run new tokens, each of which sees itself and what came before it; their keys and values join the cache.

    Args:
        backbone: A backbone without a table of positions.
        x_RND: The new tokens, embedded.
        cache: What the rows have read so far; its window is that of the attention.
        empty_R: Slots of the cache that hold nothing before a row's first token; None where there are none.
        last: How many of the last tokens are looked at; None looks at all.

    Returns:
        Hidden states [R, N, D], those of the last tokens alone where `last` says so.
    """
    count, device = x_RND.shape[1], x_RND.device
    cache.make_room(count)
    start, window = cache.length, cache.window
    slots = torch.arange(start, start + count, device=device) + cache.dropped
    mask = causal(count) if start == 0 and window is None else continued(start, [1] * count, window)
    places, empty_RK = slots[:, None], None
    if empty_R is not None and bool((empty_R > 0).any()):
        places = (slots - empty_R[:, None])[..., None]
        if bool((empty_R > cache.dropped).any()):
            held = torch.arange(start + count, device=device) + cache.dropped
            empty_RK = held < empty_R[:, None]
    last = None if last is None or last >= count else last
    states = backbone(x_RND, mask, cache=cache, padding_BK=empty_RK, places_NX=places, last=last)
    cache.commit(count)
    return states


def read_prefixes(
    backbone: Backbone,
    prefixes: Sequence[Tensor],
    cache: KVCache,
    past: KVCache | None = None,
    past_empty: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Take a prefix of each row into an empty cache, equally long ones together.

    Args:
        backbone: A backbone without a table of positions.
        prefixes: What each row reads, embedded, [N, D] of any lengths.
        cache: An empty cache of as many rows, to be filled.
        past: What each row has read before its prefix; None is nothing.
        past_empty: Slots of `past` that hold nothing before each row's first token.

    Returns:
        The hidden state of each row's last token, [R, D] (zeros where the prefix is empty), and how many slots are
        empty before each row's first token, [R].
    """
    heard = [0 if past is None else past.length - empty for empty in past_empty or [0 for _ in prefixes]]
    kinds = [(before, len(prefix)) for before, prefix in zip(heard, prefixes)]
    longest = max(map(sum, kinds))
    cache.commit(longest)
    last_RD = prefixes[0].new_zeros(len(prefixes), backbone.config.width)
    for before, length in sorted(set(kinds)):
        rows = [row for row, kind in enumerate(kinds) if kind == (before, length)]
        rows_R = torch.tensor(rows, device=last_RD.device)
        own = cache if len(rows) == len(prefixes) else cache.like(len(rows), max(before + length, 1))
        own.rollback(0)
        if past is not None and before:
            own.commit(before)
            head = past.select(rows_R)
            head.shift(before - head.length)
            own.place(torch.arange(len(rows)), head)
        if length:
            states = take_in(backbone, torch.stack([prefixes[row] for row in rows]), own, last=1)
            last_RD[rows_R] = states[:, -1].to(last_RD.dtype)
        if own is not cache:
            cache.place(rows_R, own)
    return last_RD, torch.tensor([longest - sum(kind) for kind in kinds], device=last_RD.device)


def run_behind(
    backbone: Backbone, before: Sequence[tuple[Tensor, Tensor]], x_RND: Tensor, window: int | None = None
) -> Tensor:
    """Run whole rows at once, as training does, each of them without gaps.

    Args:
        backbone: A backbone without a table of positions.
        before: What stands before the tokens, embedded [R, P, D], and which of it is there [R, P]: the rest moves to
            the end of its row, where nobody sees it.
        x_RND: The tokens, embedded.
        window: How many tokens back a token sees; None sees all.

    Returns:
        Hidden states [R, N, D] of the tokens.
    """
    there = torch.ones(x_RND.shape[:2], dtype=torch.bool, device=x_RND.device)
    x_RSD = torch.cat([*(part for part, _ in before), x_RND], dim=1)
    there_RS = torch.cat([*(seen for _, seen in before), there], dim=1)
    order_RS = (~there_RS).to(torch.uint8).argsort(dim=1, stable=True)
    total, width = x_RSD.shape[1:]
    window = window or total
    mask = causal(total) if total <= window else continued(0, [1] * total, window)
    places = torch.arange(total, device=x_RSD.device)[:, None]
    states_RSD = backbone(x_RSD.gather(1, order_RS[..., None].expand(-1, -1, width)), mask, places_NX=places)
    back_RN = order_RS.argsort(dim=1)[:, total - x_RND.shape[1] :]
    return states_RSD.gather(1, back_RN[..., None].expand(-1, -1, width))


def padded(rows: Sequence[Tensor], value: float = 0.0, least: int = 0) -> Tensor:
    """Rows [N, ...] of any lengths -> [R, longest, ...], filled up behind, to at least so many places."""
    longest = max(least, *(len(row) for row in rows))
    tail = [0, 0] * (rows[0].dim() - 1)
    return torch.stack([F.pad(row, (*tail, 0, longest - len(row)), value=value) for row in rows])
