"""Random state as a function of place, so that dropout is the same on any number of ranks and
after any resume.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part: the sha256 of their canonical text.

    Its low 32 bits (all that torch's CPU generator uses) are as good as the rest.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seed_micro_batch(seed: int, step: int, index: int) -> None:
    """Set torch's global random state (CPU and all devices) before the forward of one micro-batch.

    `index` is the micro-batch's place in the global batch, so that the rank it falls to does not
    matter.
    """
    torch.manual_seed(derive_seed("micro-batch", seed, step, index))


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own, seeded from `parts`: for initial weights and samples of text."""
    return torch.Generator().manual_seed(derive_seed(*parts))
