"""The outbox's copy in a remote store: two threads that send at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from pipeline.objects import Entry, Objects
from pipeline.outbox_mirror import OutboxMirror


class InMemory:
    """As much of Objects as sending takes."""

    def __init__(self) -> None:
        self.found: dict[str, bytes] = {}

    def write(self, key: str, data: bytes) -> None:
        self.found[key] = data

    def entries(self, prefix: str = "") -> list[Entry]:
        return [Entry(key, len(data), "") for key, data in self.found.items() if key.startswith(prefix)]

    def remove(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self.found.pop(key, None)


def test_sessions_that_the_sender_meets_do_not_stop_the_mirror(tmp_path: Path) -> None:
    objects: Any = InMemory()
    mirror = OutboxMirror(cast(Objects, objects), tmp_path)
    for number in range(200):
        (tmp_path / f"old-{number}.jsonl").write_text("{}\n")
        assert mirror.secure(f"old-{number}") == 3

    def send() -> None:
        for number in range(400):
            mirror.secure(f"new-{number}")  # folded into the ledger by another process meanwhile: its file is gone

    sender = threading.Thread(target=send)
    sender.start()
    while sender.is_alive():
        mirror._push()
    sender.join()
    assert [key for key in objects.found if "/old-" in key] == [f"outbox/old-{n}/{0:020d}.jsonl" for n in range(200)]
