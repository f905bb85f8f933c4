"""Deterministic faults for tests: a process kills itself at a named point, once.

GPT1_FAULT=POINT[:N]@MARKER[,...]: a process that passes POINT for the Nth time (default 1) creates
the file MARKER, and dies of SIGKILL if the file was not there. So each fires once, over all
processes. Without the variable nothing happens.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from gpt1.errors import UserError

VARIABLE = "GPT1_FAULT"
POINTS = {
    "driver.begun": "the driver has its leases; nothing has started",
    "driver.between": "the driver has a job's record; the next job has not started",
    "part.written": "a part's worker has written its files, but not its record",
    "part.published": "a part's worker has written its record",
    "job.written": "a job's process has written its files, but not its record",
    "job.published": "a job's process has written its record",
    "train.step": "a rank or a fine-tuning job has finished a step",
    "checkpoint.written": "rank 0 has written a checkpoint's files, but not its manifest",
    "checkpoint.recorded": "rank 0 has written a checkpoint's manifest, but published nothing",
    "checkpoint.published": "rank 0 has published a checkpoint, but not deleted older ones",
    "trainer.begun": "Ray Train's controller has connected the ranks; they have not trained",
    "trainer.ended": (
        "Ray Train's controller has seen the ranks end, but not passed on their result"
    ),
}
FORM = re.compile(r"(?P<point>[a-z.]+)(?::(?P<number>[1-9]\d*))?@(?P<marker>/.+)")
_given = os.environ.get(VARIABLE)
ARMED = bool(_given)
"""Whether there are faults at all: a loop need not call `point` without."""
_passed: Counter[str] = Counter()


class Fault(NamedTuple):
    """The `number`th pass of `point` is fatal, unless `marker` exists."""

    point: str
    number: int
    marker: Path


def point(name: str) -> None:
    """Pass a point, and die there if the environment says so."""
    if _given:
        _passed[name] += 1
        for fault in parse(_given):
            if (fault.point, fault.number) == (name, _passed[name]):
                _die(fault.marker)


@cache
def parse(text: str) -> tuple[Fault, ...]:
    """The faults that a value of GPT1_FAULT names. Raises UserError for one that is none."""
    found = []
    for word in text.split(","):
        match = FORM.fullmatch(word)
        if match is None or match["point"] not in POINTS:
            form = (
                f"POINT[:N]@MARKER (N from 1, an absolute path), POINT one of {', '.join(POINTS)}"
            )
            raise UserError(f"{VARIABLE}: {word!r} is not a fault; expected {form}")
        found.append(Fault(match["point"], int(match["number"] or 1), Path(match["marker"])))
    return tuple(found)


def passed_on() -> dict[str, str]:
    """The environment variable, for processes that do not inherit it."""
    return {VARIABLE: value} if (value := os.environ.get(VARIABLE)) else {}


def _die(marker: Path) -> None:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
