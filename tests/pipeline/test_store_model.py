"""Drivers that publish, withdraw and take leases in every order, and are delayed or killed at any
operation on the store's objects; and races of real processes.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pipeline.store import lease
from pipeline.store.base import Store
from pipeline.store.lease import EXPIRY, HEARTBEAT, HeldError, Leases
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.record import ArtifactRecord
from pipeline.store.s3 import S3Objects
from tests.pipeline.conftest import BUCKET, Patch, publish

FORK = multiprocessing.get_context("fork")
JOBS = [f"stage/{number:02}" for number in range(12)]
SETS = st.sampled_from([JOBS, JOBS[:1], JOBS[:3], JOBS[2:4]])
WORK = st.sampled_from(["take", "take", "take", "release", "publish", "withdraw", "load"])
HOSTS = ["one", "one", "two"]
NUMBERS = st.integers(0, len(HOSTS) - 1)
OPERATIONS = ("create", "write", "read", "entries", "remove", "upload")
LOOK = 4.0
CLOCK = SimpleNamespace(now=0.0, step=0)
"""Seconds of every monotonic clock, and how many operations there have been."""


# Drivers whose every step is the test's choice


class Task(threading.Thread):
    """A thread of a driver that runs when it is resumed, up to before or after an operation."""

    def __init__(self, target: Callable[[], object], driver: Driver | None = None, **_: Any):
        super().__init__(target=target, daemon=True)
        self.driver: Driver = driver or task().driver
        self.until, self.done, self.error = 0.0, False, cast("BaseException | None", None)
        self.turn, self.back = threading.Semaphore(0), threading.Semaphore(0)

    def start(self) -> None:
        self.driver.tasks.append(self)
        super().start()

    def run(self) -> None:
        try:
            self.turn.acquire()
            if not self.driver.killed:
                super().run()
        except SystemExit:  # killed: nothing that follows has an effect
            pass
        except BaseException as error:  # for the thread of the test
            self.error = error
        self.done = True
        self.back.release()

    def pause(self, seconds: float = 0.0) -> None:
        self.until = CLOCK.now + seconds
        self.back.release()
        self.turn.acquire()
        if self.driver.killed:
            raise SystemExit

    def join(self, timeout: float | None = None) -> None:  # noqa: ARG002
        while not self.done:
            task().pause(LOOK)

    def advance(self, most: int = 1000) -> None:
        """Up to the next sleep."""
        while most and not self.done and (self.until <= CLOCK.now or self.driver.killed):
            self.turn.release()
            self.back.acquire()
            most -= 1
        if self.error is not None:
            raise self.error


def task() -> Task:
    return cast(Task, threading.current_thread())


class Stop:
    """The event on which the thread of heartbeats waits, between two of them."""

    stopped = False

    def set(self) -> None:
        self.stopped = True

    def wait(self, seconds: float) -> bool:
        task().driver.heartbeat_ended()
        if not self.stopped:
            task().pause(seconds)
        task().driver.heartbeat_began = CLOCK.step
        return self.stopped


class Driver:
    """A process, what the test knows of it, and its store's objects."""

    def __init__(self, world: World, host: str) -> None:
        self.world, self.host, self.killed = world, host, False
        self.store = Store(cast(Objects, self))
        self.leases: Leases | None = None
        self.tasks: list[Task] = []
        self.main: Task | None = None
        self.believed, self.ousted, self.seen = set[str](), set[str](), set[str]()
        self.took: dict[str, int] = {}  # step by job
        self.beat_at, self.heartbeat_began, self.stalled = CLOCK.now, -1, -1

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.world.objects, name)

        def step(*given: Any) -> Any:
            task().pause()
            result = operation(*given)
            self.has_done(name, str(given[0]), result)
            task().pause()
            return result

        return step if name in OPERATIONS else operation

    def has_done(self, name: str, key: str, result: Any) -> None:
        CLOCK.step += 1
        job = key.removeprefix("leases/").rpartition("/")[0]
        if name == "write" and key.startswith("beats/"):
            self.beat_at = CLOCK.now
        elif name == "create" and result and key.startswith("leases/"):
            self.took[job] = CLOCK.step
            self.ousted.discard(job)
        elif name == "write" and key.startswith("leases/") and job not in self.believed:
            self.took.pop(job, None)  # given back, which whoever was refused does before it says so
        elif "/record" in key and name == "read" and result is not None:
            self.seen.add(key)
        elif "/record" in key and name in ("write", "create"):
            self.world.look_at_records(self, job)
        self.world.look_at_stalled()

    def holds(self) -> set[str]:
        lost = self.leases.lost if self.leases else {}
        return set() if self.killed else self.believed - set(lost)

    def heartbeat_ended(self) -> None:
        """Who lost a job before this heartbeat began knows it now."""
        for other in self.world.drivers:
            for job in self.holds() & other.holds() if other is not self else ():
                assert not self.took[job] < other.took[job] < self.heartbeat_began, "not told"

    def is_idle(self) -> bool:
        return self.main is None or self.main.done

    def kill(self) -> None:
        self.killed = True
        for one in self.tasks:
            one.advance()
        if self.leases is not None and self.leases._lock is not None:
            self.leases._lock.close()
        self.leases = None
        self.world.one_ends()

    def take(self, jobs: list[str]) -> None:
        self.leases = self.leases or Leases(self.store, "run")
        began, ended, had = CLOCK.step, self.world.ended, self.believed - self.ousted
        try:
            self.leases.take(jobs)
        except HeldError:
            assert not set(self.leases._held) & (set(jobs) - self.believed), "some of them"
            self.world.refused += [set(jobs)] if self.world.ended == ended else []
            self.took = {job: self.took[job] for job in self.took if job in self.believed}
        else:
            self.believed |= set(jobs)
            assert set(jobs) <= self.holds() or self.stalled >= began, "not taken"
            for job in set(jobs) - had:
                self.world.look_at_holders(self, job)

    def release(self, jobs: list[str]) -> None:  # noqa: ARG002
        self.believed, self.took = set(), {}
        if self.leases is not None:
            self.leases.release()
            self.leases = None
        self.world.one_ends()

    def publish(self, jobs: list[str]) -> None:
        value = f"{CLOCK.step} of {id(self)}"
        won = publish(self.store, value, jobs[0].partition("/")[2])
        there = [record.summary["value"] for record in self.world.records(jobs[0]).values()]
        assert there
        assert won == (value in there)

    def withdraw(self, jobs: list[str]) -> None:
        self.store.withdraw("stage", jobs[0].partition("/")[2], "why")

    def load(self, jobs: list[str]) -> None:
        record = self.store.record(*jobs[0].split("/"))
        for file in record.files.values() if record else ():
            assert self.world.objects.sha256(file.key) == file.sha256


class World(RuleBasedStateMachine):
    """Three drivers on two hosts, and their store."""

    def __init__(self, objects: Objects) -> None:
        super().__init__()
        CLOCK.now, CLOCK.step, self.objects = 0.0, 0, objects
        self.known: dict[str, dict[str, ArtifactRecord]] = {}
        self.refused: list[set[str]] = []  # since the last driver ended, or was silent for long
        self.ended = 0
        self.drivers: list[Driver] = []
        self.drivers += [Driver(self, host) for host in HOSTS]

    def records(self, job: str) -> dict[str, ArtifactRecord]:
        keys = [entry.key for entry in self.objects.entries(f"{job}/") if "/record" in entry.key]
        read = self.objects.read
        return {key: ArtifactRecord.from_bytes(read(key) or b"", *job.split("/")) for key in keys}

    def look_at_records(self, driver: Driver, job: str) -> None:
        found = self.records(job)
        for key, old in self.known.get(job, {}).items():
            assert found[key] == old.model_copy(update={"withdrawn": found[key].withdrawn})
            if found[key] != old:
                assert found[key].withdrawn
                assert key in driver.seen, "withdrawn by one who never saw it"
        assert sum(not record.withdrawn for record in found.values()) <= 1
        self.known[job] = found

    def one_ends(self) -> None:
        self.ended += 1
        self.refused.clear()

    def look_at_stalled(self) -> None:
        for driver in self.drivers:
            if driver.leases is not None and CLOCK.now - driver.beat_at > EXPIRY:
                driver.stalled = CLOCK.step
                self.one_ends()

    def look_at_holders(self, driver: Driver, job: str) -> None:
        """Whoever had a job that this one has now has been silent for long, on another host."""
        for other in self.drivers:
            if other is driver or other.killed or job not in other.took:
                continue
            old, new = sorted((driver, other), key=lambda one: one.took[job])
            if job in new.holds() and job not in old.ousted:
                assert old.host != new.host, "taken from a process that lives"
                assert old.stalled >= old.took[job], "taken from a holder that beats"
                old.ousted.add(job)

    def awake(self, asleep: set[int]) -> Iterator[Driver]:
        return (self.drivers[number] for number in range(len(HOSTS)) if number not in asleep)

    @rule(number=NUMBERS, work=WORK, jobs=SETS, host=st.sampled_from(HOSTS))
    def begin(self, number: int, work: str, jobs: list[str], host: str) -> None:
        if self.drivers[number].killed:
            self.drivers[number] = Driver(self, host)
        driver = self.drivers[number]
        if driver.is_idle():
            driver.main = Task(lambda: getattr(driver, work)(jobs), driver)
            driver.main.start()

    @rule(number=NUMBERS, beat=st.booleans(), most=st.integers(1, 30))
    def move(self, number: int, beat: bool, most: int) -> None:
        for one in self.drivers[number].tasks[:]:
            if (one is not self.drivers[number].main) == beat:
                one.advance(most)

    @rule(number=NUMBERS)
    def kill(self, number: int) -> None:
        self.drivers[number].kill()

    @rule(seconds=st.sampled_from([1.0, 6.0, 31.0, 61.0]), asleep=st.sets(NUMBERS))
    def wait(self, seconds: float, asleep: set[int]) -> None:
        """Nobody does anything but heartbeats; who is asleep not even those."""
        end = CLOCK.now + seconds
        while CLOCK.now < end:
            CLOCK.now = min(end, CLOCK.now + HEARTBEAT)
            self.look_at_stalled()
            for driver in self.awake(asleep):
                for one in driver.tasks[:]:
                    one.advance(0 if one is driver.main else 1000)

    @rule(asleep=st.sets(NUMBERS))
    def settle(self, asleep: set[int]) -> None:
        """All that are awake end what they do; who was refused was so for one that has it."""
        for _ in range(100):
            for one in [one for driver in self.awake(asleep) for one in driver.tasks]:
                one.advance()
            if all(driver.is_idle() for driver in self.awake(asleep)):
                break
            self.wait(LOOK, asleep)
        if not asleep:
            assert all(driver.is_idle() for driver in self.drivers), "stuck"
            held = set().union(*(driver.holds() for driver in self.drivers))
            assert all(jobs & held for jobs in self.refused), "no winner"

    def teardown(self) -> None:
        for driver in self.drivers:
            driver.kill()


@pytest.fixture
def patched(monkeypatch: Patch) -> None:
    """Time passes when the test says so; threads are its tasks."""
    clock = SimpleNamespace(monotonic=lambda: CLOCK.now, sleep=lambda wait: task().pause(wait))
    monkeypatch.setattr(lease, "time", clock)
    monkeypatch.setattr(lease, "LOOK", LOOK)
    monkeypatch.setattr(lease, "threading", SimpleNamespace(Thread=Task, Event=Stop))
    monkeypatch.setattr(lease, "host_id", lambda: task().driver.host)
    monkeypatch.setattr(Store, "all", staticmethod(lambda do, items: [do(item) for item in items]))
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("examples", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_order_in_a_folder(patched: None, examples: int) -> None:  # noqa: ARG001
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        explore(lambda name: LocalObjects(Path(folder).resolve() / name), examples)


@pytest.mark.parametrize("examples", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_every_order_in_a_bucket(s3_store: str, patched: None, examples: int) -> None:  # noqa: ARG001
    explore(lambda name: S3Objects(BUCKET, f"{Path(s3_store).name}/{name}"), examples)


def test_a_late_taker_is_not_alone(tmp_path: Path, patched: None) -> None:  # noqa: ARG001
    """It is delayed while others take and give back, and while one is taking: one has all jobs."""
    for first, second in itertools.product(range(3, 7), range(8, 32, 4)):
        world = World(LocalObjects(tmp_path / f"{first}-{second}"))
        late, other, early = range(3)
        world.begin(late, "take", JOBS, "")
        world.move(late, False, first)
        for work in ("take", "release"):
            world.begin(early, work, JOBS[:1], "")
            world.settle({late})
        world.begin(other, "take", JOBS, "")
        world.move(other, False, second)
        for number in [late, other] * 5:
            world.move(number, False, 30)
        world.settle(set())
        assert sorted(len(driver.holds()) for driver in world.drivers) == [0, 0, len(JOBS)]
        world.teardown()


def test_who_was_alive_at_an_earlier_look_may_be_dead(tmp_path: Path, patched: None) -> None:  # noqa: ARG001
    world = World(LocalObjects(tmp_path))
    for killed, number in ((1, 0), (1, 2), (0, 2)):  # number 2 is on another host
        world.kill(killed)
        world.begin(number, "take", JOBS, "")
        world.settle(set())
    assert [len(driver.holds()) for driver in world.drivers] == [0, 0, len(JOBS)]
    world.teardown()


def explore(make: Callable[[str], Objects], examples: int) -> None:
    rules = settings(
        max_examples=examples, stateful_step_count=50, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    world = cast(type[World], lambda: World(make(str(time.time_ns()))))
    run_state_machine_as_test(world, settings=rules)


# Real processes, locks and clocks


MANY = [pytest.param("tmp_path", 250, marks=pytest.mark.chaos)]
MANY += [pytest.param("s3_store", 20, marks=pytest.mark.chaos)]


@pytest.mark.parametrize(("store", "times"), [("tmp_path", 10), ("s3_store", 2), *MANY])
def test_races_have_one_winner(
    store: str, times: int, request: pytest.FixtureRequest, monkeypatch: Patch
) -> None:
    """Two takers of 12 jobs, fresh ones and those of a killed holder: one has all, one none."""
    monkeypatch.setattr(lease, "LOOK", 0.01)
    where = str(request.getfixturevalue(store))
    jobs = [[f"{job}-{number}" for job in JOBS] for number in range(2 * times)]
    gate, winners = FORK.Barrier(2, timeout=120), FORK.SimpleQueue()

    def hold_and_die() -> None:
        Leases(Store.at(where), "killed").take([job for some in jobs[times:] for job in some])
        os._exit(9)

    def take_all() -> None:
        for number, wanted in enumerate(jobs):
            leases = Leases(Store.at(where), "taker")
            gate.wait()
            with suppress(HeldError):
                leases.take(wanted)
                winners.put(number)
            gate.wait()
            leases.release()

    hold, *take = [FORK.Process(target=work) for work in (hold_and_die, take_all, take_all)]
    for processes in ([hold], take):
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    assert [process.exitcode for process in (hold, *take)] == [9, 0, 0]
    assert [winners.get() for _ in jobs if not winners.empty()] == list(range(len(jobs)))
    assert winners.empty()
