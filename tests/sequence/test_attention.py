"""Every backend equals a plain softmax under every mask, forward and (where it has one) backward; and masks say what
they mean."""

import sys
from types import SimpleNamespace

import pytest
import torch

from nextok_mm.sequence import BACKENDS, KVCache, attention
from nextok_mm.sequence.attention import choose_backend
from nextok_mm.sequence.masks import block_causal, causal, clean_context, documents, two_way

MASKS = {
    "causal": causal(12),
    "two_way": two_way(12),
    "block_causal": block_causal([1, 4, 7]),
    "prefix": block_causal([5, 1, 1, 1, 4]),
    "documents": documents([[2, 3], [1, 1, 5]]),
    "clean_context": clean_context([2, 3, 4]),
    "cached": block_causal([4, 4, 4]).last(6),
}


def plain(q, k, v, mask, scale=None):
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    return scores.masked_fill(~mask.dense(), float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("backend", ["auto", "slices", "sdpa", "flex"])
@pytest.mark.parametrize("name", MASKS)
def test_backends_agree(name, backend):
    mask = MASKS[name]
    q, k, v = (torch.randn(2, 3, n, 16, dtype=torch.float64) for n in (mask.queries, mask.keys, mask.keys))
    if backend == "flex":  # flex works in fp32
        q, k, v = q.float(), k.float(), v.float()
    with torch.no_grad():
        for scale in (None, 0.7):
            mine, expected = attention(q, k, v, mask, backend, scale), plain(q, k, v, mask, scale)
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["slices", "sdpa"])
def test_backward_agrees(backend):
    mask = MASKS["clean_context"]
    given = [torch.randn(1, 2, n, 8, requires_grad=True) for n in (mask.queries, mask.keys, mask.keys)]
    weight = torch.randn(1, 2, mask.queries, 8)
    mine = torch.autograd.grad((attention(*given, mask, backend) * weight).sum(), given)
    theirs = torch.autograd.grad((plain(*given, mask) * weight).sum(), given)
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_masks_follow_the_rule():
    """An entity sees itself and the earlier ones, in its own document."""
    ids, document = torch.tensor([0, 0, 1, 1, 1, 0, 1, 2, 2]), torch.tensor([0] * 5 + [1] * 4)
    rule = (ids[None] <= ids[:, None]) & (document[None] == document[:, None])
    assert (documents([[2, 3], [1, 1, 2]]).dense() == rule).all()
    assert (causal(4).dense() == torch.ones(4, 4).tril().bool()).all() and causal(4).causal
    assert two_way(3).full and not block_causal([2, 2]).full
    clean, noisy = clean_context([1, 2]).dense().split(3)
    assert (clean[:, :3] == block_causal([1, 2]).dense()).all() and not clean[:, 3:].any()
    assert noisy.int().tolist() == [[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1]]


def test_intervals_hold_what_dense_holds():
    for mask in MASKS.values():
        seen = torch.zeros(mask.queries, mask.keys, dtype=torch.bool)
        for query, intervals in enumerate(mask.intervals().tolist()):
            for start, stop in intervals:
                seen[query, start:stop] = True
        assert (seen == mask.dense()).all()


def test_a_backend_that_cannot_run_says_so():
    mask, x = causal(4), torch.randn(1, 1, 4, 8, requires_grad=True)
    with pytest.raises(ValueError, match="accepted: auto, slices"):
        attention(x, x, x, mask, "fast")
    with pytest.raises(ValueError, match="no cpu operator"):
        attention(x, x, x, mask, "xformers")
    with pytest.raises(ValueError, match="no backward"):
        attention(x, x, x, mask, "flex")
    assert choose_backend("auto", block_causal([2, 2]), x.device) == "slices"
    assert choose_backend("auto", block_causal([2] * 99), x.device) == "sdpa"


def test_xformers_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    x = torch.randn(1, 1, 4, 8)
    with pytest.raises(ValueError, match=r"'xformers' is not installed; pip install 'nextok_mm\[xformers\]'$"):
        BACKENDS["xformers"](x, x, x, causal(4), None, 0.0)


@pytest.mark.parametrize("name", MASKS)
def test_xformers_gets_its_own_order_of_axes(name, monkeypatch):
    """Its kernel takes [B, tokens, H, A]; in its place a plain softmax that holds it to that."""

    def memory_efficient_attention(q, k, v, p, scale):
        assert q.shape[2] == k.shape[2] == v.shape[2] == 3 and p == 0.25
        scores = torch.einsum("bqha,bkha->bhqk", q, k) * (scale or q.shape[-1] ** -0.5)
        return torch.einsum("bhqk,bkha->bqha", scores.softmax(-1), v)

    module = SimpleNamespace(memory_efficient_attention=memory_efficient_attention)
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(ops=module))
    monkeypatch.setitem(sys.modules, "xformers.ops", module)
    mask = MASKS[name]
    q, k, v = (torch.randn(2, 3, n, 16) for n in (mask.queries, mask.keys, mask.keys))
    for scale in (None, 0.7):
        mine = BACKENDS["xformers"](q, k, v, mask, scale, 0.25)
        torch.testing.assert_close(mine, plain(q, k, v, mask, scale), rtol=1e-5, atol=1e-5)


def test_cache_appends_commits_and_rolls_back():
    cache = KVCache(layers=1, rows=2, heads=1, capacity=6, head_dim=2, like=torch.zeros(1))
    k = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert torch.equal(cache.append(0, k, k)[0], k)
    cache.commit(1)  # the second token was a draft
    keys, values = cache.append(0, -k, -k)
    assert torch.equal(keys, torch.cat((k[:, :, :1], -k), dim=2)) and torch.equal(values, keys)
    one_row, _ = cache.append(0, k[:1], k[:1])
    assert one_row.shape == (1, 1, 3, 2)
    cache.rollback(0)
    assert cache.append(0, k, k)[0].shape[2] == 2
