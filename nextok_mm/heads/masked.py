"""The masked head: masked codes are predicted from both sides, against the embeddings themselves.

Hidden state -> linear, GELU, LayerNorm -> product with the code embeddings, which learn nothing from it, plus a bias.
Shapes: B batch, N positions, G groups, V vocabulary of a group (the mask's own code not counted), D width.
Sources: the prediction layer of BERT (arXiv 1810.04805), as in MAGE (arXiv 2211.09117) and ELM (arXiv 2410.16257).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .categorical import CodeEmbedding, Head


class MaskedHead(Head):
    """Logits of G groups; `embedding` is the model's, with V + 1 codes per group, the last of which is the mask."""

    def __init__(self, width: int, vocabulary: int, groups: int, embedding: CodeEmbedding):
        super().__init__()
        self.groups = groups
        self._embedding = (embedding,)  # in a tuple: its weights are no weights of this module
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(groups, vocabulary))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden_BND: Tensor, codes_BNG: Tensor | None = None) -> Tensor:
        """[..., D] -> logits [..., G, V]; of the mask's own code there is none."""
        table_GVD = self._embedding[0].table.weight.detach().unflatten(0, (self.groups, -1))[:, :-1]
        features = self.norm(F.gelu(self.dense(hidden_BND)))
        return torch.einsum("...d,gvd->...gv", features, table_GVD.to(features.dtype)) + self.bias
