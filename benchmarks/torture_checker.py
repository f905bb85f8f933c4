"""Judges what torture.py leaves: its own reading of a store's files, of MLflow's SQLite data base,
and of the process table. It imports nothing of the product.

    STORE/<stage>/<fingerprint>/record[-N].json               the one with the highest number counts
    STORE/<stage>/<fingerprint>/<attempt>/events/*.jsonl      points: time, step, values
    STORE/runs/<run>/events/*.jsonl                           what a run did
    STORE/leases/<stage>/<fingerprint>/<number>.json          who has a job; the highest counts
    MLflow's tag gpt1.uid                                     <stage>-<fingerprint>[-<withdrawn>]
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

COUNTS = ("lost", "silent", "unmended", "bad_messages")
CURVE = "curve.json"
"""The output in which a job leaves all points that it has logged: {metric: {step: value}}."""
UID = "gpt1.uid"
SIGNATURE = b',\n "sha256": "'
AFTERWARDS = 75.0
"""Seconds that processes of a run that has ended may still take to end. Ray's agents, whose raylet
is dead, report that to the control service first, and wait 60 s for it where it is dead, too.
"""
LONGEST = 12  # lines of a command's last words that a person still reads
CRASH = re.compile(r"Traceback \(most recent|terminate called|\*\*\* SIG|Fatal Python error|\[C \d")
CAUSE = re.compile(r"^(gpt1|[\w.]+(\[[^\]]*\])?): .{8,}", re.MULTILINE)
Point = tuple[str, int]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: which of COUNTS, and what."""

    count: str
    text: str


@dataclass
class Command:
    """One command that was given: its exit status (None: it never ended), what it printed, and
    the statuses with which it may end.
    """

    words: list[str]
    status: int | None
    out: str
    err: str
    seconds: float
    allowed: list[int]


@dataclass
class Evidence:
    """What a case has left."""

    seed: int
    kind: str
    detail: str
    folder: str
    store: str
    data_base: str
    commands: list[Command] = field(default_factory=list)
    tries: int = 0
    """How often the run was given until it was done; 0: it never was."""
    must_say: list[str] = field(default_factory=list)
    """Expressions that must be found in what the commands print."""
    absent: list[str] = field(default_factory=list)
    """Paths that must not exist."""
    unchanged: dict[str, str] = field(default_factory=dict)
    """Files and folders that must be as they were, with their digests."""

    @staticmethod
    def of(found: Mapping[str, Any]) -> Evidence:
        """From JSON."""
        commands = [Command(**command) for command in found["commands"]]
        return Evidence(**{**found, "commands": commands})


@dataclass(frozen=True)
class Record:
    """The last record of a job or part. `number`: how many there are."""

    place: str
    number: int
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.place.partition('/')[0]}/{self.content['cell']}"

    @property
    def job(self) -> str:
        """How MLflow's tags of its runs begin."""
        return self.place.replace("/", "-")

    @property
    def uid(self) -> str:
        """MLflow's tag of its run."""
        return f"{self.job}-{self.number - 1}" if self.number > 1 else self.job


@dataclass(frozen=True)
class Run:
    """One of MLflow's; `active`: it is not deleted. Points: metric, step, value."""

    active: bool
    points: Sequence[tuple[str, int, float]]


@dataclass(frozen=True)
class Expected:
    """What an undisturbed run makes: sha256 of each file, and points of each job, by name."""

    files: Mapping[str, Mapping[str, str]]
    points: Mapping[str, Mapping[Point, float]]


def read_signed(data: bytes) -> dict[str, Any] | None:
    """A JSON object that ends with the sha256 of all before it; None when it is another one."""
    body, _, rest = data.rpartition(SIGNATURE)
    if not body or rest != hashlib.sha256(body).hexdigest().encode() + b'"\n}\n':
        return None
    with suppress(ValueError):
        return dict(json.loads(body + b"\n}"))
    return None


def records(store: Path) -> dict[str, Record]:
    """All records that count, by STAGE/CELL."""
    found = {}
    for place, numbers in read_records(store).items():
        content = numbers[max(numbers)]
        if content and not content["withdrawn"]:
            record = Record(place, max(numbers), content)
            found[record.name] = record
    return found


def read_records(store: Path) -> dict[str, dict[int, dict[str, Any] | None]]:
    """The records of each job and part, by STAGE/FINGERPRINT and number; None: unreadable."""
    found: dict[str, dict[int, dict[str, Any] | None]] = {}
    for path in store.glob("*/*/record*.json"):
        name = re.fullmatch(r"record(?:-(\d+))?\.json", path.name)
        if name:
            place = path.parent.relative_to(store).as_posix()
            content = read_signed(path.read_bytes())
            is_own = content and f"{content['stage']}/{content['fingerprint']}" == place
            found.setdefault(place, {})[int(name[1] or 1)] = content if is_own else None
    return found


def sha256(path: Path) -> str | None:
    """Of a file; None where there is none."""
    with suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def expected(store: Path) -> Expected:
    """What an undisturbed store holds."""
    files, points = {}, {}
    for name, record in records(store).items():
        listed = record.content["files"]
        files[name] = {key: f["sha256"] for key, f in listed.items() if not f["volatile"]}
        if CURVE in listed:
            curves = json.loads((store / listed[CURVE]["key"]).read_bytes())
            points[name] = {
                (metric, int(step)): value
                for metric, curve in curves.items()
                for step, value in curve.items()
            }
    return Expected(files, points)


def digest(path: Path) -> str:
    """Of a file, or of all names and contents below a folder."""
    if not path.is_dir():
        return str(sha256(path))
    hashed = hashlib.sha256()
    for one in sorted(path.rglob("*")):
        what = one.readlink() if one.is_symlink() else sha256(one)
        hashed.update(f"{one.relative_to(path)}\0{what}\n".encode())
    return hashed.hexdigest()


def judge(evidence: Evidence, right: Expected) -> list[Problem]:
    """All that is wrong with a case."""
    store = Path(evidence.store)
    found = [*judge_commands(evidence), *judge_results(store, right)]
    found += judge_points(store, Path(evidence.data_base), right)
    found += [*judge_processes(Path(evidence.folder)), *judge_leases(store)]
    if not evidence.tries:
        found.append(Problem("unmended", "the same command never ended well"))
    for path in evidence.absent:
        if os.path.lexists(path):
            found.append(Problem("silent", f"{path} was made"))
    for path, before in evidence.unchanged.items():
        if digest(Path(path)) != before:
            found.append(Problem("silent", f"{path} was changed"))
    return found


def judge_commands(evidence: Evidence) -> Iterator[Problem]:
    """Exit statuses, crashes, failures without a cause, damage without a word."""
    for command in evidence.commands:
        words, text = " ".join(command.words[:2]), command.out + command.err
        if command.status not in command.allowed:
            ended = "never ended" if command.status is None else f"ended with {command.status}"
            yield Problem("bad_messages", f"{words} {ended}, not {command.allowed}")
        if crash := CRASH.search(text):
            yield Problem("bad_messages", f"{words} printed {crash[0]!r}")
        if command.status in (1, 2, 3):
            if not CAUSE.search(text):
                yield Problem("bad_messages", f"{words} ended with {command.status}, no cause said")
            if command.err.count("\n") > LONGEST:
                lines = command.err.count("\n")
                yield Problem("bad_messages", f"{words}: {lines} lines of errors")
    said = "\n".join(command.out + command.err for command in evidence.commands)
    for words in evidence.must_say:
        if not re.search(words, said):
            yield Problem("silent", f"no command said {words!r}")


def judge_results(store: Path, right: Expected) -> Iterator[Problem]:
    """Every result is there, is as its record says, and is the undisturbed run's."""
    there = records(store)
    for name in right.files.keys() - there.keys():
        yield Problem("lost", f"{name} has no record")
    for name, record in there.items():
        files = record.content["files"]
        for file in files.values():
            found = sha256(store / file["key"])
            if found is None:
                yield Problem("lost", f"{name}: {file['key']} is gone")
            elif found != file["sha256"]:
                yield Problem("silent", f"{name}: {file['key']} is not as its record says")
        found_files = {key: f["sha256"] for key, f in files.items() if not f["volatile"]}
        if found_files != right.files.get(name):
            yield Problem("silent", f"{name} differs from the undisturbed run's")
    for place, numbers in read_records(store).items():
        counting = [number for number, one in numbers.items() if one and not one["withdrawn"]]
        if len(counting) > 1:
            yield Problem("silent", f"{place}: records {counting} count at the same time")


def judge_points(store: Path, data_base: Path, right: Expected) -> Iterator[Problem]:
    """One MLflow run per job and per run of the workflow; every point in it, once. What a person
    has deleted there may stay so.
    """
    try:
        runs = read_mlflow(data_base)
    except sqlite3.Error as error:
        yield Problem("lost", f"{data_base.name} cannot be read: {error}")
        return
    for uid, found in runs.items():
        if (active := sum(run.active for run in found)) > 1:
            yield Problem("silent", f"MLflow has {active} runs of {uid}")
        for run in found:
            for (name, step), times in Counter(point[:2] for point in run.points).items():
                if times > 1:
                    yield Problem("silent", f"MLflow has {name} at {step} of {uid} {times} times")
    there = records(store)
    for name, wanted in right.points.items():
        if name in there:
            record = there[name]
            if record.uid not in runs:
                yield Problem("lost", f"MLflow has no run {record.uid}")
            yield from compare(record.job, wanted, of_job(record.job, runs))
    for folder in sorted((store / "runs").glob("*")):
        if folder.name not in runs:
            yield Problem("lost", f"MLflow has no run {folder.name}")
    for place, logged in read_events(store).items():
        have = {point[:2] for run in of_job(place, runs) for point in run.points}
        if missing := logged - have:
            yield Problem("lost", f"{len(missing)} points of {place}'s events: {min(missing)}")


def of_job(job: str, runs: Mapping[str, list[Run]]) -> list[Run]:
    """The runs of all records of a job: a repair continues from what a withdrawn attempt saved."""
    return [run for uid, found in runs.items() if uid.startswith(job) for run in found]


def compare(job: str, wanted: Mapping[Point, float], runs: Sequence[Run]) -> Iterator[Problem]:
    """The points of one job."""
    have = {point[:2]: point[2] for run in runs for point in run.points}
    if missing := wanted.keys() - have.keys():
        yield Problem("lost", f"{len(missing)} of {len(wanted)} points of {job}: {min(missing)}")
    elif wrong := [point for point in wanted if have[point] != wanted[point]]:
        yield Problem("silent", f"{len(wrong)} wrong points of {job}, such as {min(wrong)}")


def read_mlflow(data_base: Path) -> dict[str, list[Run]]:
    """MLflow's runs, by our name of them. Raises sqlite3.Error."""
    if not data_base.is_file():
        raise sqlite3.OperationalError("no such file")
    points: dict[str, list[tuple[str, int, float]]] = {}
    found: dict[str, list[Run]] = {}
    with closing(sqlite3.connect(f"file:{quote(str(data_base))}?mode=ro", uri=True)) as connection:
        for run_id, *point in connection.execute("SELECT run_uuid, key, step, value FROM metrics"):
            points.setdefault(run_id, []).append((point[0], point[1], point[2]))
        rows = connection.execute(
            "SELECT t.value, t.run_uuid, r.lifecycle_stage FROM tags t JOIN runs r"
            " ON r.run_uuid = t.run_uuid WHERE t.key = ?", (UID,),
        )  # fmt: skip
        for uid, run_id, stage in rows:
            run = Run(stage == "active", points.get(run_id, []))
            found.setdefault(uid, []).append(run)
    return found


def read_events(store: Path) -> dict[str, set[Point]]:
    """The points in the events of all jobs, by `<stage>-<fingerprint>`: no torn lines, and nothing
    that an attempt logs after another one has published.
    """
    found: dict[str, set[Point]] = {}
    published = {record.place: record.content for record in records(store).values()}
    for path in store.glob("*/*/*/events/*.jsonl"):
        stage, fingerprint, attempt = path.relative_to(store).parts[:3]
        record = published.get(f"{stage}/{fingerprint}", {})
        own = record.get("attempt", attempt) == attempt
        points = found.setdefault(f"{stage}-{fingerprint}", set())
        for line in path.read_bytes().split(b"\n"):
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = json.loads(line)
                if own or entry["time"] <= record["finished"]:
                    points |= {(name, int(entry["step"])) for name in dict(entry["values"])}
    return found


def judge_processes(folder: Path) -> Iterator[Problem]:
    """No process of the case is left: none that a job has named in `processes`, none that has the
    case's folder in its environment.
    """
    deadline = time.monotonic() + AFTERWARDS
    while (alive := alive_processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for name in alive:
        yield Problem("unmended", f"a process is left: {name}")


def alive_processes(folder: Path) -> list[str]:
    """The processes of a case."""
    found = []
    mark, named = f"TORTURE_CASE={folder}\0".encode(), folder / "processes"
    pids = {int(path.name): path for path in named.glob("*")} if named.is_dir() else {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if place.stat().st_uid != os.getuid():
                continue
            noted = pids.get(int(place.name))
            is_job = noted is not None and is_older(place, noted)
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and (is_job or mark in (place / "environ").read_bytes()):
                words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append(f"{place.name} {words[:80]}")
    return found


def is_older(process: Path, file: Path) -> bool:
    """Whether a process began before a file was written: else its number was given out again."""
    ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    began = time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return began < file.stat().st_mtime + 1


def judge_leases(store: Path) -> Iterator[Problem]:
    """No lease has a living holder: the last number of each job is released, or its holder's lock
    is free.
    """
    for folder in {path.parent for path in store.glob("leases/**/*.json")}:
        numbers = [path for path in folder.glob("*.json") if path.stem.isdecimal()]
        last = max(numbers, key=lambda path: int(path.stem), default=None)
        holder = read_signed(last.read_bytes()) if last else None
        if holder and not holder["released"] and is_locked(store, holder["token"]):
            yield Problem("unmended", f"{folder.relative_to(store)} is held by {holder['run']}")


def is_locked(store: Path, token: str) -> bool:
    """Whether a living process has the lock of this token."""
    with suppress(FileNotFoundError), (store / "locks" / "drivers" / token).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
