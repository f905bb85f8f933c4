"""What a host keeps of a store: copies of a bucket's files, and which files have been checked.

    GPT1_CACHE/<store>/<key of the object>   GPT1_CACHE: ~/.cache/gpt1 if it is not set
    GPT1_CACHE/ngrams/<shards>/<index>       of the shards that `gpt1 trace --text` searched in
    ROOT/cache/checked/<run>-<host>/...      one file for each that was checked in a run on a host
    ROOT/locks/...                           held while a file is fetched or checked

A copy appears whole or not at all. When copies have more than GPT1_CACHE_GB together, those that
were used longest ago go; files used within GRACE seconds, and those of attempts under way (a folder
whose `.busy` file is locked), stay.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gpt1.errors import UserError
from pipeline.store.atomic import replace_file
from stages.contract import StoredFile

BOUND = 50.0  # GB, where GPT1_CACHE_GB says nothing
GRACE = 600.0  # seconds; who was given a path must have time to open it
LONGEST_RUN = 7 * 86_400.0  # seconds after which a run's notes of what it checked are deleted
LOCKS = 256
BUSY = ".busy"
CHECKED = "cache/checked"
KEPT = ("locks", "cache", "mlflow-artifacts")
"""Folders of a store that are no copies of what it holds; nor are the files beside them."""
_fetched_since_look: dict[Path, float] = {}
_busy: dict[Path, IO[bytes]] = {}
_checked: dict[tuple[Path, str], str] = {}


@functools.cache
def host_id() -> str:
    """What tells this host's processes from those of a host, or a container, of the same name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


# Files that have been checked


def begin_run(root: Path, run: str) -> None:
    """Make a run's place for notes, and delete those of old runs. OSError when none can be made."""
    replace_file(_place(root, run) / "begun", b"")
    for folder in (root / CHECKED).iterdir():
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > LONGEST_RUN:
                shutil.rmtree(folder)


def end_run(root: Path, run: str) -> None:
    """Delete a run's notes."""
    for folder in (root / CHECKED).glob(f"{run}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def is_checked(root: Path, run: str, file: StoredFile) -> bool:
    """Whether a file of this host has been found as its record says, in this run.

    A file that was written since then counts as not checked.
    """
    mark, place = _mark(root, file), (root / file.key, run)
    if mark is not None and run and _checked.get(place) != mark:
        with suppress(OSError):
            if _note(root, run, file).read_text() == mark:
                _checked[place] = mark
    return mark is not None and _checked.get(place) == mark


def remember_checked(root: Path, run: str, file: StoredFile) -> None:
    """A file of this host is as its record says."""
    mark = _mark(root, file)
    if mark is None:
        return
    _checked[root / file.key, run] = mark
    if run:
        with suppress(OSError):  # a store that is full, or read only: the next process checks
            note = _note(root, run, file)
            if not note.parent.is_dir():
                begin_run(root, run)
            note.write_text(mark)


def _mark(root: Path, file: StoredFile) -> str | None:
    """What changes when a file is written; None where its size is another one than recorded."""
    try:
        status = (root / file.key).stat()
    except OSError:
        return None
    found = f"{file.sha256} {status.st_ino} {status.st_mtime_ns} {status.st_size}"
    return found if status.st_size == file.size else None


def _note(root: Path, run: str, file: StoredFile) -> Path:
    return _place(root, run) / hashlib.sha256(file.key.encode()).hexdigest()[:32]


def _place(root: Path, run: str) -> Path:
    host = hashlib.sha256(host_id().encode()).hexdigest()[:12]
    return root / CHECKED / f"{run}-{host}"


# Copies of a bucket's files


def cache_root(store: str) -> Path:
    """The folder of this host for a bucket's store."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return _base() / hashlib.sha256(f"{endpoint} {store}".encode()).hexdigest()[:16]


def ngram_root() -> Path:
    """The folder of this host for indexes of n-grams, of all stores."""
    return _base() / "ngrams"


def make_root(root: Path) -> None:
    """Make one of these folders. UserError when GPT1_CACHE cannot be written."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be used as the cache ({error.strerror})"
        raise UserError(f"{_base()}: {problem}; set GPT1_CACHE to another folder") from None


def _base() -> Path:
    return Path(os.environ.get("GPT1_CACHE") or Path.home() / ".cache" / "gpt1").absolute()


@contextmanager
def fetching(root: Path, target: Path) -> Iterator[Path]:
    """A private path for a copy, which becomes `target` if it is there when the block ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    private, size = target.with_name(f".fetch-{uuid.uuid4().hex}"), 0
    try:
        yield private
        if private.exists():
            size = private.stat().st_size
            private.replace(target)
    finally:
        private.unlink(missing_ok=True)
    _make_room(root, size)


def touch(path: Path) -> None:
    """The copy counts as used now."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def pin(folder: Path) -> str:
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
        if folder.parent in busy or (BUSY in found and is_locked(folder / BUSY, fcntl.LOCK_EX)):
            busy.add(folder)
        for name in found:
            path = folder / name
            with suppress(OSError):
                status = path.stat()
                used += status.st_size
                if now - status.st_atime > grace and name != BUSY and folder not in busy:
                    files.append((status.st_atime, status.st_size, path))
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
    with suppress(BlockingIOError), locked(base, "room", wait=False):
        evict(base, most)


def is_locked(file: Path, probe: int) -> bool | None:
    """Whether a process of this host has locked a file; None where that is not to be seen.

    `probe`: fcntl.LOCK_SH asks for an exclusive lock, and those who ask do not hinder each other;
    fcntl.LOCK_EX asks for any.
    """
    try:
        with file.open("rb") as found:
            fcntl.flock(found, probe | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


@contextmanager
def locked(root: Path, key: str, wait: bool = True) -> Iterator[None]:
    """One process of this host at a time. Where there are no locks, or nothing can be written,
    several may do the same.
    """
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % LOCKS
    try:
        (root / "locks").mkdir(parents=True, exist_ok=True)
        file = (root / "locks" / f"{number:02x}").open("a")
    except OSError:
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
