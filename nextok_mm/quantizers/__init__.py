"""Quantizers: continuous vectors to codes and back, with a gradient. One file each."""

import torch
from torch import Tensor


def check_codes(codes: Tensor, size: int) -> None:
    """ValueError in one line where codes aren't whole numbers from 0 to size - 1.

    Fake and meta tensors hold no numbers to be checked.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes: got {codes.dtype}, accepted: whole numbers from 0 to {size - 1}")
    if type(codes) is Tensor and not codes.is_meta and codes.numel():
        low, high = map(int, codes.long().aminmax())
        if not 0 <= low <= high < size:
            raise ValueError(f"codes: got {low} to {high}, accepted: 0 to {size - 1}")
