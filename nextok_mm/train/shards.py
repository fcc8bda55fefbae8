"""Tensors that are spread over processes (FSDP2's DTensors): in one piece, and back into their parts.

Plain tensors pass through, so the loop is written once for both. Gathering is collective: every process has to ask for
the same tensors in the same order, also one that keeps none of them.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def is_spread(model: nn.Module) -> bool:
    """Whether this process holds only a part of the model."""
    return any(_is_shard(parameter) for parameter in model.parameters())


def whole(tensor: Any) -> Tensor:
    """One tensor in one piece, where it was."""
    return tensor.full_tensor() if _is_shard(tensor) else tensor


def gather(tensors: Mapping[str, Tensor], gather_here: bool) -> dict[str, Tensor]:
    """All of them in one piece on the CPU, as a safetensors file takes them; empty where not `gather_here`."""
    kept = {}
    for name, tensor in tensors.items():
        piece = whole(tensor.detach())
        if gather_here:
            kept[name] = piece.cpu().contiguous()
    return kept


def spread(tensor: Tensor, like: Any) -> Tensor:
    """A whole tensor on the device of `like`, and cut up as that is: each process takes its part of its own copy."""
    tensor = tensor.to(like.device)
    if not _is_shard(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _is_shard(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor; the import that says so costs half a second
