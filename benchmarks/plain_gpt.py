"""The alternative a good programmer would write in an evening: GPT-1 with
scaled_dot_product_attention, nothing of this package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Post-LN block."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attn, self.attn_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.attn(x).chunk(3, -1)
        )
        p = self.dropout if self.training else 0.0
        y = (
            F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
            .transpose(1, 2)
            .reshape(B, T, C)
        )
        x = self.ln_1(x + F.dropout(self.attn_out(y), self.dropout, self.training))
        y = self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.ln_2(x + F.dropout(y, self.dropout, self.training))


class PlainGPT(nn.Module):
    """Ids and targets in, mean loss out."""

    def __init__(
        self, vocabulary: int, context: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.dropout = dropout

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T), (B, T) -> scalar."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(x, self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def take_weights(self, weights: dict[str, Tensor]) -> None:
        """Those of a gpt1 model's state dictionary."""
        names = {
            "attn.c_attn": "attn", "attn.c_proj": "attn_out", "mlp.c_fc": "up",
            "mlp.c_proj": "down",
        }
        taken = {}
        for name, tensor in weights.items():
            new = name.replace("tokens_embed", "tokens").replace("positions_embed", "positions")
            if new.startswith("h."):
                for theirs, ours in names.items():
                    new = new.replace(f".{theirs}.", f".{ours}.")
                new = f"blocks.{new.removeprefix('h.')}"
            taken[new] = tensor
        with torch.no_grad():
            self.load_state_dict(taken)
