"""The one transformer block: pre-norm attention and MLP, plain or modulated by a condition (AdaLN).

What differs between methods is a few fields of `BlockConfig`, never another class. Norms are computed in fp32.
Shapes: B batch, N tokens, E entities, D width, H heads, A head dim.
Sources: AdaLN from DiT (arXiv 2212.09748), section 3.2; gated MLPs from arXiv 2002.05202; RMSNorm from 1910.07467.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Config
from .attention import attention
from .cache import KVCache
from .masks import Mask
from .rope import Pairs, turn

_FILLED = ("kv_heads", "head_dim")  # 0 says that they follow from the others
MAX_HEAD_DIM = 512  # a table of rotations has as many numbers a token


class BlockConfig(Config):
    """The shape of one block: attention and an MLP, each behind a norm."""

    width: int = Field(gt=0, le=1 << 16, description="Width of the transformer's hidden states.")
    heads: int = Field(gt=0, le=1 << 12, description="Number of attention heads of the queries.")
    kv_heads: int = Field(
        default=0,
        ge=0,
        le=1 << 12,
        description="Number of heads of keys and values, each shared by heads / kv_heads queries; 0 takes heads.",
    )
    head_dim: int = Field(
        default=0, ge=0, le=MAX_HEAD_DIM, description="Number of channels of an attention head; 0 takes width / heads."
    )
    mlp: Literal["swiglu", "geglu", "gelu"] = Field(
        default="swiglu", description="Activation inside the MLP; swiglu and geglu are gated."
    )
    mlp_hidden: int = Field(gt=0, le=1 << 18, description="Width inside the MLP.")
    norm: Literal["rms", "layer"] = Field(default="rms", description="The kind of normalization: RMSNorm or LayerNorm.")
    norm_affine: bool = Field(default=True, description="Give the norms learned weights.")
    norm_bias: bool = Field(default=False, description="Give the norms learned biases too, which only LayerNorm has.")
    norm_eps: float = Field(default=1e-6, description="The small number that norms add to the variance.")
    qk_norm: bool = Field(default=False, description="Normalize queries and keys per head before the rotation.")
    score_scale: float | None = Field(
        default=None, gt=0, description="Factor of the product of query and key; null takes head_dim ** -0.5."
    )
    bias: bool = Field(
        default=True, description="Give the linear layers biases; qkv_bias decides for queries, keys and values."
    )
    qkv_bias: bool = Field(
        default=True,
        description="Give the layers of queries, keys and values biases; takes bias where it is not given.",
    )
    rope_pairs: Pairs = Field(
        default="neighbors",
        description="Which channels turn together: neighbors (2i, 2i + 1), or halves (i, i + head_dim / 2) as in "
        "Llama's files.",
    )
    modulated: bool = Field(default=False, description="Let a condition scale, shift and gate both branches (AdaLN).")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Probability with which dropout zeroes an activation in training."
    )

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, fields: Any) -> Any:
        """What follows from other fields where it isn't given."""
        if not isinstance(fields, Mapping):
            return fields
        pairs = cast(Mapping[str, Any], fields).items()
        given = {name: value for name, value in pairs if value is not None and (value or name not in _FILLED)}
        width, heads = given.get("width"), given.get("heads")
        if "head_dim" not in given and isinstance(width, int) and isinstance(heads, int) and heads > 0:
            if width % heads or width // heads % 2:
                raise ValueError(f"heads: got {heads} for width {width}, accepted: even width / heads")
            if width // heads > MAX_HEAD_DIM:
                raise ValueError(
                    f"heads: got {heads} for width {width}, accepted: width / heads of at most {MAX_HEAD_DIM}"
                )
            given["head_dim"] = width // heads
        return {"kv_heads": heads, "qkv_bias": given.get("bias", True), **given}

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.head_dim % 2:
            raise ValueError(f"head_dim: got {self.head_dim}, accepted: an even number")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: got {self.kv_heads} for {self.heads} heads, accepted: a divisor of it")
        return self


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last axis in fp32, with or without learned weights, LayerNorm also with biases."""

    def __init__(self, width: int, kind: str = "rms", affine: bool = True, eps: float = 1e-6, bias: bool = False):
        super().__init__()
        self.kind, self.eps, self.width = kind, eps, width
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias and affine and kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and dtype."""
        weight = None if self.weight is None else self.weight.float()
        if self.kind == "rms":
            return F.rms_norm(x.float(), (self.width,), weight, self.eps).type_as(x)
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), (self.width,), weight, bias, self.eps).type_as(x)


class GatedMLP(nn.Module):
    """SwiGLU or GEGLU, out(activation(gate) * up): gate and up in one matrix product."""

    def __init__(self, width: int, hidden: int, bias: bool, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.activation = activation
        self.gate_up = nn.Linear(width, 2 * hidden, bias)
        self.out = nn.Linear(hidden, width, bias)

    def parts(self) -> dict[str, dict[str, int]]:
        """The layers that are several side by side, and the outputs of each part by its name."""
        return {"gate_up": dict.fromkeys(("gate", "up"), self.out.in_features)}

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(self.activation(gate) * up)


class GELUMLP(nn.Module):
    """The two-layer MLP of GPT-2 and ViT."""

    def __init__(self, width: int, hidden: int, bias: bool):
        super().__init__()
        self.up = nn.Linear(width, hidden, bias)
        self.out = nn.Linear(hidden, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.out(F.gelu(self.up(x)))


class Modulation:
    """The six vectors per entity that steer one block, laid over that entity's tokens.

    vectors [B, E, 6, D]: gate, gate, scale, scale, shift, shift of attention and MLP; `sizes` the tokens of each
    entity. Where all entities are equally long, nothing is copied: x is seen as [B, E, K, D].
    """

    def __init__(self, vectors_BE6D: Tensor, sizes: tuple[int, ...]):
        if len(set(sizes)) == 1:
            self.view = len(sizes)
        else:
            ids = [entity for entity, size in enumerate(sizes) for _ in range(size)]
            vectors_BE6D, self.view = vectors_BE6D[:, ids], sum(sizes)
        gate1, gate2, scale1, scale2, shift1, shift2 = vectors_BE6D.unsqueeze(2).unbind(3)
        self.attention, self.mlp = (gate1, scale1, shift1), (gate2, scale2, shift2)

    def enter(self, x_BND: Tensor, part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x * (1 + scale) + shift."""
        _, scale, shift = part
        x = torch.unflatten(x_BND, 1, (self.view, -1))
        return torch.addcmul(shift.type_as(x), x, 1 + scale.type_as(x)).flatten(1, 2)

    def leave(self, x_BND: Tensor, branch_BND: Tensor, part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x + gate * branch."""
        x, branch = (torch.unflatten(y, 1, (self.view, -1)) for y in (x_BND, branch_BND))
        return torch.addcmul(x, branch, part[0].type_as(x)).flatten(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions, a mask, and a cache where one is given."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.scale, self.dropout = config.score_scale, config.dropout
        channels = self.heads * self.head_dim
        self.qkv = nn.Linear(config.width, channels + 2 * self.kv_heads * self.head_dim, config.qkv_bias)
        self.out = nn.Linear(channels, config.width, config.bias)
        norm = config.head_dim, config.norm, config.norm_affine, config.norm_eps
        self.q_norm = Norm(*norm) if config.qk_norm else None
        self.k_norm = Norm(*norm) if config.qk_norm else None

    def parts(self) -> dict[str, dict[str, int]]:
        """The layers that are several side by side, and the outputs of each part by its name."""
        shared = self.kv_heads * self.head_dim
        return {"qkv": {"q": self.heads * self.head_dim, "k": shared, "v": shared}}

    def forward(
        self,
        x_BND: Tensor,
        mask: Mask,
        backend: str,
        rope: Tensor | None,
        cache: tuple[KVCache, int] | None,
        padding_BK: Tensor | None = None,
        last: int | None = None,
    ) -> Tensor:
        """[B, N, D] -> [B, N, D], or that of the `last` tokens alone; rope: what `turns` made; cache: it, and this
        block's place in it; padding_BK: see `attention`."""
        qkv = torch.unflatten(self.qkv(x_BND), -1, (self.heads + 2 * self.kv_heads, self.head_dim))
        qk, v = torch.split_with_sizes(qkv, [self.heads + self.kv_heads, self.kv_heads], 2)
        both = [self.heads, self.kv_heads]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = torch.split_with_sizes(qk, both, 2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=2)
        if rope is not None:
            qk = turn(qk, rope)
        q, k, v = (y.transpose(1, 2) for y in (*torch.split_with_sizes(qk, both, 2), v))
        if cache is not None:
            k, v = cache[0].append(cache[1], k, v)
        if last is not None:
            q, mask = q[:, :, -last:], mask.last(last)
        y = attention(q, k, v, mask, backend, self.scale, self.dropout if self.training else 0.0, padding_BK)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); both branches modulated where the config says so."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        norm = config.width, config.norm, config.norm_affine, config.norm_eps, config.norm_bias
        self.norm1 = Norm(*norm)
        self.attention = Attention(config)
        self.norm2 = Norm(*norm)
        shape = config.width, config.mlp_hidden, config.bias
        gate = {"swiglu": F.silu, "geglu": F.gelu}.get(config.mlp)
        self.mlp = GatedMLP(*shape, gate) if gate else GELUMLP(*shape)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BND: Tensor,
        mask: Mask,
        backend: str = "auto",
        rope: Tensor | None = None,
        modulation: Modulation | None = None,
        cache: tuple[KVCache, int] | None = None,
        padding_BK: Tensor | None = None,
        last: int | None = None,
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; last: that of so many last tokens alone (of a block that nothing modulates)."""
        m = modulation
        y = self.norm1(x_BND) if m is None else m.enter(self.norm1(x_BND), m.attention)
        y = self.attention(y, mask, backend, rope, cache, padding_BK, last)
        x_BND = x_BND if last is None else x_BND[:, -last:]
        y = self.dropout(y) if self.training else y  # a call that does nothing is dear where the others are short
        x_BND = x_BND + y if m is None else m.leave(x_BND, y, m.attention)
        y = self.norm2(x_BND) if m is None else m.enter(self.norm2(x_BND), m.mlp)
        y = self.mlp(y)
        y = self.dropout(y) if self.training else y
        return x_BND + y if m is None else m.leave(x_BND, y, m.mlp)
