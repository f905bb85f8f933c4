"""The cache of a host: files of remote stores, each fetched once, checked by its sha256, shared by
all processes, bounded in size.

    GPT1_CACHE/<store>/<key of the object>   GPT1_CACHE: ~/.cache/gpt1 if it is not set

A file appears whole or not at all. When the files have more than GPT1_CACHE_GB together, those that
were used longest ago go; files used within GRACE seconds, and those of attempts under way (a folder
whose `.busy` file is locked), stay.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpt1.errors import UserError

BOUND = 50.0  # GB, where GPT1_CACHE_GB says nothing
GRACE = 600.0  # seconds; who was given a path must have time to open it
LOCKS = 256
BUSY = ".busy"
KEPT = ("locks", "outbox", "cache", "mlflow-artifacts")
"""Folders of a store that are no copies of what it holds; nor are the files beside them."""
_fetched_since_look: dict[Path, float] = {}
_busy: dict[Path, IO[bytes]] = {}


class GoneError(UserError):
    """A store no longer has a file as its record says; a server that does not answer is no such
    case.
    """


@dataclass(frozen=True)
class Item:
    """A file as its record has it."""

    key: str
    size: int
    sha256: str


def cache_root(store: str) -> Path:
    """The folder of this host for the files of a store.

    UserError when GPT1_CACHE cannot be written.
    """
    base = Path(os.environ.get("GPT1_CACHE") or Path.home() / ".cache" / "gpt1").absolute()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    root = base / hashlib.sha256(f"{endpoint} {store}".encode()).hexdigest()[:16]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{base}: cannot be used as the cache ({error.strerror}); set GPT1_CACHE to another"
            " folder"
        ) from None
    return root


def fetch(root: Path, item: Item, download: Callable[[str, Path], str | None]) -> Path:
    """The file of this host for an item, downloaded if need be.

    GoneError when it is gone, or is not what its record says.
    """
    target = root / item.key
    if there(root, item):
        return target
    with _locked(root, item.key):
        if there(root, item):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        private = target.with_name(f".fetch-{uuid.uuid4().hex}")
        try:
            found = download(item.key, private)
            if found != item.sha256:
                state = "is missing from the store"
                if found is not None:
                    state = f"has sha256 {found[:12]}"
                raise GoneError(
                    f"{item.key}: {state}, its record says {item.sha256[:12]}; rerun its stage with"
                    " `gpt1 run STAGE --force`"
                )
            private.replace(target)
        finally:
            private.unlink(missing_ok=True)
    _make_room(root, item.size)
    return target


def mark_busy(folder: Path) -> str:
    """Keep the files of an attempt from being evicted until `release`, or the end of this
    process; a token of this very folder.
    """
    file = (folder / BUSY).open("a+b")
    fcntl.flock(file, fcntl.LOCK_SH)
    _busy[folder] = file
    file.seek(0)
    token = file.read()
    if not token:
        token = uuid.uuid4().hex.encode()
        file.write(token)
        file.flush()
    return token.decode()


def release(folder: Path) -> None:
    """The attempt is over."""
    file = _busy.pop(folder, None)
    if file is not None:
        file.close()


def bound() -> float:
    """The bound in bytes. UserError when GPT1_CACHE_GB is no number."""
    text = os.environ.get("GPT1_CACHE_GB") or str(BOUND)
    try:
        return float(text) * 1e9
    except ValueError:
        raise UserError(f"GPT1_CACHE_GB={text}: expected a number of gigabytes") from None


def evict(root: Path, most: float, grace: float = GRACE) -> int:
    """Delete the files used longest ago, of all stores below `root`, until the rest has at most
    `most` bytes; how many went.
    """
    now, used = time.time(), 0
    files: list[tuple[float, int, Path]] = []
    busy: set[Path] = set()
    for name_of_folder, names, found in os.walk(root):
        folder = Path(name_of_folder)
        if root in (folder, folder.parent):
            names[:] = [name for name in names if name not in KEPT]
            continue
        if folder.parent in busy or (BUSY in found and _is_busy(folder / BUSY)):
            busy.add(folder)
        for name in found:
            path = folder / name
            with suppress(OSError):
                status = path.stat()
                used += status.st_size
                if now - status.st_mtime > grace and name != BUSY and folder not in busy:
                    files.append((status.st_mtime, status.st_size, path))
    gone = 0
    for _, size, path in sorted(files):
        if used - gone <= most:
            break
        path.unlink(missing_ok=True)
        gone += size
    return gone


def _make_room(root: Path, size: int) -> None:
    """Look at the whole cache now and then only: at first, and after each sixteenth of the
    bound.
    """
    base, most = root.parent, bound()
    since = _fetched_since_look.get(base, most) + size
    if since < most / 16:
        _fetched_since_look[base] = since
        return
    _fetched_since_look[base] = 0.0
    with suppress(BlockingIOError), _locked(base, "room", wait=False):
        evict(base, most)


def there(root: Path, item: Item) -> bool:
    """Whether this host has the file; it counts as used now."""
    target = root / item.key
    try:
        if target.stat().st_size != item.size:
            return False
        os.utime(target)
    except OSError:
        return False
    return True


def _is_busy(file: Path) -> bool:
    try:
        with file.open("rb") as found:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _locked(root: Path, key: str, wait: bool = True) -> Iterator[None]:
    folder = root / "locks"
    folder.mkdir(exist_ok=True)
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % LOCKS
    with (folder / f"{number:02x}").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
