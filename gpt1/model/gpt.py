"""The model of Radford et al. (2018), section 4.1: a post-LN, decoder-only Transformer with a tied
softmax.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt1.errors import UserError
from gpt1.model.config import LN_EPS, MODELS, ModelConfig
from gpt1.model.loss import chunked_mean_loss


@dataclass(frozen=True)
class Padding:
    """Where B sequences of unequal length, padded at their ends to T ids, have their R real ids.

    All that a block computes for one position alone (most of its work) is done for (R, C) then, not
    for (B, T, C).
    """

    real: Tensor
    """(B, T) bool: not padding."""
    places: Tensor
    """(R,) int64: the real positions, counted through all B x T."""
    last: Tensor
    """(B,) int64: each sequence's last position, counted through the R."""

    @classmethod
    def after(cls, lengths: Tensor, T: int) -> Padding:
        """That of sequences of `lengths` (B,) ids, each from 1 to T."""
        real = torch.arange(T, device=lengths.device) < lengths[:, None]  # (B, T)
        return cls(real, real.flatten().nonzero().squeeze(1), lengths.cumsum(0) - 1)

    def remove(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (R, ...)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def restore(self, x: Tensor) -> Tensor:
        """(R, C) -> (B, T, C), zeros where there is padding."""
        B, T = self.real.shape
        padded = x.new_zeros(B * T, x.shape[1])
        return padded.index_copy_(0, self.places, x).view(B, T, -1)


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection to Q, K, V (in that order)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.width = config.heads, config.width
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, padding: Padding | None = None, last: bool = False) -> Tensor:
        """(B, T, C) -> (B, T, C); see `GPT.forward` for `padding` and `last`."""
        if padding is None:
            return self.c_proj(self.attend(*self._split_heads(self.c_attn(x))))
        if not last:
            q, k, v = self._split_heads(padding.restore(self.c_attn(x)))
            return self.c_proj(padding.remove(self.attend(q, k, v)))
        (to_q, to_kv), (q_bias, kv_bias) = (
            part.split((self.width, 2 * self.width))
            for part in (self.c_attn.weight, self.c_attn.bias)
        )
        query = F.linear(x[padding.last], to_q, q_bias)  # (B, C)
        (q,) = self._split_heads(query[:, None])  # (B, nh, 1, hs)
        k, v = self._split_heads(padding.restore(F.linear(x, to_kv, kv_bias)))
        seen = padding.real[:, None, None]  # (B, 1, 1, T)
        return self.c_proj(self.attend(q, k, v, seen).squeeze(1))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, T, n C) -> (n, B, nh, T, hs)."""
        B, T, _ = x.shape
        return x.view(B, T, -1, self.heads, self.width // self.heads).permute(2, 0, 3, 1, 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        """Three of (B, nh, T, hs) -> (B, T, C), the heads side by side.

        Scores are scaled by 1/sqrt(hs); dropout acts on the probabilities. `seen`: as of
        `attend_in_steps`; q is then that of each sequence's last position, (B, nh, 1, hs).
        """
        dropout = self.dropout if self.training else 0.0
        if dropout and q.device.type == "cpu":
            y = attend_in_steps(q, k, v, dropout, seen)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=seen is None
            )  # (B, nh, T, hs)
        return y.transpose(1, 2).flatten(2)


def attend_in_steps(
    q: Tensor, k: Tensor, v: Tensor, dropout: float, seen: Tensor | None = None
) -> Tensor:
    """Attention of (B, nh, T, hs) with dropout on the probabilities, in plain steps.

    Causal, or to the positions that are `seen` (B, 1, Tq, T), bool. For CPUs: there torch has no
    fused kernel with dropout, and its substitute takes up to twice as long (benchmarks/train.py).
    """
    (B, heads, T, size), lowest = q.shape, float("-inf")
    if seen is None:
        hidden = torch.full((T, T), lowest, dtype=q.dtype, device=q.device).triu(1)
        hidden = hidden.expand(B * heads, T, T)
    else:
        hidden = torch.zeros_like(seen, dtype=q.dtype).masked_fill_(~seen, lowest)
        hidden = hidden.expand(B, heads, T, -1).flatten(0, 1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B x nh, T, hs)
    scores = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=size**-0.5)
    return torch.bmm(F.dropout(scores.softmax(-1), dropout), v).view(B, heads, T, size)


class MLP(nn.Module):
    """The position-wise feed-forward layer, four times as wide inside, GELU in its tanh form."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.c_proj(self.activate(self.c_fc(x)))  # (B, T, 4C) inside

    def activate(self, x: Tensor) -> Tensor:
        """The activation, on (B, T, 4C)."""
        return F.gelu(x, approximate="tanh")


class Block(nn.Module):
    """One block. Normalisation comes after each sum (post-LN), unlike GPT-2 and later."""

    attn_class: ClassVar[type[Attention]] = Attention
    mlp_class: ClassVar[type[MLP]] = MLP

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn = self.attn_class(config)
        self.ln_1 = nn.LayerNorm(config.width, eps=LN_EPS)
        self.mlp = self.mlp_class(config)
        self.ln_2 = nn.LayerNorm(config.width, eps=LN_EPS)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, padding: Padding | None = None, last: bool = False) -> Tensor:
        """(B, T, C) -> (B, T, C); see `GPT.forward` for `padding` and `last`."""
        # Autocast leaves what a layer norm gives in fp32: kept in the type of the products, 3 %
        # faster on an H200, 1.3 GB less.
        a = self.attn(x, padding, last)
        if last and padding is not None:
            x = x[padding.last]  # (B, C)
        n = self.ln_1(x + self.drop(a)).to(a.dtype)
        m = self.mlp(n)
        return self.ln_2(n + self.drop(m)).to(m.dtype)


class LSTMBlock(nn.Module):
    """The LSTM of the paper's section 5 in a block's place.

    Width C -> `units` U, recurrent over the positions -> C, dropout, layer norm.

    The paper says no more. Ours: everything around the blocks stays (token and position rows, their
    dropout, the tied softmax), and the outputs are projected and normalized as a block's are, so
    that fine-tuning, zero-shot scoring and generation see hidden states of the same shape and
    scale.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(config.width, config.units, batch_first=True)
        self.c_proj = nn.Linear(config.units, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.ln = nn.LayerNorm(config.width, eps=LN_EPS)

    def forward(self, x: Tensor, padding: Padding | None = None, last: bool = False) -> Tensor:
        """(B, T, C) -> (B, T, C), the state begins at 0; `padding`, `last`: see `GPT`."""
        x = x if padding is None else padding.restore(x)
        # In the weights' type on CPUs: for bf16, oneDNN has no LSTM on those without AVX-512.
        is_cpu = x.device.type == "cpu"
        with torch.autocast("cpu", enabled=False) if is_cpu else nullcontext():
            states, _ = self.lstm(x.to(self.c_proj.weight) if is_cpu else x)  # (B, T, U)
        if padding is not None:
            states = padding.remove(states)  # (R, U)
            states = states[padding.last] if last else states
        return self.ln(self.drop(self.c_proj(states)))


class GPT(nn.Module):
    """Token ids to hidden states, and hidden states to logits.

    Parameters bear the names of the released weights (`tokens_embed`, `positions_embed`,
    `h.0.attn.c_attn`, ...), but linear weights are stored (out, in) as torch does;
    `gpt1.weights.hf` transposes them. They are drawn as in section 4.1 of the paper, from
    `generator` when given (else from torch's global one). With `recompute`, training keeps only
    each block's input and computes the rest again in the backward pass, with the same dropout: the
    same numbers from less memory, for a third more work.

    A variant is a subclass with the same constructor, which may have other blocks (`block_class`)
    or replace methods (docs/how-to/variant.md).

        >>> model = gpt1.GPT(gpt1.ModelConfig(layers=2))
        >>> model.lm_logits(model(torch.zeros(1, 8, dtype=torch.int64))).shape
        torch.Size([1, 8, 40478])
    """

    block_class: ClassVar[type[nn.Module]] = Block

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokens_embed = nn.Embedding(config.rows, config.width)
        self.positions_embed = nn.Embedding(config.context, config.width)
        self.drop = nn.Dropout(config.dropout)
        block = LSTMBlock if config.kind == "lstm" else self.block_class
        self.h = nn.ModuleList(block(config) for _ in range(config.layers))
        self.recompute = False
        self._softmax_matrix: Tensor | None = None
        self.init_weights(generator)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights: matrices and embeddings N(0, init_std) at any depth, biases 0,
        layer norms 1 and 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, self.config.init_std, generator=generator)
            if isinstance(module, nn.Linear):
                module.bias.zero_()
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            if isinstance(module, nn.LSTM):
                self._init_lstm(module, generator)

    def _init_lstm(self, module: nn.LSTM, generator: torch.Generator | None) -> None:
        """Matrices as all others; biases 0 but for the forget gate's 1, so that the state lasts
        from the start.
        """
        for name, parameter in module.named_parameters():
            if name.startswith("weight"):
                parameter.normal_(0.0, self.config.init_std, generator=generator)
            else:
                parameter.zero_()
            if name.startswith("bias_ih"):
                parameter[module.hidden_size : 2 * module.hidden_size] = (
                    1.0  # gates lie in the order input, forget, cell, output
                )

    def forward(self, ids: Tensor, padding: Padding | None = None, last: bool = False) -> Tensor:
        """(B, T) int64 ids -> (B, T, C) hidden states of the last block.

        With `padding`, (R, C): padded positions are left out of the work. With `last` as well,
        (B, C): the last block is computed for each sequence's last position alone. The states are
        the same, up to rounding. Raises UserError when T exceeds the context.
        """
        length = ids.shape[1]
        if length > self.config.context:
            raise UserError(
                f"model: a sequence of {length} tokens is longer than the context of"
                f" {self.config.context}; shorten it"
            )
        if padding is None:
            x = self._embed(ids, slice(length))  # (B, T, C)
        else:
            x = self._embed(padding.remove(ids), padding.places % length)  # (R, C)
        for block in self.h:
            inputs = (x, padding, last and block is self.h[-1])
            x = (
                checkpoint(block, *inputs, use_reentrant=False)
                if self.recompute and self.training
                else block(*inputs)
            )
        return x

    def _embed(self, ids: Tensor, positions: Tensor | slice) -> Tensor:
        """The sum of token and position rows, with the embedding's dropout: (...) -> (..., C).

        `positions` are those of the ids in their sequences.
        """
        tokens = self.tokens_embed.weight  # (V, C)
        places = self.position_rows()  # (context, C)
        if self.config.embedding_dropout == "activation":
            return self.drop(self.sum_rows(ids, positions, tokens, places))
        # The released code has tokens and positions in one matrix and drops it once a forward; the
        # softmax uses the dropped rows.
        tokens, places = self.drop(tokens), self.drop(places)
        self._softmax_matrix = tokens if self.training else None
        return self.sum_rows(ids, positions, tokens, places)

    def position_rows(self) -> Tensor:
        """The rows (context, C) of the positions."""
        return self.positions_embed.weight

    def sum_rows(
        self, ids: Tensor, positions: Tensor | slice, tokens: Tensor, places: Tensor
    ) -> Tensor:
        """The input of the first block without dropout: (...) -> (..., C).

        `ids` and `positions` are (B, T) and a slice or, of sequences without their padding, both
        (R,). The rows of `tokens` (V + special, C) and `places` (context, C) may be dropped ones.
        """
        return F.embedding(ids, tokens) + places[positions]

    def lm_logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V + special): logits over all rows, by the tied token rows, without
        bias.

        With `embedding_dropout: matrix` in training, the matrix that the last forward dropped is
        used: call it once, after it.
        """
        return F.linear(hidden, self.take_softmax_matrix())

    def take_softmax_matrix(self) -> Tensor:
        """The rows (V + special, C) that make the logits of the last forward.

        Call it once after each forward.
        """
        matrix, self._softmax_matrix = self._softmax_matrix, None
        return self.tokens_embed.weight if matrix is None else matrix

    def vocabulary_logits(self, hidden: Tensor, end: int | None = None) -> Tensor:
        """(..., C) -> (..., V): logits of vocabulary tokens alone, for scoring and sampling
        (section 5 of the paper); with `end` as in `restrict_rows`.
        """
        return restrict_rows(self.lm_logits(hidden), self.config.vocabulary, end)

    @torch.no_grad()
    def extend(self, special: int, generator: torch.Generator | None = None) -> None:
        """Add `special` rows N(0, init_std) after the present ones, for the special tokens of
        fine-tuning.
        """
        old = self.tokens_embed.weight
        rows = torch.empty(special, self.config.width).normal_(
            0.0, self.config.init_std, generator=generator
        )
        weight = torch.cat([old, rows.to(old)])  # (V + special, C)
        self.tokens_embed = nn.Embedding.from_pretrained(weight, freeze=False)
        self.config = replace(
            self.config, special_tokens=self.config.special_tokens + special
        )

    @classmethod
    @cache
    def count_parameters(cls, config: ModelConfig) -> int:
        """The number of parameters, counted without memory for them.

        UserError where the model of a variant cannot be built, or has what weights files do not
        keep: buffers, or one parameter under two names.
        """
        try:
            with torch.device("meta"):
                model = cls(config)
            found = dict(model.named_parameters())
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"model: {config.kind} cannot be built ({why}); fix it") from error
        others = {*dict(model.named_buffers()), *model.state_dict()} - found.keys()
        if others:
            raise UserError(
                f"model: {config.kind} has {min(others)!r}, which weights files do not keep;"
                " expected only parameters, each under one name: compute tables in `forward`"
            )
        return sum(parameter.numel() for parameter in found.values())


MODELS.update(gpt=GPT, lstm=GPT)


def restrict_rows(logits: Tensor, vocabulary: int, end: int | None = None) -> Tensor:
    """(..., rows) -> (..., V): the logits of vocabulary tokens alone; with a special token `end`
    (..., end + 1), those of other special tokens at -inf.
    """
    if end is None:
        return logits[..., :vocabulary]
    others = torch.arange(vocabulary, end, device=logits.device)
    return logits[..., : end + 1].index_fill(-1, others, float("-inf"))


# Losses


EXCLUDED = -100  # torch's default `ignore_index`
"""A target that counts neither in the loss nor in the gradient."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(..., V) logits and (...) int64 targets -> (...) cross-entropies in nats, computed in
    fp32; 0 for a target that is EXCLUDED.
    """
    flat = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def per_sequence_loss(losses: Tensor, mask: Tensor) -> Tensor:
    """(B, T) losses and a (B, T) mask of the targets that count -> (B,): the mean over each
    sequence's own targets.

    The auxiliary loss of fine-tuning: averaged over one sequence first, then (by the caller) over
    sequences (docs/explanation/tasks.md).
    """
    mask = mask.to(losses.dtype)
    return (losses * mask).sum(-1) / mask.sum(-1).clamp(min=1)


class LanguageModelling(nn.Module):
    """What pre-training trains: windows in, their mean loss out, so that an engine sees one forward
    a micro-batch.

    With `chunk`, `pad` or after `compile_for_training` the loss is that of `chunked_mean_loss`,
    with other last bits.
    """

    def __init__(self, gpt: GPT, chunk: int = 0, pad: int = 0) -> None:
        super().__init__()
        self.gpt = gpt
        self.chunk = chunk
        self.pad = pad
        self.compiled = False

    def compile_for_training(self, one_graph: bool) -> None:
        """Compile the loss and the model: the model in one graph, or block by block.

        One graph is faster on a rank alone. Among several ranks gradients are averaged while
        earlier blocks are still computed, which one graph would not allow.
        """
        self.compiled = True
        for part in (self.gpt,) if one_graph else self.gpt.h:
            part.compile()

    def forward(self, windows: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, T+1) int64 ids -> the scalar mean over all B x T targets.

        With `weights` (B,) each sequence's losses are multiplied by its own before that mean, and
        sequences of weight 0 are excluded: they give neither loss nor gradient. The others must
        have one weight.
        """
        if self.compiled and not self.training:
            # Held-out batches come in many sizes, each of which would be compiled for longer than
            # it is computed.
            with torch.compiler.set_stance("force_eager"):
                return self._loss(windows, weights)
        return self._loss(windows, weights)

    def _loss(self, windows: Tensor, weights: Tensor | None) -> Tensor:
        hidden, targets = self.gpt(windows[:, :-1]), windows[:, 1:]  # (B, T, C), (B, T)
        if weights is not None:
            targets = targets.masked_fill(weights[:, None] == 0, EXCLUDED)
        if not self.chunk and not self.pad and not self.compiled:
            losses = token_losses(self.gpt.lm_logits(hidden), targets)  # (B, T)
            return (losses if weights is None else losses * weights[:, None]).mean()
        loss = chunked_mean_loss(
            hidden.flatten(0, 1), self.gpt.take_softmax_matrix(), targets.flatten(), self.chunk,
            self.pad, self.compiled,
        )
        # The chunked mean is over the targets that count, B x T x (share of kept sequences).
        return loss if weights is None else loss * weights.mean()
