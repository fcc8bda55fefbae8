"""The official NBP transformer and sampler, imported from a checkout that the user has. Nothing of it is in this repo.

Only its file `nbp/modules/gpt.py` is run, which needs torch alone.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.next_block import convert
from ..sequence.masks import block_causal


class Official:
    """The official model for frame prediction, with random weights. block: codes of a block."""

    def __init__(self, checkout: str, config: Any):
        path = Path(checkout) / "nbp" / "modules" / "gpt.py"
        spec = spec_from_file_location("nextok_official_nbp_gpt", path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ValueError(
                f"against: no nbp/modules/gpt.py in {checkout!r}; accepted: a checkout of the official NBP code"
            )
        self.gpt: Any = module_from_spec(spec)
        sys.modules[spec.name] = self.gpt
        spec.loader.exec_module(self.gpt)
        self.config, self.block = config, config.block_tokens
        torch.manual_seed(0)
        shape = dict(n_layer=config.depth, n_head=config.heads, n_embd=config.width)
        more = dict(semi_ar=True, token_number_per_step=self.block)
        self.model = self.gpt.GPT(None, config.num_codes, config.positions, **shape, **more).eval()
        torch.nn.init.normal_(self.model.pos_emb, std=0.02)

    def weights(self) -> dict[str, Tensor]:
        """Its weights under our names."""
        facts = {"grid": self.config.grid, "block": self.block, "vocab": self.config.num_codes}
        return convert(self.model.state_dict(), {**facts, "heads": self.config.heads})[1]

    def sample(self, given: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        """The codes [B, n] that follow the given ones [B, m]; temperature 0 is greedy."""
        known, rest = given.shape[1], self.config.clip_tokens - given.shape[1]
        mask = block_causal([self.block] * (known // self.block)).dense()[None, None].float()
        options = dict(temperature=temperature or 1.0, sample_logits=temperature > 0, top_k=top_k, top_p=top_p)
        with torch.no_grad():
            return self.gpt.sample_with_past(
                given, mask, self.model, rest // self.block, pred_token_num_per_step=self.block, **options
            )
