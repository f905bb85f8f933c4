"""The model run with a key/value cache: the same modules as `GPT.forward`, one new position at a
time.

Rows of different length lie right-aligned: the padding is in front, is masked, and has no position,
so that each row's logits are those it would have alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.model.gpt import GPT, Block, restrict_rows

WORTH_TURNING = 32
"""Tokens to come from which turned copies of the weights pay for their making."""


class CachedGPT:
    """Logits of the next token for several sequences at once.

    The model must be in evaluation mode: there is no dropout here. `end` as in `restrict_rows`.
    """

    def __init__(self, gpt: GPT, end: int | None = None) -> None:
        self.gpt = gpt
        self._end = end
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._padding: Tensor | None = None
        """(B,) columns of padding in front of each row; None where there are none."""
        self.length = 0
        """Columns in use: ids of the longest row."""
        self._turned: dict[int, Tensor] = {}
        """Weights by the id of their parameter, laid out (in, out) in memory; empty where they
        are used as they are.
        """

    @torch.no_grad()
    def start(self, windows: Sequence[Sequence[int]], room: int) -> Tensor:
        """Read B sequences anew, each of 1 to `context` ids -> (B, V) logits after their last ids.

        `room`: positions to come.
        """
        gpt, T = self.gpt, max(map(len, windows))
        device = gpt.tokens_embed.weight.device
        ids = torch.zeros(len(windows), T, dtype=torch.int64)
        for row, window in enumerate(windows):
            ids[row, T - len(window) :] = torch.tensor(window)
        padding = torch.tensor([T - len(window) for window in windows], device=device)
        self._padding = padding if bool(padding.any()) else None
        shape = (
            len(windows), gpt.config.heads, min(T + room, gpt.config.context),
            gpt.config.width // gpt.config.heads,
        )
        self._keys, self._values = (
            [torch.empty(shape, dtype=gpt.tokens_embed.weight.dtype, device=device) for _ in gpt.h]
            for _ in range(2)
        )
        self.length = 0
        if device.type == "cpu" and len(windows) > 1 and room >= WORTH_TURNING and not self._turned:
            self._turn()
        return self._run(ids.to(device), self._first_mask(T))

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """One more id for each row -> (B, V) logits after it.

        There must be room: `length` less than the context.
        """
        ids = torch.tensor(tokens, device=self.gpt.tokens_embed.weight.device)[:, None]  # (B, 1)
        mask = None
        if self._padding is not None:
            mask = (torch.arange(self.length + 1, device=ids.device) >= self._padding[:, None])[
                :, None, None
            ]  # (B, 1, 1, T)
        return self._run(ids, mask)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may come more than once (beams)."""
        chosen = torch.tensor(rows, device=self.gpt.tokens_embed.weight.device)
        self._keys = [keys[chosen] for keys in self._keys]
        self._values = [values[chosen] for values in self._values]
        if self._padding is not None:
            self._padding = self._padding[chosen]

    def _turn(self) -> None:
        """On a CPU a few rows times a weight of (in, out) take 0.6 to 0.8 of the time they take
        with (out, in).
        """
        weights = [
            module.weight
            for block in self.gpt.h
            for module in block.modules()
            if isinstance(module, nn.Linear)
        ]
        weights.append(self.gpt.tokens_embed.weight)
        self._turned = {id(weight): weight.detach().t().contiguous().t() for weight in weights}

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, self._turned.get(id(weight), weight), bias)

    def _first_mask(self, T: int) -> Tensor | None:
        """(B, 1, T, T): causal, without padding; None (plain causal) where there is none.

        Padding sees itself, so no NaN.
        """
        if self._padding is None:
            return None
        column = torch.arange(T, device=self._padding.device)
        causal = column <= column[:, None]
        real = column >= self._padding[:, None, None]  # (B, 1, T)
        return ((causal & real) | torch.eye(T, dtype=torch.bool, device=column.device))[:, None]

    def _run(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        gpt, first, T = self.gpt, self.length, ids.shape[1]
        position = torch.arange(first, first + T, device=ids.device)
        if self._padding is not None:
            position = (position - self._padding[:, None]).clamp(min=0)  # (B, T)
        x = F.embedding(ids, gpt.tokens_embed.weight) + F.embedding(
            position, gpt.positions_embed.weight
        )  # (B, T, C)
        for layer, block in enumerate(gpt.h):
            assert isinstance(block, Block)
            x = self._block(layer, block, x, mask)
        self.length += T
        logits = self._linear(x[:, -1], gpt.tokens_embed.weight)  # (B, rows)
        return restrict_rows(logits, gpt.config.vocabulary, self._end)

    def _block(self, layer: int, block: Block, x: Tensor, mask: Tensor | None) -> Tensor:
        (B, T, C), heads, start = x.shape, block.attn.heads, self.length
        q, k, v = (
            self._linear(x, block.attn.c_attn.weight, block.attn.c_attn.bias)
            .view(B, T, 3, heads, C // heads)
            .permute(2, 0, 3, 1, 4)
        )  # three of (B, nh, T, hs)
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, start : start + T], values[:, :, start : start + T] = k, v
        k, v = keys[:, :, : start + T], values[:, :, : start + T]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and T > 1
        )  # (B, nh, T, hs)
        heads_together = y.transpose(1, 2).reshape(B, T, C)
        n = block.ln_1(
            x + self._linear(heads_together, block.attn.c_proj.weight, block.attn.c_proj.bias)
        )
        wide = F.gelu(
            self._linear(n, block.mlp.c_fc.weight, block.mlp.c_fc.bias), approximate="tanh"
        )  # (B, T, 4C)
        return block.ln_2(n + self._linear(wide, block.mlp.c_proj.weight, block.mlp.c_proj.bias))
