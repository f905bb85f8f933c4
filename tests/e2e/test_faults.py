"""Each process killed at a boundary that matters: the same command ends with the same bytes."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from gpt1.fault import POINTS, VARIABLE, parse
from tests.conftest import ROOT, refuses
from tests.e2e.workflow import MINI, copy_without, outputs, records
from tests.e2e.workflow import gpt1 as alone
from tests.pipeline.inprocess import gpt1
from tests.servers.ray_cluster import Cluster


class Case(NamedTuple):
    """What is to be made, where a process dies, and how the same command ends each time."""

    missing: str
    faults: str
    statuses: tuple[int, ...]


SAVING = "checkpoint.written:1 checkpoint.recorded:1 checkpoint.published:1"
CELLS = "finetune/finetune[task=demo_author,"
CASES = {
    "part": Case("clean", "part.written:2 part.published:3", (0,)),
    "job": Case(CELLS, "train.step:2 job.written:1 job.published:1", (0,)),
    "rank": Case("pretrain", f"{SAVING} train.step:30", (0,)),
    "trainer": Case("pretrain", "trainer.begun:1 trainer.ended:1", (1, 0)),
    "driver": Case(CELLS, "driver.begun:1 driver.between:1", (-9, -9, 0)),
}
"""Parts are tried again by Ray, ranks by Ray Train, jobs by `retries:`, all by the next command."""
RETRIES = ("--set", "finetune.retries=3", "--set", "pretrain.retries=1")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_at_a_boundary_the_same_command_ends_in_the_same_bytes(
    name: str, golden_run: Path, ray_head: Cluster, tmp_path: Path
) -> None:
    case, finished = CASES[name], {}
    store = copy_without(golden_run, tmp_path / "store", case.missing)
    markers = {word: tmp_path / word.partition(":")[0] for word in case.faults.split()}
    fault = {VARIABLE: ",".join(f"{word}@{marker}" for word, marker in markers.items())}
    words = ("run", "--file", MINI, "--store", store, *RETRIES)
    for status in case.statuses:
        if status < 0:
            ended = alone(*words, **fault).returncode
        else:
            ended = gpt1(*words, cluster=ray_head, **fault).status
        assert ended == status
        after = records(store)
        assert {cell: after[cell] for cell in finished} == finished, "made again"
        finished = after
    assert [word for word, marker in markers.items() if not marker.exists()] == []
    assert outputs(store) == outputs(golden_run)


def test_the_points_of_the_code_are_those_that_can_be_named() -> None:
    found = parse("part.written@/a/b:1@c,job.published:12@/d")
    wanted = ("part.written", 1, Path("/a/b:1@c")), ("job.published", 12, Path("/d"))
    assert found == wanted
    folders = [ROOT / name for name in ("gpt1", "stages", "pipeline")]
    text = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    assert set(re.findall(r'fault\.point\("(.*)"\)', text)) == {*POINTS}


WRONG = ["", "part.writen@/m", "part.written", "part.written@m", "part.written:0@/m", "@/m,"]


@pytest.mark.parametrize("value", WRONG)
def test_a_value_that_names_no_fault_is_an_error(value: str) -> None:
    refuses(f"^{VARIABLE}: .* is not a fault; expected POINT", parse, value)
