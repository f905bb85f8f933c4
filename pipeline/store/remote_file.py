"""A file of a remote store's artifact, which lies on this host only when somebody wants to read
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.store.cache import Item
from stages.contract import OutputFile

if TYPE_CHECKING:
    from pipeline.store.remote_store import RemoteStore


class RemoteFile(OutputFile):
    """A file of a published artifact.

    It is fetched when `path` is asked for, with those of its folder: code finds siblings by their
    names.
    """

    def __init__(
        self, store: RemoteStore, name: str, entry: Mapping[str, Any], beside: Sequence[Item]
    ) -> None:
        item = Item(entry["path"], entry["size"], entry["sha256"])
        known = {
            "name": name, "size": item.size, "sha256": item.sha256, "volatile": entry["volatile"],
            "store": store, "item": item, "beside": beside,
        }  # fmt: skip
        for field, value in known.items():
            object.__setattr__(self, field, value)

    store: RemoteStore
    item: Item
    beside: Sequence[Item]

    @property
    def path(self) -> Path:
        self.store.fetch(self.beside)
        return self.store.root / self.item.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFile) and (self.name, self.item) == (other.name, other.item)

    def __hash__(self) -> int:
        return hash((self.name, self.item))

    def __repr__(self) -> str:
        return f"RemoteFile({self.name!r}, {self.store.objects.address(self.item.key)!r})"
