"""The LSTM of the paper's ablation (section 5, table 5): one layer of 2,048 units in place of the
blocks.

The paper says no more. Ours: everything around the blocks stays (token and position rows, their
dropout, the tied softmax); the units' outputs are projected to the model's width and normalized as
a block's are, so that fine-tuning, zero-shot scoring and generation see hidden states of the same
shape and scale.
"""

from __future__ import annotations

from torch import Tensor, nn

from gpt1.model.config import LN_EPS, ModelConfig
from gpt1.model.padding import Padding


class LSTMBlock(nn.Module):
    """Width C -> `units` U, recurrent over the positions -> C, dropout, layer norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(config.width, config.units, batch_first=True)
        self.c_proj = nn.Linear(config.units, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.ln = nn.LayerNorm(config.width, eps=LN_EPS)

    def forward(self, x: Tensor, padding: Padding | None = None, last: bool = False) -> Tensor:
        """(B, T, C) -> (B, T, C), the state begins at 0; `padding`, `last`: see `GPT`."""
        states, _ = self.lstm(x if padding is None else padding.restore(x))  # (B, T, U)
        if padding is not None:
            states = padding.remove(states)  # (R, U)
            states = states[padding.last] if last else states
        return self.ln(self.drop(self.c_proj(states)))
