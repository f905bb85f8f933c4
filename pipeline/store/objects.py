"""What a store is built on: objects by key, in a folder (local.py) or a bucket (s3.py)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from gpt1.train.checkpoint import CheckpointStorage


class ListedObject(NamedTuple):
    """One line of a listing. `mark` changes when the object is replaced."""

    key: str
    size: int
    mark: str


class Objects(Protocol):
    """Objects by key, such as `shard/0a1b/record.json`. Picklable; equal where the place is.

    Every method raises UserError, or OSError from a disk, when the place cannot be reached.
    """

    @property
    def url(self) -> str:
        """The address, as it is given with --store."""

    @property
    def root(self) -> Path:
        """This host's folder: the store itself, or what this host keeps of a bucket."""

    @property
    def shared(self) -> bool:
        """Whether all hosts see `root`: nothing is uploaded or downloaded."""

    @property
    def storage(self) -> CheckpointStorage:
        """For files of attempts, by their folder's path on this host."""

    def address(self, key: str) -> str:
        """The URL of an object."""

    def read(self, key: str) -> bytes | None:
        """A small object, or None."""

    def write(self, key: str, data: bytes) -> None:
        """Write an object; one that is there is replaced at once."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none; False, and nothing changed, if there is another."""

    def entries(self, prefix: str) -> list[ListedObject]:
        """All objects whose keys begin with `prefix`, which is empty or ends with a slash, in no
        order.
        """

    def folders(self, prefix: str = "") -> list[str]:
        """The next step of all keys that begin with `prefix`, and have more than that one."""

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there count as deleted."""

    def remove_folder(self, prefix: str) -> None:
        """Delete all objects whose keys begin with `prefix`, which ends with a slash."""

    def unfinished(self, age: float) -> list[ListedObject]:
        """What processes began to write more than `age` seconds ago, and never finished."""

    def upload(self, key: str, file: Path, sha256: str | None = None) -> None:
        """Make a file an object, safe from a power cut. Its content is checked on the way."""

    def obtain(self, key: str, sha256: str) -> str | None:
        """Have an object at `root`/`key`, with that sha256 if the store has it so; returns the
        sha256 of what the store has, None when it has nothing.
        """

    def sha256(self, key: str) -> str | None:
        """Of what the store has, read to the end; None when it has nothing."""
