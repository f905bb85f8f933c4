"""Words: small JSON notes in a store that one creates and all can read, such as a lease."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.store.atomic import create_once, parse_json, replace
from pipeline.store.objects import Objects

Data = dict[str, Any]
BEATS = "beats"


class Word(Protocol):
    """A note at one place of a store.

    Where it carries `beat`, that is a time of this machine's clock, in seconds.
    """

    @property
    def about(self) -> str:
        """What the note is about, for messages."""
        ...

    def create(self, data: Data) -> bool:
        """Leave the note if there is none; False if there is one."""
        ...

    def read(self) -> Data | None:
        """The note, or None."""
        ...

    @property
    def pulse(self) -> str:
        """Notes of one holder with the same pulse are kept alive by one `refresh`."""
        ...

    def refresh(self, data: Data) -> None:
        """Say that one's own note still counts."""
        ...

    def seize(self, data: Data) -> bool:
        """Put one's own in the place of the note that `read` gave last; False when somebody else
        was first.
        """
        ...

    def remove(self) -> None:
        """Take one's own note away."""
        ...


@dataclass
class FileWord:
    """A note in a file.

    Who seizes it holds a lock on the file that is there, and writes another one in its place.
    """

    path: Path
    _mark: tuple[int, int] | None = None

    @property
    def about(self) -> str:
        return self.path.parent.parent.name

    def create(self, data: Data) -> bool:
        return create_once(self.path, data)

    def read(self) -> Data | None:
        try:
            with self.path.open("rb") as file:
                status, data = os.fstat(file.fileno()), parse_json(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        self._mark = _mark(status)
        return {"beat": status.st_mtime, **(data if isinstance(data, dict) else {})}

    @property
    def pulse(self) -> str:
        return str(self.path)

    def refresh(self, data: Data) -> None:
        if (self.read() or {}).get("token") == data["token"]:
            self.seize(data)

    def seize(self, data: Data) -> bool:
        with (
            suppress(FileNotFoundError),
            self.path.open("r+b" if os.access(self.path, os.W_OK) else "rb") as file,
        ):
            with suppress(
                OSError
            ):  # a file system without locks: two who look at the same moment may both win
                fcntl.flock(file, fcntl.LOCK_EX)
            if _mark(self.path.stat()) == self._mark:
                replace(self.path, data)
                return True
        return False

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass
class ObjectWord:
    """A note in an object, created and seized by conditional requests.

    A holder of a thousand notes writes one object, `beats/<token>`, to keep them all alive. Ages
    are by the server's clock.
    """

    objects: Objects
    key: str
    _mark: str = ""

    @property
    def about(self) -> str:
        return self.key.split("/")[-3]

    def create(self, data: Data) -> bool:
        return self.objects.create(self.key, _bytes(data))

    def read(self) -> Data | None:
        found = self.objects.read(self.key)
        if found is None:
            return None
        self._mark = found.etag
        said = parse_json(found.data)
        data = said if isinstance(said, dict) else {}
        beat = self.objects.read(f"{BEATS}/{data.get('token')}")
        return {**data, "beat": time.time() - min(found.age, beat.age if beat else found.age)}

    @property
    def pulse(self) -> str:
        return self.objects.url

    def refresh(self, data: Data) -> None:
        self.objects.write(f"{BEATS}/{data['token']}", _bytes(data))

    def seize(self, data: Data) -> bool:
        return self.objects.swap(self.key, _bytes(data), self._mark)

    def remove(self) -> None:
        self.objects.remove([self.key])


def _mark(status: os.stat_result) -> tuple[int, int]:
    """What tells a file from the one that replaced it, which may get its number."""
    return status.st_ino, status.st_mtime_ns


def _bytes(data: Data) -> bytes:
    return json.dumps(data, ensure_ascii=False, sort_keys=True).encode()
