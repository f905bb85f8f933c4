"""The driver: starts jobs on the cluster as their inputs are made, and tells its observers.

All it knows is in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from gpt1 import fault
from gpt1.errors import StoppedError, UserError
from gpt1.format import span
from pipeline.execution import shutdown as ends
from pipeline.execution.causes import describe_failure, root_cause
from pipeline.execution.cluster import ClusterLostError, RayCluster
from pipeline.execution.observer import Observer, Status
from pipeline.execution.repair import LIMIT, Repairs, missing_needs
from pipeline.execution.shutdown import QUIET, SAVING, GracefulShutdown, Interrupted
from pipeline.execution.worker import Job
from pipeline.planning.last_run import remember
from pipeline.planning.planner import Entry, Plan, other_inputs
from pipeline.store import cache
from pipeline.store.lease import RUNS, HeldError, Leases
from pipeline.store.record import DamagedArtifact
from pipeline.store.snapshot import StoreSnapshot
from stages.contract import Artifact

POLL = 0.2  # seconds between looks at the cluster


@dataclass
class Try:
    """One running try at a cell."""

    entry: Entry
    number: int
    started: float


@dataclass
class Outcome:
    """How a run ended: the jobs that ran, were up to date, failed (and why), and were skipped
    because one they need failed.
    """

    ran: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    invalid: bool = False
    held: bool = False

    @property
    def status(self) -> int:
        if self.held:
            return ends.HELD
        if not self.failed:
            return ends.DONE
        return ends.INVALID if self.invalid else ends.FAILED


class Executor:
    """One run of a plan."""

    def __init__(
        self, plan: Plan, run: str, cluster: RayCluster, observers: Sequence[Observer],
        shutdown: GracefulShutdown, repair_limit: float = LIMIT,
    ) -> None:
        self.plan = replace(plan, store=plan.store.for_run(run))
        self.cluster = cluster
        self._observers = observers
        self.outcome = Outcome()
        self._artifacts: dict[str, Artifact] = {}
        self._waiting: dict[str, Entry] = {}
        self._running: dict[Any, Try] = {}
        self._tries: dict[str, int] = {}
        self._leases = Leases(self.plan.store, run, self._note, shutdown.sleep)
        self._repairs = Repairs(self.plan, repair_limit)
        self._shutdown = shutdown
        self._end_by: float | None = None
        self._cut_off = False
        self._status: Status = "FAILED"

    def run(self) -> Outcome:
        """Make all that the plan says is to be made. HeldError when another run is at one of them,
        UserError when what is damaged takes longer to make again than `repair_limit`.

        Interrupted when `shutdown` was asked, after what trains has made a checkpoint; the second
        time at once. ClusterLostError when Ray died.
        """
        store = self.plan.store
        # In the end from the last to the first, each whatever becomes of the others.
        with ExitStack() as closing:
            closing.callback(cache.end_run, store.root, store.run)
            self._repairs.check_plan()
            closing.callback(self._leave_copies)
            closing.callback(self.cluster.close)
            closing.callback(self._leases.release)
            self._shutdown.hold()
            jobs = [entry.job for entry in self.plan.to_run]
            self._leases.take([f"{RUNS}/{store.run}", *jobs])
            fault.point("driver.begun")
            remember(self.plan)
            self._tell(Observer.run_started, self.plan, store.run)
            skipped = self.outcome.skipped
            closing.callback(lambda: self._tell(Observer.run_ended, self._status, skipped))
            try:
                self._work()
            except Interrupted:
                self._status = "KILLED"
                self._collect()
                self._cancel(self._running)
                raise
            except ClusterLostError as error:
                self._cancel(self._running, str(error))
                raise
        return self.outcome

    def _work(self) -> None:
        self._note(self.cluster.connect())
        cells = [entry.cell for entry in self.plan.to_run]
        self.cluster.check_capacity(cells, self._shutdown.sleep)
        entries = self.plan.entries.items()
        self._waiting = {cell: entry for cell, entry in entries if entry.run or entry.artifact}
        while self._running or (self._waiting and not self._shutdown.asked):
            self.cluster.check()
            self._start_ready()
            self._listen()
            self._collect()
            self._stop_overdue()
            self._stop_lost()
            self._end_if_asked()
        self._listen()
        if self._shutdown.asked and (self._waiting or self._cut_off):
            raise Interrupted
        self._status = "FAILED" if self.outcome.failed else "FINISHED"

    def _end_if_asked(self) -> None:
        """Tell those who ask, and cut off the others: what does not train, and trainings without
        a rank that would hear it.
        """
        if self._shutdown.forced:
            raise Interrupted
        if not self._shutdown.asked:
            return
        running = {one: attempt.entry.cell.id for one, attempt in self._running.items()}
        silent = self.cluster.ask_to_stop(running.values())
        alone = [one for one, cell in running.items() if silent[cell] >= QUIET]
        self._cancel(alone, "interrupted, with no training that could save a checkpoint")
        if not self._running:
            return
        if self._end_by is None:
            self._end_by = time.monotonic() + SAVING
            now = "to stop now, press Ctrl-C or send SIGTERM again"
            self._note(f"stopping after training saves a checkpoint; {now}")
        if time.monotonic() > self._end_by:
            self._note(f"training did not stop within {span(SAVING)}; canceling it")
            raise Interrupted

    def _tell(self, what: Callable[..., None], *values: Any) -> None:
        for observer in self._observers:
            getattr(observer, what.__name__)(*values)

    def _info(self, entry: Entry, text: str) -> None:
        self._tell(Observer.job_info, entry.cell.id, text)

    def _note(self, text: str) -> None:
        self._tell(Observer.job_info, self.plan.workflow.name, text)

    def _start_ready(self) -> None:
        lost = {*self.outcome.failed, *self.outcome.skipped}
        for entry in list(self._waiting.values()):
            if self._shutdown.asked:
                return
            needs = entry.cell.needs
            if not lost.isdisjoint(needs):
                lost.add(entry.cell.id)
                self.outcome.skipped.append(entry.cell.id)
                del self._waiting[entry.cell.id]
                self._tell(Observer.job_skipped, entry, "a job it needs failed")
            elif all(need in self._artifacts for need in needs):
                del self._waiting[entry.cell.id]
                self._take_or_start(entry)

    def _take_or_start(self, entry: Entry) -> None:
        """What was done when the plan was made stays, unless an input has been made again since,
        with other content.
        """
        if not entry.run and entry.artifact is not None and entry.last.record is not None:
            made = {need: self._artifacts[need] for need in entry.cell.needs}
            reason = other_inputs(entry.last.record, made)
            if reason is None:
                self._artifacts[entry.cell.id] = entry.artifact
                self.outcome.cached.append(entry.cell.id)
                self._tell(Observer.job_cached, entry)
                return
            entry.run, entry.reasons = True, [reason]
        self._start(entry)

    def _start(self, entry: Entry) -> None:
        cell, store = entry.cell, self.plan.store
        try:
            self._leases.take([entry.job])  # of one that became stale during the run
        except HeldError as error:
            self._give_up(entry, error)
            return
        except Interrupted:
            self._waiting[cell.id] = entry
            return
        if self._tries.get(cell.id, 0) == 0 and (entry.last.record or entry.last.problem):
            if entry.last.problem:
                self._info(entry, f"{entry.last.problem}; it is set aside")
            why, seen = "; ".join(entry.reasons), entry.last.number
            store.withdraw(cell.uses, entry.fingerprint, why, seen)
        number = self._tries[cell.id] = self._tries.get(cell.id, 0) + 1
        inputs = tuple(self._artifacts[need] for need in cell.needs)
        attempt = store.attempt_name()
        self._tell(Observer.job_started, entry, attempt)
        job = Job(
            store, cell.uses, cell.id, entry.fingerprint, entry.identity,
            cell.settings.model_dump(mode="json"), inputs, tuple(entry.external_files),
            cell.resources, store.run, attempt,
        )  # fmt: skip
        self._running[self.cluster.start(job, cell)] = Try(entry, number, time.monotonic())

    def _listen(self) -> None:
        for event in self.cluster.poll():
            entry = self.plan.entries[event.cell]
            if event.kind == "started":
                self._tell(Observer.job_running, entry)
                for attempt in self._running.values():
                    if attempt.entry is entry:
                        attempt.started = time.monotonic()
            elif event.kind == "info":
                self._info(entry, *event.payload)
            elif event.kind == "progress":
                self._tell(Observer.job_progress, entry, *event.payload)

    def _collect(self) -> None:
        if not self._running:
            return
        for reference in self.cluster.wait(list(self._running), POLL):
            attempt = self._running.pop(reference)
            try:
                self.cluster.result(reference)
            except Exception as error:
                self._fail(attempt, error)
            else:
                self._listen()
                self._finish(attempt)

    def _finish(self, attempt: Try) -> None:
        entry = attempt.entry
        last = self.plan.store.last_record(entry.cell.uses, entry.fingerprint)
        if last.record is None:
            what = last.problem or "its record is gone"
            self._fail(attempt, DamagedArtifact(f"{entry.cell.id}: {what}", (f"{entry.job}/",)))
            return
        before = entry.artifact
        entry.last, entry.artifact, entry.run = last, last.record.artifact(), False
        self._artifacts[entry.cell.id] = entry.artifact
        self.outcome.ran.append(entry.cell.id)
        self._tell(Observer.job_done, entry, last.record)
        if before is not None and before.digest != entry.artifact.digest:
            self._look_again(entry)
        fault.point("driver.between")

    def _look_again(self, entry: Entry) -> None:
        """An artifact was made again with other content: what was taken as it is may be stale."""
        for other in self.plan.entries.values():
            if entry.cell.id in other.cell.needs and other.cell.id in self._artifacts:
                self._mark_undone(other)
                self._tries[other.cell.id] = 0
                self._waiting[other.cell.id] = other

    def _mark_undone(self, entry: Entry) -> None:
        """It counts as not done."""
        self._artifacts.pop(entry.cell.id, None)
        for done in (self.outcome.cached, self.outcome.ran):
            if entry.cell.id in done:
                done.remove(entry.cell.id)

    def _fail(self, attempt: Try, error: Exception) -> None:
        cell = attempt.entry.cell
        cause = root_cause(error)
        if isinstance(cause, DamagedArtifact) and not self._shutdown.asked:
            try:
                self._repair(attempt.entry, cause)
                return
            except UserError as refusal:
                cause = refusal
            except HeldError as refusal:
                self._give_up(attempt.entry, refusal)
                return
            except Interrupted:
                pass  # the next run finds the damage
        text = describe_failure(cause, self.cluster.oom_kills())
        may_help = not isinstance(cause, UserError) and not self._shutdown.asked
        if may_help and attempt.number <= cell.retries:
            self._info(attempt.entry, f"attempt {attempt.number} failed ({text}); retrying")
            self._waiting[cell.id] = attempt.entry
            return
        self.outcome.failed[cell.id] = text
        self.outcome.invalid |= isinstance(cause, UserError)
        status: Status = "FAILED"
        if isinstance(cause, StoppedError):  # with what it has saved
            self._cut_off, status = True, "KILLED"
        self._tell(Observer.job_failed, attempt.entry, text, status)

    def _repair(self, reader: Entry, damage: DamagedArtifact) -> None:
        """Make again what is damaged, then the job that found it. UserError when that cannot be."""
        repair = self._repairs.decide(reader, damage, self._artifacts)
        self._leases.take([entry.job for entry in repair.entries])
        under_way = {attempt.entry.cell.id for attempt in self._running.values()}
        self._info(reader, f"damaged: {str(damage).partition(';')[0]}")
        again = []
        for entry in repair.entries:
            if entry.cell.id not in under_way and entry is not reader:
                if entry.cell.id not in self._waiting:
                    what = f"a damaged file is made again (about {span(repair.seconds)})"
                    self._info(entry, what)
                    again.append(entry)
                entry.run, entry.reasons = True, ["a file was damaged"]
                self._mark_undone(entry)
        for entry, last in repair.newer:
            entry.last = last
            entry.artifact = last.record.artifact() if last.record else None
            if entry.artifact is not None and entry.cell.id in self._artifacts:
                self._artifacts[entry.cell.id] = entry.artifact
        for record, seen in repair.records.items():
            stage, _, fingerprint = record.partition("/")
            self.plan.store.withdraw(stage, fingerprint, str(damage), seen)
        have = {*self._artifacts, *self._waiting, *under_way}
        for entry in [*again, reader]:
            for other in missing_needs(entry, self.plan, have):
                other.run = True
                self._waiting[other.cell.id] = other
            self._tries[entry.cell.id] = 0
            self._waiting[entry.cell.id] = entry

    def _stop_lost(self) -> None:
        lost = self._leases.lost
        for reference, attempt in list(self._running.items()):
            if attempt.entry.job in lost:
                who = lost[attempt.entry.job]
                self._cancel([reference], f"{who} has taken this job over", ours=False)

    def _leave_copies(self) -> None:
        """Read the records of a store that hosts do not share once more: what is new is then in
        this host's cache, and if it is much, in the store's copies for other hosts.
        """
        with suppress(UserError):
            if not self.plan.store.shared:
                snapshot = StoreSnapshot(self.plan.store)
                for stage in {entry.cell.uses for entry in self.plan.to_run}:
                    snapshot.prefetch(stage, snapshot.files(stage))

    def _give_up(self, entry: Entry, error: HeldError) -> None:
        self.outcome.failed[entry.cell.id], self.outcome.held = str(error), True
        self._tell(Observer.job_failed, entry, str(error), "FAILED")

    def _stop_overdue(self) -> None:
        for reference, attempt in list(self._running.items()):
            limit = attempt.entry.cell.timeout
            if limit is not None and time.monotonic() - attempt.started > limit:
                self.cluster.cancel(reference)
                del self._running[reference]
                self._fail(attempt, TimeoutError(f"exceeded its timeout of {span(limit)}"))

    def _cancel(
        self, references: Iterable[Any], why: str = "interrupted", ours: bool = True
    ) -> None:
        entries = []
        for reference in list(references):
            self.cluster.cancel(reference)
            entry = self._running.pop(reference).entry
            entries.append(entry)
            self._cut_off = True
            self.outcome.failed[entry.cell.id] = why
            self._tell(Observer.job_failed, entry, why, "KILLED")
        store = self.plan.store
        with suppress(UserError):  # a store out of reach keeps no cell alive
            for entry in entries if ours else ():
                # The cell cannot say itself that it was asked to end.
                attempts = store.attempts(entry.cell.uses, entry.fingerprint)
                if attempts and store.failure(attempts[-1]) is None:
                    store.fail(attempts[-1], why, stopped=True)
