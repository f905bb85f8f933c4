"""Batches of sequences of unequal length, computed without their padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
