"""What ranks on hosts that share no disk need: a place where one puts files and all find them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class CheckpointStorage(Protocol):
    """`folder` is one of this host; the same folder of another host stands for the same place.

    Names are relative to it.
    """

    def list(self, folder: Path) -> Sequence[str]:
        """What was put into the place or below it."""
        ...

    def upload(self, folder: Path, name: str) -> None:
        """Put the file `name` of the folder, in place of one put before."""
        ...

    def write(self, folder: Path, name: str, data: bytes) -> None:
        """The same for bytes."""
        ...

    def read(self, folder: Path, name: str) -> bytes | None:
        """What was put as `name`, or None."""
        ...

    def download(self, folder: Path, name: str, file: Path) -> str | None:
        """Write what was put as `name` to a file; its sha256, or None when nothing was put."""
        ...

    def delete(self, folder: Path, names: Sequence[str]) -> None:
        """Take things back."""
        ...
