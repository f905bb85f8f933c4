"""Keeping torch out of processes that only need a tokenizer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Refusal(MetaPathFinder):
    """Answers "no such module" for torch, to the thread that asked for the refusal and to no
    other.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname == "torch" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(
                "torch is not imported for the sake of a tokenizer", name="torch"
            )
        return None


@contextmanager
def torch_left_out() -> Iterator[None]:
    """Within the block an optional `import torch` fails as if torch were not installed, unless it
    is loaded already.

    spaCy imports torch through thinc when it finds it (180 MB and a second for each process), and
    makes no use of it for tokenizing. torch can be imported as usual afterwards; only thinc goes on
    without it.
    """
    if "torch" in sys.modules:
        yield
        return
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        sys.meta_path.remove(refusal)
