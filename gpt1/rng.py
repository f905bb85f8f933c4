"""What decides the last bits of a process's results: random state as a function of place, so that
dropout is the same on any number of ranks and after any resume; and the number of threads.
"""

from __future__ import annotations

import ctypes
import hashlib

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


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


def use_threads(count: int, device: torch.device) -> None:
    """Set torch's CPU threads; on a CPU, keep freed memory in the process as well.

    glibc returns a large tensor's pages to the kernel, and the next one gets them back one by one:
    up to a third of the time of training on a CPU (dev/LOG.md). Other C libraries do nothing here.
    """
    torch.set_num_threads(count)
    if device.type == "cpu" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
