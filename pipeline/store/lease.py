"""Leases: which run is making an artifact, so that no other one does the same work.

    leases/<stage>/<fingerprint>/000017.json   the holder; the highest number counts
    leases/runs/<run>/, leases/exports/<server>/   the same: who lives, and who fills MLflow
    beats/<token>                              a number that the holder raises every HEARTBEAT
    beats/<token>-doubted                      written before a job is taken from it without a lock
    locks/drivers/<token>                      locked by the holder's process, on its host

A lease is taken by creating the next number if there is none, which one of many does:

    free        there is no number, or the last one says `released`
    held        its holder lives: on its own host the holder's lock decides at once; from elsewhere
                `beats/` must change within EXPIRY of the observer's clock; no other clock counts
    abandoned   its holder is dead, or the number cannot be read: the next one takes over

Several are taken together or not at all, one run at a time (GUARD), so of two runs that want the
same jobs one always has all of them. A holder that finds a higher number than its own has lost the
job: one that is doubted looks at every heartbeat. A lower number may come late, from a run that was
away, so a run counts as alone only when it has seen no higher one after its own, and takes all
again when it was not alone to the end. The highest number of a job is never deleted. Leases only
save doubled work; correctness rests on publishing.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from gpt1.errors import UserError
from gpt1.format import span
from pipeline.store.atomic import read_signed, sign, to_json
from pipeline.store.base import UNREADABLE, Store
from pipeline.store.cache import host_id, is_locked
from pipeline.store.objects import ListedObject

HEARTBEAT = 5.0  # seconds
EXPIRY = 60.0  # seconds without a heartbeat after which a holder on another host counts as dead
LOOK = 0.2  # seconds between two looks at a holder
LEASES, BEATS, DRIVERS = "leases", "beats", "locks/drivers"
DOUBTED = "-doubted"
RUNS = "runs"
"""The first step of the lease of a run of the workflow."""
LOOKS = 12  # heartbeats between two looks at whether a job was lost, without a doubt
GUARD = "all"
"""The lease of whoever is taking leases."""


class HeldError(Exception):
    """Another run holds what this one wants; the command ends with exit status 3."""


@dataclass(frozen=True)
class Holder:
    """What a lease says."""

    run: str
    host: str
    host_id: str
    pid: int
    token: str
    released: bool = False

    def to_bytes(self) -> bytes:
        return sign(to_json(asdict(self)))

    @staticmethod
    def from_bytes(data: bytes) -> Holder | None:
        """None when it cannot be read."""
        with suppress(TypeError):  # of another version
            found = read_signed(data)
            return None if found is None else Holder(**found)
        return None


@dataclass(frozen=True)
class Lease:
    """The last number of a job, and who has it; `holder` is None where it cannot be read."""

    number: int = 0
    holder: Holder | None = None


@dataclass(frozen=True)
class Watch:
    """What was seen of a heartbeat, since when, when it was looked at last, and whether it was seen
    to change.
    """

    beat: bytes | None
    since: float
    looked: float
    moved: bool = False


class Leases:
    """The leases of one run: taken together, kept alive by one thread, given back together.

    `info` gets a line when something is waited for, or set aside; `sleep` waits, and may raise.
    """

    def __init__(
        self, store: Store, run: str, info: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:  # fmt: skip
        self._store, self._objects, self._info = store, store.objects, info
        self._sleep = sleep or time.sleep
        token = secrets.token_hex(8)
        self._me = Holder(run, socket.gethostname(), host_id(), os.getpid(), token)
        self._held: dict[str, int] = {}
        self._lost: dict[str, str] = {}
        self._beats = 0
        self._lock: IO[bytes] | None = None
        self._watched: dict[str, Watch] = {}
        self._doubted: set[str] = set()

    def held(self) -> dict[str, Holder]:
        """The jobs that others hold, or may hold: of runs on other hosts that is not known."""
        jobs = [job for job in self._numbers(f"{LEASES}/") if job != GUARD]
        last = dict(zip(jobs, self._store.all(self._look, jobs), strict=True))
        alive = [job for job, lease in last.items() if self._is_alive(lease) is not False]
        return {job: holder for job in alive if (holder := last[job].holder)}

    def leftovers(self, alive: Iterable[Holder]) -> list[ListedObject]:
        """Heartbeats and locks of runs that have ended, and leases that were set aside."""
        tokens = {self._me.token, *(holder.token for holder in alive)}
        leases = self._objects.entries(f"{LEASES}/")
        found = [entry for entry in leases if entry.key.endswith(f"-{UNREADABLE}")]
        for entry in [*self._objects.entries(f"{BEATS}/"), *self._objects.entries(f"{DRIVERS}/")]:
            token = entry.key.rpartition("/")[2].removesuffix(DOUBTED)
            lock = self._store.root / DRIVERS / token
            if token not in tokens and is_locked(lock, fcntl.LOCK_SH) is not True:
                found.append(entry)
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No one else takes leases meanwhile."""
        if self._lock is None:  # first: who takes many from a slow store must not look dead
            self._begin()
        while self._take(GUARD) or self._has_lost_guard():
            self._sleep(LOOK)
        try:
            yield
        finally:
            self._give_back([GUARD])

    @property
    def lost(self) -> dict[str, str]:
        """Jobs that another run has taken over, and by whom."""
        return dict(self._lost)

    def is_held(self, job: str) -> bool | None:
        """Whether a job's holder lives, this run or another; None while that is not known."""
        last = self._look(job)
        return self._is_alive(last) if last.number else False

    def is_ours(self, job: str) -> bool:
        """Whether this run holds a job now, by the store."""
        return self._look(job).holder == self._me

    def take(self, jobs: Sequence[str]) -> None:
        """Take the leases of these jobs (STAGE/FINGERPRINT), those that are not held yet; or none
        of them, and raise HeldError.
        """
        new = [job for job in jobs if job not in self._held or job in self._lost]
        if not new:
            return
        self._watched.clear()  # who lived at an earlier call may be dead now
        with self.alone():
            known = self._numbers(f"{LEASES}/")
            found = self._store.all(lambda job: self._take(job, job not in known), new)
            refused = [(job, holder) for job, holder in zip(new, found, strict=True) if holder]
            was_alone = not self._has_lost_guard()
            if refused or not was_alone:
                self._give_back([job for job, holder in zip(new, found, strict=True) if not holder])
        if not was_alone:
            self.take(jobs)
        elif refused:
            if not self._held:
                self.release()
            job, holder = refused[0]
            who = f"run {holder.run} (process {holder.pid} on {holder.host}, which is alive)"
            advice = "wait for it to end, stop it, or use another --store"
            raise HeldError(f"{job.rpartition('/')[0]} is locked by {who}; {advice}")

    def release(self) -> None:
        """Give all leases back."""
        if self._lock is None:
            return
        self._stop.set()
        self._thread.join()
        given_back = self._give_back(list(self._held))
        with suppress(OSError, UserError):
            beat = f"{BEATS}/{self._me.token}"
            self._objects.remove([beat, beat + DOUBTED])
        self._lock.close()
        self._lock = None
        self._held.clear()
        if given_back:  # else who comes next on this host sees by it that we do not live
            _lock_file(self._store.root, self._me).unlink(missing_ok=True)

    def _begin(self) -> None:
        file = _lock_file(self._store.root, self._me)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = file.open("wb")
        with suppress(OSError):  # a file system without locks: from elsewhere, and here, beats tell
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
        self._thread.start()
        self._write_beat()

    def _take(self, job: str, is_new: bool = False) -> Holder | None:
        """Take one; returns the holder, when there is a living one. `is_new`: there was none."""
        said = False
        while True:
            last, is_new = Lease() if is_new else self._look(job), False
            if last.holder == self._me:  # the store was out of reach when it was to be given back
                self._held[job] = last.number
                return None
            alive = self._is_alive(last)
            if alive is None:  # not known yet
                if not said and last.holder:
                    who = f"run {last.holder.run} on {last.holder.host}"
                    wait = f"waiting up to {span(EXPIRY)} to see whether it is alive"
                    self._info(f"{job} is locked by {who}; {wait}")
                    said = True
                self._sleep(LOOK)
                continue
            if alive:
                return last.holder
            self._doubt(last)
            if self._objects.create(_key(job, last.number + 1), self._me.to_bytes()):
                self._held[job] = last.number + 1
                self._lost.pop(job, None)
                self._tidy(job, last)
                return None

    def _doubt(self, last: Lease) -> None:
        """A holder on another host may be alive after all: let it look whether it has the job."""
        token = last.holder.token if last.holder and not last.holder.released else ""
        if token in self._watched and token not in self._doubted:
            self._objects.write(f"{BEATS}/{token}{DOUBTED}", b"")
            self._doubted.add(token)

    def _tidy(self, job: str, last: Lease) -> None:
        """Delete the number that was taken over; one that cannot be read is set aside."""
        with suppress(OSError, UserError):
            key = _key(job, last.number)
            if last.number and last.holder is None:
                data = self._objects.read(key) or b""
                aside = key.replace(".json", f"-{UNREADABLE}")
                self._objects.write(aside, data)
                self._info(f"{key} cannot be read; it is set aside as {aside}")
            if last.number:
                self._objects.remove([key])

    def _look(self, job: str) -> Lease:
        """Who has a job, as it is now."""
        while True:
            number = max(self._numbers(f"{LEASES}/{job}/").values(), default=0)
            data = self._objects.read(_key(job, number)) if number else None
            if data is not None:
                return Lease(number, Holder.from_bytes(data))
            if not number:
                return Lease()  # else it was taken over between the two: look again

    def _numbers(self, prefix: str) -> dict[str, int]:
        """The last number of each job whose leases are below `prefix`."""
        found: dict[str, int] = {}
        for entry in self._objects.entries(prefix):
            job, _, name = entry.key.removeprefix(f"{LEASES}/").rpartition("/")
            if name.removesuffix(".json").isdecimal():
                found[job] = max(found.get(job, 0), int(name.removesuffix(".json")))
        return found

    def _is_alive(self, lease: Lease) -> bool | None:
        """Whether a lease is held; None while that is not known."""
        holder = lease.holder
        if holder is None or holder.released:
            return False
        if holder.host_id and holder.host_id == self._me.host_id:
            locked = is_locked(_lock_file(self._store.root, holder), fcntl.LOCK_SH)
            if locked is not None:
                return locked
        asked = time.monotonic()  # whoever looks may be delayed, too
        beat = self._objects.read(f"{BEATS}/{holder.token}")
        seen, now = self._watched.get(holder.token), time.monotonic()
        if seen is None or (beat != seen.beat and asked - seen.looked > EXPIRY):
            # The first look, or the first after a long time, in which it may have ended.
            self._watched[holder.token] = Watch(beat, now, now)
            return None
        if beat != seen.beat:
            self._watched[holder.token] = Watch(beat, now, now, moved=True)
            return True
        self._watched[holder.token] = replace(seen, looked=now)
        if asked - seen.since > EXPIRY:
            return False
        return True if seen.moved else None

    def _give_back(self, jobs: Iterable[str]) -> bool:
        """Whether it worked: a store may be full, or out of reach."""
        released = replace(self._me, released=True).to_bytes()

        def give(job: str) -> bool:
            key = _key(job, self._held[job])
            with suppress(OSError, UserError):
                if job in self._lost or job.startswith(f"{RUNS}/"):  # no one takes a run's again
                    self._objects.remove([key])
                else:
                    self._objects.write(key, released)
                del self._held[job]
            return job not in self._held

        return all(self._store.all(give, jobs))

    def _beat(self) -> None:
        doubted = f"{BEATS}/{self._me.token}{DOUBTED}"
        while not self._stop.wait(HEARTBEAT):
            with suppress(OSError, UserError):  # a store out of reach: the next beat may find it
                self._write_beat()
                if self._beats % LOOKS == 0 or self._objects.read(doubted) is not None:
                    self._find_lost()

    def _write_beat(self) -> None:
        self._beats += 1
        self._objects.write(f"{BEATS}/{self._me.token}", str(self._beats).encode())

    def _has_lost_guard(self) -> bool:
        self._find_lost(f"{LEASES}/{GUARD}/")
        return GUARD in self._lost

    def _find_lost(self, prefix: str = f"{LEASES}/") -> None:
        """Find the jobs that have a higher number than ours."""
        numbers = self._numbers(prefix)
        for job, number in list(self._held.items()):
            if numbers.get(job, number) > number:
                holder = self._look(job).holder
                if holder != self._me:  # taken again meanwhile
                    by = f"run {holder.run} on {holder.host}" if holder else "another run"
                    self._lost[job] = by


def _key(job: str, number: int) -> str:
    return f"{LEASES}/{job}/{number:06d}.json"


def _lock_file(root: Path, holder: Holder) -> Path:
    return root / DRIVERS / holder.token
