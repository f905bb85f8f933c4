"""Memory of CPU training: what a step frees is kept for the next one.

glibc gives large blocks back to the kernel when they are freed, so every step would have its
activations mapped and zeroed anew, page by page. Two of its switches (mallopt(3)) leave them with
the process, whose largest size grows by a few per cent (benchmarks/memory.py has it both ways).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed blocks in this process from now on; False where the C library is not glibc, and
    nothing was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
