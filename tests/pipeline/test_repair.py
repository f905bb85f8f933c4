"""What a run decides when a job finds a file damaged."""

from pathlib import Path

import pytest

from gpt1.errors import UserError
from pipeline.execution.repair import Repair, Repairs
from pipeline.planning.planner import Entry
from pipeline.store.record import DamagedArtifact
from tests.pipeline.inline import TOY, plan_of, run_inline, stored

ONE, TWO = "total[factor=1]", "total[factor=2]"


class Run:
    """A finished run of the toy workflow, one file of which is flipped."""

    def __init__(self, numbers: Path, limit: float = 3600.0) -> None:
        self.words = (TOY, numbers.parent / "store", f"numbers.source={numbers}")
        run_inline(plan_of(*self.words))
        self.plan = plan_of(*self.words)
        self.artifacts = {cell: stored(self.plan, cell) for cell in self.plan.entries}
        self.repairs = Repairs(self.plan, limit)
        [self.file, *_] = self.artifacts["numbers"].files.values()
        path = self.plan.store.path(self.file)
        path.write_bytes(b"x" * self.file.size)
        self.part = "/".join(self.file.key.split("/")[:2])

    def entry(self, cell: str) -> Entry:
        return self.plan.entries[cell]

    def decide(self, cell: str = ONE) -> Repair:
        """What is decided when this job has read the file."""
        damage = DamagedArtifact(f"{self.file.key}: flipped; run it", (self.file.key,))
        return self.repairs.decide(self.entry(cell), damage, self.artifacts)

    def withdraw(self, *jobs: str) -> None:
        for job in jobs:
            self.plan.store.withdraw(*job.split("/"), "a test")


def test_the_part_and_the_job_that_lists_it_are_made_again(numbers: Path) -> None:
    run = Run(numbers)
    found, job = run.decide(), run.entry("numbers").job
    assert (found.records, found.newer) == ({run.part: 1, job: 1}, [])
    assert found.entries == [run.entry("numbers")]
    run.withdraw(*found.records)
    second = run.decide(TWO)
    assert (second.records, second.entries) == ({}, [run.entry("numbers")]), "it is under way"
    run_inline(plan_of(*run.words))
    [(entry, last)] = run.decide(TWO).newer
    assert (entry, last.number) == (run.entry("numbers"), 2), "what was made meanwhile is taken"


def test_a_job_that_lists_the_old_file_of_a_newer_part(numbers: Path) -> None:
    run = Run(numbers)
    run.withdraw(run.part)
    assert run.decide().records == {run.entry("numbers").job: 1}


def test_no_repair_goes_on_for_ever(numbers: Path) -> None:
    run = Run(numbers)
    run.withdraw(*run.decide().records)
    run_inline(plan_of(*run.words))
    run.artifacts["numbers"] = stored(plan_of(*run.words), "numbers")
    assert run.decide().records == {}, "an old reader starts again once"
    with pytest.raises(UserError, match="no job of this workflow makes it again"):
        run.decide()
    run.file = run.artifacts["numbers"].files[run.file.name]
    with pytest.raises(UserError, match="is damaged again: check the disk"):
        run.decide()


def test_the_limit_is_that_of_what_is_withdrawn(numbers: Path) -> None:
    run = Run(numbers, limit=0.0)
    with pytest.raises(UserError, match=r"making numbers again takes about .* --repair-limit \d+s"):
        run.decide()
