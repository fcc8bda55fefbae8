"""The categorical head: the next X is one code out of a vocabulary, or a group of codes out of several small ones.

A code out of V ** G is as good as G codes out of V: a position then has G embeddings, joined by one linear layer, and
G groups of logits. `CategoricalHead` predicts the groups of a position independently of each other, as published;
`ChainedHead`, ours, each given the ones before it.

Shapes: B batch, N positions, G groups, V vocabulary of a group, D width.
Source: Liu et al., Elucidating the Design Space of Language Models for Image Generation (arXiv 2410.16257), section 3.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..loss import Loss

Chooser = Callable[[Tensor], Tensor]


class CodeEmbedding(nn.Module):
    """Codes to vectors: a table for each group, concatenated and joined by a linear layer (one group: its table)."""

    first: Tensor

    def __init__(self, vocabulary: int, width: int, groups: int = 1):
        super().__init__()
        self.table = nn.Embedding(groups * vocabulary, width)  # the groups' tables, one below the other
        self.join = nn.Linear(groups * width, width, bias=False) if groups > 1 else None
        self.register_buffer("first", torch.arange(groups) * vocabulary, persistent=False)
        nn.init.normal_(self.table.weight, std=0.02)
        if self.join is not None:
            nn.init.xavier_uniform_(self.join.weight)

    def forward(self, codes_BNG: Tensor) -> Tensor:
        """Codes [..., G] of 0 .. V-1 -> [..., D]."""
        embedded = self.table(codes_BNG + self.first).flatten(-2)
        return embedded if self.join is None else self.join(embedded)


class Head(nn.Module):
    """Hidden states to logits of G groups, to a choice, and to a loss."""

    groups: int

    def forward(self, hidden_BND: Tensor, codes_BNG: Tensor | None = None) -> Tensor:
        """[..., D] -> logits [..., G, V]; `codes` are the true ones, for heads whose groups depend on each other."""
        raise NotImplementedError

    def choose(self, hidden_RND: Tensor, chooser: Chooser) -> Tensor:
        """Codes [B, N, G] of hidden states, by a function from logits [R, N, g, V] to codes [B, N, g] of the first B
        rows; the other R - B rows (guidance) belong to the same samples."""
        return chooser(self(hidden_RND))

    def loss(
        self, hidden_BND: Tensor, codes_BNG: Tensor, weight_BN: Tensor | None = None, smoothing: float = 0.0
    ) -> Loss:
        """What the hidden states of places should have predicted; see `compared`."""
        return compared(self(hidden_BND, codes_BNG), codes_BNG, weight_BN, smoothing)


class CategoricalHead(Head):
    """One linear layer, whose outputs are the logits of G groups of V codes each."""

    def __init__(self, width: int, vocabulary: int, groups: int = 1, bias: bool = False):
        super().__init__()
        self.groups = groups
        self.logits = nn.Linear(width, groups * vocabulary, bias=bias)
        nn.init.normal_(self.logits.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.logits.bias)

    def forward(self, hidden_BND: Tensor, codes_BNG: Tensor | None = None) -> Tensor:
        """[..., D] -> logits [..., G, V]; `codes` are the true ones, for heads whose groups depend on each other."""
        return self.logits(hidden_BND).unflatten(-1, (self.groups, -1))


class ChainedHead(CategoricalHead):
    """Groups in turn: a small MLP adds to the hidden state what the earlier groups of the position came out as."""

    first: Tensor

    def __init__(self, width: int, vocabulary: int, groups: int, bias: bool = False):
        super().__init__(width, vocabulary, groups, bias)
        inner = max(width // 4, 8)
        self.earlier = nn.Embedding((groups - 1) * vocabulary, inner)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.register_buffer("first", torch.arange(groups - 1) * vocabulary, persistent=False)
        nn.init.normal_(self.earlier.weight, std=0.5)
        nn.init.normal_(self.down.weight, std=0.02)

    def forward(self, hidden_BND: Tensor, codes_BNG: Tensor | None = None) -> Tensor:
        """[..., D] and the true codes [..., G] (the last group's aren't looked at) -> logits [..., G, V]."""
        assert codes_BNG is not None, "groups that depend on each other need the codes"
        states = [hidden_BND[..., None, :]]
        if self.groups > 1:
            told = self.earlier(codes_BNG[..., : self.groups - 1] + self.first).cumsum(-2)
            states.append(states[0] + self.down(F.gelu(self.up(hidden_BND)[..., None, :] + told)))
        weight = self.logits.weight.unflatten(0, (self.groups, -1)).to(hidden_BND.dtype)
        logits = torch.einsum("...gd,gvd->...gv", torch.cat(states, dim=-2), weight)
        return logits if self.logits.bias is None else logits + self.logits.bias.unflatten(0, (self.groups, -1))

    def choose(self, hidden_RND: Tensor, chooser: Chooser) -> Tensor:
        """As `CategoricalHead.choose`, one group after another."""
        rows = len(hidden_RND)
        codes = torch.zeros(rows, hidden_RND.shape[1], self.groups, dtype=torch.long, device=hidden_RND.device)
        for group in range(self.groups):
            chosen = chooser(self(hidden_RND, codes)[..., group : group + 1, :])
            codes[..., group : group + 1] = chosen.repeat(rows // len(chosen), 1, 1)
        return codes[: len(chosen)]


def compared(logits_BNGV: Tensor, codes_BNG: Tensor, weight_BN: Tensor | None = None, smoothing: float = 0.0) -> Loss:
    """Compare logits with the codes that should have been predicted.

    Args:
        logits_BNGV: The logits.
        codes_BNG: The codes; any of the vocabulary where nothing is asked for.
        weight_BN: How much each place counts among those of its row; None: all alike.
        smoothing: Share of the target that is spread evenly over the vocabulary.

    Returns:
        The cross-entropy in nats per group, in fp32: of each row the weighted mean over its places, 0 where nothing
        counts; and how many groups were predicted rightly, as a share.
    """
    flat = logits_BNGV.flatten(0, -2).float()
    each = F.cross_entropy(flat, codes_BNG.flatten(), reduction="none", label_smoothing=smoothing)
    right_BNG = (logits_BNGV.detach().argmax(-1) == codes_BNG).float()
    nats_B, right_B = (_of_rows(part.view(codes_BNG.shape).mean(2), weight_BN) for part in (each, right_BNG))
    return Loss({"nats": nats_B}, measures={"accuracy": right_B})


def _of_rows(each_BN: Tensor, weight_BN: Tensor | None) -> Tensor:
    """The weighted mean of each row, [B]."""
    if weight_BN is None:
        return each_BN.mean(1)
    count_B = weight_BN.sum(1)
    return (each_BN * weight_BN).sum(1) / count_B.where(count_B > 0, 1)


def split(codes: Tensor, vocabulary: int, groups: int) -> Tensor:
    """Codes [...] below vocabulary ** groups -> their digits [..., G], the most significant first."""
    base = torch.tensor([vocabulary**power for power in reversed(range(groups))], device=codes.device)
    return codes[..., None] // base % vocabulary


def join(codes_G: Tensor, vocabulary: int) -> Tensor:
    """The inverse of `split`: [..., G] -> [...]."""
    base = [vocabulary**power for power in reversed(range(codes_G.shape[-1]))]
    return (codes_G * torch.tensor(base, device=codes_G.device)).sum(-1)


def group_vocabulary(num_codes: int, groups: int, where: str = "groups") -> int:
    """V, such that V ** groups == num_codes; ValueError where there is none."""
    size = round(num_codes ** (1 / groups))
    if size < 2 or size**groups != num_codes:
        fitting = [
            g for g in range(1, 17) if round(num_codes ** (1 / g)) > 1 and round(num_codes ** (1 / g)) ** g == num_codes
        ]
        raise ValueError(f"{where}: got {groups} for {num_codes} codes, accepted: {', '.join(map(str, fitting))}")
    return size
