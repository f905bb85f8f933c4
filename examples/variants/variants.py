"""Variants of the model, one change each (docs/how-to/variant.md).

With this file in the folder of workflow.yaml, `model: variants.py:ReLU` trains the first. All but
the changed weights begin as those of `gpt` with the same seed. Sizes: B sequences of T positions,
or their R real ones without padding; width C.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.model.config import LN_EPS, ModelConfig
from gpt1.model.gpt import GPT, MLP, Block, Padding
from gpt1.tasks.dataset import SpecialIds

# The activation: a block has an MLP, and the MLP an activation


class ReLUMLP(MLP):
    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x)


class ReLUBlock(Block):
    mlp_class = ReLUMLP


class ReLU(GPT):
    """ReLU, as in the Transformer of 2017, in place of GELU."""

    block_class = ReLUBlock


class ErfGELUMLP(MLP):
    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class ErfGELUBlock(Block):
    mlp_class = ErfGELUMLP


class ErfGELU(GPT):
    """The exact GELU, x times the normal distribution's cumulative function, in place of its tanh
    form.
    """

    block_class = ErfGELUBlock


# The embedding: what is added to the tokens' rows


class SinusoidalPositions(GPT):
    """The fixed positions of Vaswani et al. (2017, section 3.5) in place of learned ones.

    There tokens are multiplied by sqrt(C) before the sum. Here the table has the deviation that
    learned rows begin with instead, so that nothing else changes.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        del self.positions_embed

    def position_rows(self) -> Tensor:
        context, C = self.config.context, self.config.width
        device = self.tokens_embed.weight.device
        place = torch.arange(context, device=device)[:, None]  # (context, 1)
        column = torch.arange(C, device=device)
        angle = place / 10_000 ** (column // 2 * 2 / C)  # (context, C)
        waves = torch.where(column % 2 == 0, angle.sin(), angle.cos())
        return waves * (2**0.5 * self.config.init_std)  # the square of a wave is 1/2 on average


class SegmentEmbeddings(GPT):
    """A learned row for each segment of the input, added as BERT does.

    A position's segment is the number of delimiters before it: in fine-tuning 1 for the second text
    or the answer, and 0 everywhere in pre-training, which so trains the first row alone.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        self.segments_embed = nn.Embedding(2, config.width)
        nn.init.normal_(self.segments_embed.weight, 0.0, config.init_std, generator)

    def sum_rows(
        self, ids: Tensor, positions: Tensor | slice, tokens: Tensor, places: Tensor
    ) -> Tensor:
        delimiter = ids == SpecialIds.after(self.config.vocabulary).delimiter
        segment = delimiter.cumsum(-1) - delimiter.long()  # (B, T): those before each position
        if isinstance(positions, Tensor):  # (R,): all sequences in a row; less those before its own
            first = torch.arange(len(ids), device=ids.device) - positions
            segment = segment - segment[first]
        return super().sum_rows(ids, positions, tokens, places) + self.segments_embed(segment)


# The blocks, and what comes after them


class PreLNBlock(Block):
    def forward(self, x: Tensor, padding: Padding | None = None, last: bool = False) -> Tensor:
        a = self.attn(self.ln_1(x), padding, last)
        if last and padding is not None:
            x = x[padding.last]  # (B, C)
        x = x + self.drop(a)
        return x + self.drop(self.mlp(self.ln_2(x)))


class PreLN(GPT):
    """Layer norms before attention and MLP, and one after the last block, as in GPT-2."""

    block_class = PreLNBlock

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        self.ln_f = nn.LayerNorm(config.width, eps=LN_EPS)

    def forward(self, ids: Tensor, padding: Padding | None = None, last: bool = False) -> Tensor:
        return self.ln_f(super().forward(ids, padding, last))


class UntiedHead(GPT):
    """A softmax matrix of its own, in place of the tokens' rows."""

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        self.softmax_rows = nn.Parameter(self.draw(config.rows, generator))

    def draw(self, rows: int, generator: torch.Generator | None) -> Tensor:
        """Rows N(0, init_std): (rows, C)."""
        rows_of_zeros = torch.zeros(rows, self.config.width)
        return rows_of_zeros.normal_(0.0, self.config.init_std, generator=generator)

    def take_softmax_matrix(self) -> Tensor:
        super().take_softmax_matrix()  # which forgets the dropped rows of `embedding_dropout`
        return self.softmax_rows

    @torch.no_grad()
    def extend(self, special: int, generator: torch.Generator | None = None) -> None:
        super().extend(special, generator)
        rows = self.draw(special, generator).to(self.softmax_rows)
        self.softmax_rows = nn.Parameter(torch.cat([self.softmax_rows, rows]))
