"""The faults of torture.py, and the process that makes them: it has imported all that a command
needs, and forks for each one.

    python -m benchmarks.torture_faults FOLDER ADDRESS

FOLDER/golden is the undisturbed store. Reads numbers of cases, one a line, does what each says on a
copy of its own, and answers each with a line of JSON: the Evidence for torture_checker.py. A number
is the seed of all that its case draws, and its place in the list of kinds says which kind it is.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.torture_checker import (
    SIGNATURE,
    UID,
    Command,
    Evidence,
    alive_processes,
    digest,
    read_signed,
    records,
)

ROOT = Path(__file__).resolve().parents[1]
STAGE = "tests.pipeline.toy.curve"
DATA_BASE = "mlflow.db"
TRIES = 3
PATIENCE = 150.0  # seconds after which a command hangs
WORKFLOW = """name: torture
stages:
  words:
    uses: {stage}
    with: {{source: {source}, processes: {processes}}}
  curve:
    uses: {stage}
    needs: [words]
    with: {{steps: 40, processes: {processes}}}
    matrix: {{seed: [1, 2]}}
  total:
    uses: {stage}
    needs: [curve]
    with: {{processes: {processes}}}
"""
READERS = {"words": ("curve[seed=1]", "curve[seed=2]"), "curve": ("total",), "total": ()}
"""The jobs that read what a stage makes."""
SLOW = ("--set", "curve.pause=0.05", "--set", "words.pause=0.2")  # about five seconds in all
ENDED, FAILED, INVALID, HELD, INTERRUPTED = 0, 1, 2, 3, 130
COMMANDS_IMPORT = (
    "mlflow.store.tracking.sqlalchemy_store", "pipeline.cli.main", "pipeline.execution.executor",
    "pipeline.tracking.exporter",
)  # fmt: skip
Fault = Callable[["Trial"], None]
Damage = Callable[[Path, random.Random], None]


@dataclass
class Trial:
    """One case under way."""

    seed: int
    kind: str
    folder: Path
    address: str
    draw: random.Random
    store: Path = field(init=False)
    evidence: Evidence = field(init=False)
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    verify: bool = False
    """Whether `gpt1 verify` looks first: no job reads what is damaged."""
    skew: float = 0.0
    """Seconds by which the clock of the first run is wrong."""
    damaged: list[tuple[str, Path]] = field(default_factory=list)
    """What must be said of which folder."""

    def __post_init__(self) -> None:
        self.store = self.folder / "store"
        workflow = self.folder / "workflow.yaml"
        self.folder.mkdir(parents=True)
        paths = {"source": self.folder.parent / "numbers", "processes": self.folder / "processes"}
        workflow.write_text(WORKFLOW.format(stage=STAGE, **paths))
        data_base = self.store / DATA_BASE
        self.evidence = Evidence(
            self.seed, self.kind, "", str(self.folder), str(self.store), str(data_base)
        )

    def copy(self, source: Path | None = None) -> None:
        """Have the undisturbed store."""
        shutil.copytree(source or self.folder.parent / "golden", self.store, symlinks=True)

    def note(self, what: object) -> None:
        """Add to the description of the case."""
        self.evidence.detail += f"{'; ' if self.evidence.detail else ''}{what}"

    def must_say(self, words: str, of: Path | None = None) -> None:
        """A command must say this, as long as the folder is there that it is of."""
        self.evidence.must_say.append(words)
        self.damaged += [(words, of)] if of else []

    def use(self, store: Path) -> None:
        """From now on the store is here."""
        self.store = store
        self.evidence.store, self.evidence.data_base = str(store), str(store / DATA_BASE)

    def drop(self, *cells: str) -> None:
        """Take jobs away, with all that they left: they run again."""
        for name, record in records(self.store).items():
            if name.partition("/")[2] in cells:
                shutil.rmtree(self.store / record.place)
        for words, place in [one for one in self.damaged if not one[1].exists()]:
            self.damaged.remove((words, place))
            self.evidence.must_say.remove(words)
        self.note(f"without {', '.join(cells)}")

    def words(self, *more: str) -> list[str]:
        """The command of a run."""
        place = ["--file", f"{self.folder}/workflow.yaml", "--store", str(self.store)]
        return ["run", *place, "--address", self.address, *self.options, *more]

    def begin(
        self, *words: str, cold: bool = False, inside: Callable[[], None] | None = None
    ) -> Running:
        """Start a command. `cold`: as a program of its own, which imports all that it needs, and
        has its own Ray unless an address is given; `inside` is called in its process first.
        """
        log = self.folder / f"{len(self.evidence.commands)}-{time.monotonic_ns()}"
        return Running(self, list(words), log, cold, inside)

    def gpt1(self, *words: str, allowed: Sequence[int] = (ENDED,), **how: Any) -> Command:
        """Give a command, and wait."""
        return self.begin(*words, **how).wait(allowed)

    def run_until_done(self) -> None:
        """The same run, and what MLflow has not got, until both end well."""
        if self.verify:
            self.gpt1("verify", "--store", str(self.store), allowed=(FAILED,))
        for number in range(1, TRIES + 1):
            inside = partial(set_clock, self.skew) if number == 1 else None
            allowed = (ENDED, FAILED, INVALID)
            ended = self.gpt1(*self.words(), allowed=allowed, inside=inside)
            if ended.status == 0 and self.sync().status == 0:
                self.evidence.tries = number
                break
        after = self.gpt1("status", *self.words()[1:5])
        if self.evidence.tries and "everything is up to date" not in after.out:
            self.evidence.tries = 0

    def sync(self, allowed: Sequence[int] = (ENDED, FAILED)) -> Command:
        """Send MLflow what it has not got."""
        return self.gpt1("track", "sync", "--store", str(self.store), allowed=allowed)

    def jobs(self) -> list[int]:
        """The PIDs of this case's processes that run jobs and parts now."""
        pids = [int(line.split()[0]) for line in alive_processes(self.folder)]
        return [pid for pid in pids if (self.folder / "processes" / str(pid)).exists()]

    def wait_until(self, what: Callable[[], object], run: Running) -> None:
        """Wait for something during a run, as long as that lasts."""
        while not what() and run.is_alive():
            time.sleep(0.005)

    def steps(self) -> int:
        """How many steps of curves the jobs' unfinished attempts have saved together."""
        saved = self.store.glob(f"{STAGE}/*/*/saved.json")
        return sum(len(json.loads(path.read_bytes().partition(b"\n")[2])) for path in saved)


class Running:
    """A command that was started."""

    def __init__(
        self, trial: Trial, words: list[str], log: Path, cold: bool,
        inside: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self.trial, self.words, self.began = trial, words, time.monotonic()
        self.log = log
        self.status: int | None = None
        if cold:
            prefix = shlex.split(self.words.pop(0)) if words[0].startswith("unshare") else []
            variables = {"TORTURE_CASE": str(trial.folder), **trial.environment}
            names = (log.with_suffix(".out"), log.with_suffix(".err"))
            with names[0].open("wb") as out, names[1].open("wb") as err:
                self.pid = subprocess.Popen(
                    [*prefix, sys.executable, "-m", "pipeline.cli", *self.words], cwd=ROOT,
                    stdout=out, stderr=err, env={**os.environ, **variables}, start_new_session=True,
                ).pid  # fmt: skip
        else:
            self.pid = os.fork()
            if self.pid == 0:
                self._be_command(inside)

    def _be_command(self, inside: Callable[[], None] | None) -> None:
        """In the forked process: run the command, and never return."""
        status: Any = 1
        try:
            os.setsid()
            os.environ.update(self.trial.environment)
            for number, suffix in ((1, ".out"), (2, ".err")):
                flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
                os.dup2(os.open(self.log.with_suffix(suffix), flags), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if inside:
                inside()
            sys.argv = ["gpt1", *self.words]
            from pipeline.cli.main import main

            main()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        except KeyboardInterrupt:
            status = INTERRUPTED
        except BaseException:
            traceback.print_exc()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def kill(self, one: signal.Signals, group: bool = False) -> None:
        """Send it a signal."""
        if self.is_alive():
            (os.killpg if group else os.kill)(self.pid, one)

    def wait(self, allowed: Sequence[int] = (ENDED,), patience: float = PATIENCE) -> Command:
        """Wait for its end, and keep what it printed."""
        deadline = time.monotonic() + patience
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        status = self.status
        if status is None:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        out, err = (
            self.log.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err")
        )
        seconds = round(time.monotonic() - self.began, 2)
        command = Command(self.words, status, out, err, seconds, [*allowed])
        self.trial.evidence.commands.append(command)
        return command


def set_clock(seconds: float) -> None:
    """Let this process's clock be wrong; the monotonic one is right."""
    if seconds:
        right, right_ns = time.time, time.time_ns
        time.time = lambda: right() + seconds
        time.time_ns = lambda: right_ns() + int(seconds * 1e9)


# Damage to a file; nothing that a listing shows tells of a flipped bit


def flip(path: Path, draw: random.Random) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    _overwrite(path, bytes(data))


def halve(path: Path, _: random.Random) -> None:
    _overwrite(path, path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, _: random.Random) -> None:
    _overwrite(path, b"")


def delete(path: Path, _: random.Random) -> None:
    path.unlink()


def garbage(path: Path, draw: random.Random) -> None:
    """Other bytes, as many."""
    choices = (draw.randbytes(path.stat().st_size), b"{", b"[1]\n", b"null\n", b'{"u": null}\n')
    _overwrite(path, draw.choice(choices))


def _overwrite(path: Path, data: bytes) -> None:
    """With the times of before."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGES: Sequence[Damage] = (flip, flip, halve, empty, delete)


def damage(trial: Trial, path: Path, damages: Sequence[Damage]) -> Damage:
    """Damage a file in one of these ways; which way."""
    harm = trial.draw.choice([d for d in damages if d in (delete, garbage) or path.stat().st_size])
    trial.note(f"{harm.__name__} {path.relative_to(trial.folder)}")
    harm(path, trial.draw)
    return harm


# Faults of a finished store


def file(trial: Trial) -> None:
    """A file of an artifact: the jobs that read it run again, or `gpt1 verify` looks."""
    found = records(trial.store)
    chosen = found[trial.draw.choice(sorted(found))]
    record = chosen.content
    name = trial.draw.choice(sorted(record["files"]))
    about = record["files"][name]
    cell = "words" if record["stage"].endswith(".parts") else record["cell"].partition("[")[0]
    damage(trial, trial.store / about["key"], DAMAGES)
    if READERS[cell] and not about["volatile"]:
        trial.drop(*READERS[cell])
    else:
        trial.verify = True
    trial.must_say(name.replace(".", r"\."), trial.store / chosen.place)


def record(trial: Trial) -> None:
    """The record of a job or a part; one that is gone is no damage that anyone could notice."""
    found = records(trial.store)
    chosen = found[trial.draw.choice(sorted(found))]
    name = "record.json" if chosen.number == 1 else f"record-{chosen.number}.json"
    path = trial.store / chosen.place / name
    if trial.draw.random() < 0.15:
        other = found[trial.draw.choice(sorted(found.keys() - {chosen.name}))]
        trial.note(f"{chosen.name} has the record of {other.name}")
        _overwrite(path, (trial.store / other.place / "record.json").read_bytes())
    elif damage(trial, path, (*DAMAGES, garbage)) is delete:
        trial.drop(*(["words"] if ".parts" in chosen.place else []))
        return
    if ".parts" in chosen.place:
        trial.drop("words")
    trial.must_say(r"record\.json cannot be read", path.parent)


def lease(trial: Trial) -> None:
    """Who has a job that is to be made."""
    [total] = [r for name, r in records(trial.store).items() if name.endswith("/total")]
    job = trial.draw.choice([f"leases/{total.place}", "leases/all"])
    trial.drop("total")
    last = max((trial.store / job).glob("*.json"))
    how = trial.draw.choice(["damage", "damage", "higher", "dead", "beats", "locks"])
    holder = read_signed(last.read_bytes())
    assert holder is not None
    if how == "damage":
        if damage(trial, last, (*DAMAGES, garbage)) is not delete:
            trial.must_say("cannot be read")
    elif how == "higher":
        trial.note("a higher number, unreadable")
        last.with_name(f"{int(last.stem) + trial.draw.randrange(1, 900):06d}.json").write_text("{")
        trial.must_say("cannot be read")
    elif how == "dead":
        trial.note(f"{job} of a driver that was killed")
        last.write_bytes(sign({**holder, "released": False}))
        lock = trial.store / "locks" / "drivers" / holder["token"]
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        (trial.store / "beats").mkdir(exist_ok=True)
        (trial.store / "beats" / holder["token"]).write_text("3")
    else:
        folder = trial.store / ("beats" if how == "beats" else "locks/drivers")
        trial.note(f"garbage in {how}")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (holder["token"], f"{holder['token']}-doubted", "x y"):
            (folder / name).write_bytes(trial.draw.randbytes(20))


def sign(content: Mapping[str, Any]) -> bytes:
    """JSON with its own sha256, as the store's files have it."""
    text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True)
    body = text.encode().removesuffix(b"}").rstrip()
    return body + SIGNATURE + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def cache(trial: Trial) -> None:
    """What costs only time: sha256 of outside files, the last run's options, notes of checks."""
    trial.drop("total")
    path = trial.draw.choice([
        trial.store / "cache" / "file-hashes.json", trial.store / "last_run.json",
        trial.store / "damaged.json", trial.store / "cache" / "checked" / "x",
    ])  # fmt: skip
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    if damage(trial, path, (*DAMAGES, garbage)) is not delete and path.stem == "file-hashes":
        trial.must_say("is damaged; it is set aside")


WRONG_LINES = (
    b"[1]", b'{"u": null}', b"\xff\xfe", b"", b"null", b'{"time": "x"}', b'{"time": 1.0}',
    b'{"time": 1.0, "event": "job"}', b'{"time": 1.0, "step": "x", "values": {"height": null}}',
)  # fmt: skip


def events(trial: Trial, losing: bool = True) -> None:
    """Lines of the points and of the runs; `losing`: some are gone, and MLflow has them."""
    found = [*trial.store.glob("*/*/*/events/*.jsonl"), *trial.store.glob("runs/*/events/*.jsonl")]
    path = trial.draw.choice(sorted(one for one in found if one.stat().st_size))
    lines = path.read_bytes().splitlines(keepends=True)
    at, wrong = trial.draw.randrange(len(lines)), trial.draw.choice(WRONG_LINES)
    line = lines[at]
    torn = line[: trial.draw.randrange(1, len(line) - 1)]
    ways: dict[str, Sequence[bytes]] = {
        f"{wrong!r} before line {at}": [*lines[:at], wrong + b"\n", *lines[at:]],
        f"line {at} twice": [*lines[:at], line, *lines[at:]],
        "torn line at the end": [*lines, torn],
        f"torn line before line {at}": [*lines[:at], torn + b"\n", *lines[at:]],
    }
    if losing:
        ways |= {
            f"line {at} torn": [*lines[:at], torn, *lines[at + 1 :]],
            f"without line {at}": [*lines[:at], *lines[at + 1 :]],
            "empty": [],
            "deleted": [],
        }
    how = trial.draw.choice(list(ways))
    trial.note(f"{path.relative_to(trial.store)}: {how}")
    _overwrite(path, b"".join(ways[how]))
    if how == "deleted":
        path.unlink()
    if not losing and ("torn" in how or "before" in how) and (wrong or "torn" in how):
        trial.must_say(r"damaged line")


def complete_events(trial: Trial) -> None:
    """More lines than there should be, and MLflow has none."""
    events(trial, losing=False)
    (trial.store / DATA_BASE).unlink()
    trial.note("mlflow.db deleted")


def mlflow(trial: Trial) -> None:
    """The data base, or what is in it."""
    path, draw = trial.store / DATA_BASE, trial.draw
    how = draw.choice([
        "deleted", "emptied", "half", "header", "pages", "journal", "files deleted", "runs deleted",
        "experiment deleted", "tags deleted", "an older one",
    ])  # fmt: skip
    trial.note(f"{DATA_BASE}: {how}")
    size = path.stat().st_size
    if how == "deleted":
        path.unlink()
    elif how == "emptied":
        empty(path, draw)
    elif how == "half":
        halve(path, draw)
    elif how == "header":
        _overwrite(path, draw.randbytes(100) + path.read_bytes()[100:])
    elif how == "pages":
        data, page = bytearray(path.read_bytes()), 4096
        for _ in range(draw.randrange(1, 20)):
            at = page * draw.randrange(1, size // page)
            data[at : at + page] = bytes(page)
        _overwrite(path, bytes(data))
    elif how == "journal":
        for suffix in ("-journal", "-wal", "-shm"):
            path.with_name(DATA_BASE + suffix).write_bytes(draw.randbytes(500))
    elif how == "files deleted":
        shutil.rmtree(trial.store / "mlflow-artifacts")
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            change_rows(connection, how, draw)
    if how in ("half", "header"):
        trial.must_say("the MLflow data base is damaged")


def change_rows(connection: sqlite3.Connection, how: str, draw: random.Random) -> None:
    """What a person does on MLflow's pages, or a backup brings back."""
    rows = connection.execute("SELECT run_uuid FROM tags WHERE key = ? ORDER BY value", (UID,))
    ids = [row[0] for row in rows]
    some = draw.sample(ids, draw.randrange(1, len(ids)))
    if how == "experiment deleted":
        connection.execute("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'gpt1'")
        some = ids
    for one in some:
        if how in ("runs deleted", "experiment deleted"):
            change = "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?"
            connection.execute(change, (one,))
        elif how == "an older one":
            step = draw.randrange(1, 40)
            connection.execute("DELETE FROM metrics WHERE run_uuid = ? AND step >= ?", (one, step))
    if how in ("tags deleted", "an older one"):
        connection.execute("DELETE FROM tags WHERE key = 'gpt1.exported'")


def place(trial: Trial) -> None:
    """The store is elsewhere, or cannot be written."""
    how = trial.draw.choice(["moved", "copied", "linked", "read only", "a name with spaces"])
    trial.note(how)
    before = trial.store
    if how == "read only":
        for words in (["status", *trial.words()[1:5]], trial.words()):
            mount = f"mount --bind {before} {before} && mount -o remount,bind,ro {before}"
            prefix = f"unshare -m sh -c '{mount} && exec \"$@\"' -"
            trial.begin(prefix, *words, cold=True).wait()
        trial.drop("total")
        return
    after = trial.folder / ("another" if how != "a name with spaces" else "a store é %20")
    if how == "copied":
        shutil.copytree(before, after, symlinks=True)
        trial.evidence.unchanged[str(before)] = digest(before)
    else:
        before.rename(after)
        trial.evidence.absent += [str(before)] if how == "moved" else []
    if how == "linked":
        before.symlink_to(after)
    else:
        trial.use(after)
    trial.drop("total")


def clock(trial: Trial) -> None:
    """The clock of a run, or the times of all files, are wrong."""
    day = 86_400.0
    if trial.draw.random() < 0.5:
        trial.skew = trial.draw.choice([-400 * day, -day, -61.0, 61.0, 3600.0, 400 * day])
        trial.note(f"the clock is {trial.skew:g} s off")
    else:
        when = trial.draw.choice([0.0, 4e9])
        trial.note(f"all files were written at {when:g}")
        for path in trial.store.rglob("*"):
            os.utime(path, (when, when), follow_symlinks=False)
    trial.drop(trial.draw.choice(["total", "curve[seed=1]"]))


def leftover(trial: Trial) -> None:
    """What a killed process, or a person, left in the store."""
    draw, jobs = trial.draw, sorted(trial.store.glob(f"{STAGE}/*"))
    folder = draw.choice(jobs)
    attempt = folder / f"20200101-000000.000000-{draw.randbytes(3).hex()}"
    cell = draw.choice(["total", "curve[seed=1]", "curve[seed=2]"])
    record = records(trial.store)[f"{STAGE}/{cell}"]
    own = trial.store / record.place
    how = draw.choice(["private", "attempt", "saved", "saved", "foreign", "failure"])
    trial.note(f"left over: {how}")
    if how == "private":
        for place in (folder, trial.store, trial.store / "leases", trial.store / "cache"):
            (place / f".private-{draw.randbytes(16).hex()}").write_bytes(draw.randbytes(50))
    elif how == "attempt":
        attempt.mkdir()
        for name in ("begun.json", "parts.json", "value.txt"):
            (attempt / name).write_bytes(draw.randbytes(30))
    elif how == "foreign":
        (trial.store / "notes.txt").write_text("mine")
        (trial.store / "a folder" / "b" / "c").mkdir(parents=True)
        (folder / "record-7.txt").write_text("{}")
    else:
        (own / "record.json").unlink()  # the job continues from what its attempt has saved
        [saved] = own.glob("*/saved.json")
        if how == "saved":
            damage(trial, saved, DAMAGES)
        else:
            (saved.parent / "failure.json").write_bytes(draw.choice([b"{", b"[]", b'{"error": 3}']))
        return
    trial.drop(cell)


def combined(trial: Trial) -> None:
    """Two or three of these at once."""
    kinds = trial.draw.sample([file, record, lease, cache, trial.draw.choice([events, mlflow])], 3)
    for kind in kinds[: trial.draw.randrange(2, 4)]:
        with suppress(KeyError, ValueError):  # of a job whose record is damaged already
            kind(trial)


# Faults of a run


def begin_afresh(trial: Trial) -> Running:
    """A run that has all to do, and takes some seconds."""
    trial.options += SLOW
    return trial.begin(*trial.words())


def kill_driver(trial: Trial) -> None:
    run, moment = begin_afresh(trial), trial.draw.uniform(0.2, 6.0)
    _sleep(run, moment)
    run.kill(signal.SIGKILL)
    trial.note(f"driver killed after {moment:.1f} s")
    run.wait((-signal.SIGKILL, ENDED))


def kill_in_curve(trial: Trial) -> None:
    """At a step of the curves: the next attempt says some points again."""
    run, steps = begin_afresh(trial), trial.draw.randrange(10, 70)
    trial.wait_until(lambda: trial.steps() >= steps, run)
    _sleep(run, trial.draw.uniform(0.1, 0.2))  # some steps after the last that was saved
    run.kill(signal.SIGKILL)
    trial.note(f"driver killed at {steps} steps")
    run.wait((-signal.SIGKILL, ENDED))


def kill_worker(trial: Trial) -> None:
    run = begin_afresh(trial)
    trial.wait_until(trial.jobs, run)
    _sleep(run, trial.draw.uniform(0, 3.0))
    for pid in trial.draw.sample(alive := trial.jobs(), min(1, len(alive))):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    trial.note("a job's process killed")
    run.wait((ENDED, FAILED))


def kill_actor(trial: Trial) -> None:
    """The process through which jobs talk to the driver."""
    run = begin_afresh(trial)
    trial.wait_until(trial.jobs, run)
    _sleep(run, trial.draw.uniform(0, 2.0))
    for pid, words in processes().items():
        if words.startswith(("ray::EventChannel", "ray::Hub")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    trial.note("the event actor killed")
    run.wait((ENDED,))


def sigterm(trial: Trial) -> None:
    """At any moment while there is much left to do."""
    run, early = begin_afresh(trial), trial.draw.random() < 0.5
    moment, steps = trial.draw.uniform(0.0, 2.0), trial.draw.randrange(5, 60)
    if early:
        _sleep(run, moment)
    else:
        trial.wait_until(lambda: trial.steps() >= steps, run)
    run.kill(signal.SIGTERM)
    trial.note(f"SIGTERM after {moment:.1f} s" if early else f"SIGTERM after {steps} steps")
    before = (128 + signal.SIGTERM, -signal.SIGTERM)  # it holds nothing yet
    run.wait((INTERRUPTED, *(before if early else ())))


def sigterm_group(trial: Trial) -> None:
    """To all processes of a driver and of its own Ray, as a service manager does."""
    trial.options += SLOW
    words = [word for word in trial.words() if word not in ("--address", trial.address)]
    run = trial.begin(*words, cold=True)
    trial.wait_until(lambda: trial.steps() >= 10, run)
    run.kill(signal.SIGTERM, group=True)
    trial.note("SIGTERM to the group")
    run.wait((INTERRUPTED,))


def two_drivers(trial: Trial) -> None:
    """At the same second: one works, the other names it."""
    one = begin_afresh(trial)
    _sleep(one, trial.draw.choice([0.0, 0.0, 0.1, 1.0]))
    other = trial.begin(*trial.words())
    ended = [one.wait((ENDED, HELD)), other.wait((ENDED, HELD))]
    trial.note("two drivers")
    if sorted(str(command.status) for command in ended) != ["0", "3"]:
        for command in ended:
            command.allowed = [ENDED if command is ended[0] else HELD]
    trial.must_say("is locked by run")


def frozen(trial: Trial) -> None:
    """A driver with its jobs, near their end; another run takes over as if the host were gone, and
    then all of them continue, the jobs first.
    """
    run = begin_afresh(trial)
    trial.wait_until(lambda: trial.steps() >= trial.draw.choice([40, 60, 75]), run)
    jobs = trial.jobs()
    stopped = [run.pid, *jobs]
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    trial.note("frozen, taken over")
    other = trial.begin(*trial.words(), inside=_see_no_locks)
    other.wait((ENDED,))
    for path in trial.store.glob("*/*/record*.json"):
        trial.evidence.unchanged[str(path)] = digest(path)
    for pid in reversed(stopped):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)
    run.wait((ENDED, FAILED, HELD))



def _see_no_locks() -> None:
    """In the process of a run: take the holders of leases for dead."""
    import pipeline.store.lease as module

    module.is_locked = lambda *_: False


def taken_over(trial: Trial) -> None:
    """The same by a run on what looks like another host, after the minute that takes."""
    run = begin_afresh(trial)
    trial.wait_until(lambda: trial.steps() >= 20, run)
    stopped = [run.pid, *trial.jobs()]
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    trial.note("frozen, taken over by another host")
    words = [word for word in trial.words() if word not in ("--address", trial.address)]
    prefix = "unshare --pid --uts --fork --kill-child --mount-proc"
    trial.begin(prefix, *words, cold=True).wait((ENDED,))
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    run.wait((ENDED, FAILED, HELD))


def full_disk(trial: Trial) -> None:
    """A file system of its own, with room for a part of the results."""
    trial.store.mkdir()
    room = trial.draw.randrange(8, 1_200)  # kB
    mount = ["mount", "-t", "tmpfs", "-o", f"size={4096 + room}k", "torture", str(trial.store)]
    subprocess.run(mount, check=True)
    ballast = trial.store / "ballast"
    ballast.write_bytes(bytes(4096 << 10))
    trial.note(f"{room} kB of room")
    kept = trial.folder / "kept"
    try:
        trial.gpt1(*trial.words(), allowed=(ENDED, FAILED, INVALID))
        ballast.unlink()
        trial.run_until_done()
        shutil.copytree(trial.store, kept, symlinks=True)
    finally:
        subprocess.run(["umount", str(trial.store)], check=True)
    trial.use(kept)


def server_away(trial: Trial) -> None:
    """MLflow's server: there after the run only, then a new one that knows nothing."""
    from tests.servers.mlflow import mlflow_server
    from tests.servers.process import free_port

    port = free_port()
    trial.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    trial.gpt1(*trial.words())
    trial.must_say("MLflow")
    for number in (1, 2):
        data_base = trial.folder / f"server{number}.db"
        files, log = str(trial.folder / f"files{number}"), trial.folder / f"server{number}.log"
        with mlflow_server(log, f"sqlite:///{data_base}", files, {}, port):
            trial.sync()
        trial.evidence.data_base = str(data_base)
    trial.note("server away, then a new one")
    with mlflow_server(log, f"sqlite:///{data_base}", files, {}, port):
        trial.run_until_done()


def locked(trial: Trial) -> None:
    """MLflow's data base is locked by another program for a while."""
    trial.copy()
    trial.drop("total", "curve[seed=1]")
    seconds = trial.draw.uniform(3.0, 30.0)
    code = (
        "import sqlite3, sys, time\n"
        "base = sqlite3.connect(sys.argv[1]); base.execute('BEGIN EXCLUSIVE'); print(flush=True)\n"
        "time.sleep(float(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, str(trial.store / DATA_BASE), str(seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        begin_afresh(trial).wait((ENDED,))
        other.kill()
    trial.note(f"data base locked for {seconds:.0f} s")


def cold(trial: Trial) -> None:
    """A driver and its Ray, killed; then the same program again."""
    trial.options += SLOW
    words = [word for word in trial.words() if word not in ("--address", trial.address)]
    run = trial.begin(*words, cold=True)
    trial.wait_until(lambda: trial.steps() >= trial.draw.randrange(5, 60), run)
    run.kill(signal.SIGKILL)
    run.wait((-signal.SIGKILL,))
    trial.note("driver killed, its Ray too")
    trial.begin(*words, cold=True).wait()


def _sleep(run: Running, seconds: float) -> None:
    """For so long, or until the run has ended."""
    deadline = time.monotonic() + seconds
    while run.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)


def processes() -> dict[int, str]:
    """The command lines of all processes."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[int(entry.name)] = words
    return found


AT_REST: Mapping[Fault, int] = {
    file: 76, record: 32, lease: 20, cache: 16, events: 26, complete_events: 8, mlflow: 36,
    place: 14, clock: 10, leftover: 16, combined: 16,
}  # fmt: skip
RUNNING: Mapping[Fault, int] = {
    kill_driver: 3, kill_in_curve: 4, kill_worker: 4, kill_actor: 2, sigterm: 4, sigterm_group: 1,
    two_drivers: 3, frozen: 2, taken_over: 1, full_disk: 3, server_away: 1, locked: 1, cold: 1,
}  # fmt: skip
"""How many cases there are of each kind: of finished stores, and of runs."""
CASES = [kind for kind, times in {**AT_REST, **RUNNING}.items() for _ in range(times)]


def do_case(seed: int, folder: Path, address: str) -> Evidence:
    """Make a fault, and give the commands that should repair it."""
    kind = CASES[seed]
    trial = Trial(
        seed, kind.__name__, folder / f"case{seed}", address, random.Random(f"torture {seed}")
    )
    if kind in AT_REST:
        trial.copy()
    kind(trial)
    if not trial.evidence.tries:
        trial.options.clear()
        trial.run_until_done()
    return trial.evidence


def make_golden(folder: Path, address: str) -> Evidence:
    """The undisturbed store."""
    trial = Trial(-1, "golden", folder / "first", address, random.Random(0))
    trial.run_until_done()
    trial.store.rename(folder / "golden")
    trial.use(folder / "golden")
    return trial.evidence


def main() -> None:
    """Import what commands need, then answer."""
    folder, address = Path(sys.argv[1]), sys.argv[2]
    for module in COMMANDS_IMPORT:
        importlib.import_module(module)
    for line in sys.stdin:
        seed = int(line)
        try:
            evidence = make_golden(folder, address) if seed < 0 else do_case(seed, folder, address)
            answer = asdict(evidence)
        except Exception:
            answer = {"seed": seed, "broken": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
