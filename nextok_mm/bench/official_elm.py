"""The official ELM code, imported from a checkout that the user has. Nothing of it is in this repository."""

import contextlib
import io
import sys
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.elm import convert


class Official:
    """GPT-B of the official checkout with random weights: `groups` codes of `bits` bits a position."""

    def __init__(self, checkout: str, groups: int, bits: int):
        root = Path(checkout)
        if not (root / "llama" / "ar_model.py").is_file():
            raise ValueError(
                f"against: no llama/ar_model.py in {checkout!r}; accepted: a checkout of the official ELM code"
            )
        with contextlib.redirect_stdout(io.StringIO()):
            sys.path.insert(0, str(root))
            try:
                from llama.ar_model import GPT_models  # type: ignore[import-not-found]
            finally:
                sys.path.remove(str(root))
            torch.manual_seed(0)
            build = GPT_models["GPT-B"]
            self.model = build(token_each=groups, code_dim=bits, block_size=256, num_classes=1000).eval()
        for name, weight in self.model.named_parameters():  # its output layer starts at zero: every code would tie
            if name.startswith("output"):
                torch.nn.init.normal_(weight, std=0.02)

    def converted(self) -> tuple[dict, dict[str, Tensor]]:
        """Config fields and weights under our names."""
        return convert(self.model.state_dict(), {})

    @torch.no_grad()
    def sample(self, labels: Tensor, positions: int, cfg: float) -> Tensor:
        """Greedy codes [n, positions, groups] with guidance growing linearly."""
        settings = dict(num_iter=positions, top_k=1, cfg_scale=cfg, cfg_schedule="linear")
        with contextlib.redirect_stdout(io.StringIO()):
            return self.model.generate_cfg(None, labels, **settings)[0]
