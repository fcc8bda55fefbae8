"""The official xAR code, imported from a checkout that the user has, on a CPU: its GPU calls stubbed, here alone.

Nothing of it is in this repository. It imports flash_attn without using it, calls `.cuda()` on small tensors and keeps
its noise to itself, so while it runs `.cuda()` does nothing and `torch.randn`, `torch.randn_like` are recorded.
"""

import contextlib
import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.xar import convert


class Official:
    """xar_base from the official checkout, with random weights in every layer."""

    def __init__(self, checkout: str):
        root = Path(checkout)
        if not (root / "models" / "xar.py").is_file():
            raise ValueError(
                f"against: no models/xar.py in {checkout!r}; accepted: a checkout of the official xAR code"
            )
        with _stubs(), contextlib.redirect_stdout(io.StringIO()):
            sys.path.insert(0, str(root))
            try:
                from models.xar import xar_base  # type: ignore[import-not-found]
            finally:
                sys.path.remove(str(root))
            torch.manual_seed(0)
            self.model = xar_base(label_drop_prob=0.1, attn_dropout=0.0, proj_dropout=0.0).eval()

    def weights(self) -> dict[str, Tensor]:
        """Its weights under our names."""
        return convert(self.model.state_dict())[1]

    def sample(self, label: int, steps: int, cfg: float) -> tuple[Tensor, list[Tensor]]:
        """Raster latents [1, N, C] and the noises it drew, in order."""
        draws: list[Tensor] = []
        self.model.eval()
        with torch.no_grad(), _stubs(draws):
            latents = self.model.sample_tokens(steps, cfg=cfg, label=torch.tensor([label]))
        return latents.flatten(2).transpose(1, 2), draws

    def train_step(self, batch: dict[str, Tensor]) -> None:
        """Loss and backward."""
        side = int(batch["tokens"].shape[1] ** 0.5)
        images = batch["tokens"].transpose(1, 2).unflatten(2, (side, side))
        self.model.train().zero_grad(set_to_none=True)
        with _stubs():
            self.model(images, batch["labels"].float()).backward()


@contextlib.contextmanager
def _stubs(draws: list[Tensor] | None = None) -> Iterator[None]:
    cuda, randn, randn_like = Tensor.cuda, torch.randn, torch.randn_like

    def record(make):
        def recorded(*arguments, **options):
            noise = make(*arguments, **options)
            if draws is not None:
                draws.append(noise)
            return noise

        return recorded

    flash = types.ModuleType("flash_attn")
    flash.flash_attn_func = None  # type: ignore[attr-defined]
    missing = "flash_attn" not in sys.modules
    if missing:
        sys.modules["flash_attn"] = flash
    Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    torch.randn, torch.randn_like = record(randn), record(randn_like)
    try:
        yield
    finally:
        Tensor.cuda, torch.randn, torch.randn_like = cuda, randn, randn_like  # type: ignore[method-assign]
        if missing:
            del sys.modules["flash_attn"]
