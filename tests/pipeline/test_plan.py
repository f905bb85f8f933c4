"""What is to be made, and why: from a workflow and what its store has; what a run decides when a
job finds a file damaged; the digests of canonical JSON, by which a plan compares.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.execution.repair import Repair, Repairs
from pipeline.planning.fingerprint import digest
from pipeline.planning.planner import Entry, Plan, Selection
from pipeline.results import open_store
from pipeline.store.record import DamagedArtifact
from tests.conftest import ROOT, refuses, write
from tests.pipeline.inline import TOY, artifact, output, plan_of, run_inline, stored

NUMBERS, ONE, TWO = "numbers", "total[factor=1]", "total[factor=2]"


@pytest.fixture
def done(numbers: Path) -> Path:
    """The same after all of it has been made."""
    assert state(plan(numbers), TWO)[0] == "new"
    assert run_inline(plan(numbers)) == [NUMBERS, ONE, TWO]
    assert to_run(plan(numbers)) == []
    return numbers


def plan(numbers: Path, *assignments: str, **options: Any) -> Plan:
    store, source = numbers.parent / "store", f"numbers.source={numbers}"
    return plan_of(TOY, store, source, *assignments, **options)


def to_run(made: Plan) -> list[str]:
    return [entry.cell.id for entry in made.to_run]


def state(made: Plan, cell: str = NUMBERS) -> tuple[str, list[str]]:
    return str(made.entries[cell].state), made.entries[cell].reasons


def record(made: Plan) -> dict[str, Any]:
    return dict(json.loads(record_file(made).read_text()))


def record_file(made: Plan) -> Path:
    entry = made.entries[NUMBERS]
    return made.store.root / entry.job / "record.json"


def test_a_changed_setting_names_old_and_new_and_spares_what_comes_before(done: Path) -> None:
    assert state(plan(done, "total.factor=3")) == ("done", [])
    changed = plan(done, "numbers.add=5")
    assert to_run(changed) == [NUMBERS, ONE, TWO]
    assert state(changed) == ("stale", ["with.add: 0 -> 5"])
    assert state(changed, ONE) == ("stale", ["input tests.pipeline.toy.numbers changed"])


def test_a_new_matrix_value_costs_one_cell(done: Path) -> None:
    assert to_run(plan(done, "total.matrix.factor=[1,2,5]")) == ["total[factor=5]"]


def test_placement_changes_nothing(done: Path, tmp_path: Path) -> None:
    moved = done.rename(tmp_path / "elsewhere")
    assert to_run(plan(moved, "numbers.pause=0.01", "total.resources.cpus=2")) == []


def test_a_changed_file_is_named_and_costs_one_part(done: Path) -> None:
    write(done, {"2.txt": "20", "4.txt": "4"})
    changed = plan(done)
    assert state(changed) == ("stale", ["file 2.txt: changed", "file 4.txt: added"])
    run_inline(changed)
    found = record(changed)
    assert (found["parts"], found["summary"]) == ({"made": 2, "reused": 2}, {"total": 28})


def test_a_failure_is_remembered_and_finished_parts_stay(numbers: Path) -> None:
    (numbers / "3.txt").write_text("three")
    refuses(r"3\.txt: expected a number", run_inline, plan(numbers))
    assert state(plan(numbers)) == ("failed", ["3.txt: expected a number, found 'three'"])
    (numbers / "3.txt").write_text("3")
    run_inline(plan(numbers))
    assert record(plan(numbers))["parts"] == {"made": 1, "reused": 2}


def test_a_killed_try_counts_its_parts(done: Path) -> None:
    record_file(plan(done)).unlink()
    assert state(plan(done)) == ("partial", ["3 of 3 parts are done"])


def test_damage_makes_stale_and_a_rerun_with_the_same_content_spares_the_rest(done: Path) -> None:
    output(artifact(plan(done), NUMBERS), "1.txt.value").unlink()
    damaged = plan(done)
    assert state(damaged) == ("stale", ["file 1.txt.value is missing from the store"])
    assert run_inline(damaged) == [NUMBERS]
    assert to_run(plan(done)) == []


def test_an_input_with_other_content_makes_stale(done: Path) -> None:
    there = plan(done).entries[NUMBERS].last.record
    assert there is not None
    other = there.model_copy(update={"digest": "0" * 64})
    record_file(plan(done)).write_bytes(other.to_bytes())
    assert state(plan(done), ONE) == ("stale", ["input numbers has new content"])


@pytest.mark.parametrize(("selection", "chosen"), [
    ({"stages": (ONE,)}, [NUMBERS, ONE]), ({"force": True}, [NUMBERS, ONE, TWO]),
    ({"stages": ("total",), "only": True}, "needs numbers, which is new and not"),
    ({"stages": ("totl",)}, "unknown stage 'totl'; did you mean 'total'"),
    ({"stages": (NUMBERS,), "force": True}, [NUMBERS]),
    ({"start": "total", "force": True}, [ONE, TWO]),
])  # fmt: skip
def test_selection(selection: dict[str, Any], chosen: Any, numbers: Path) -> None:
    if "force" in selection:
        run_inline(plan(numbers))
    if isinstance(chosen, str):
        refuses(chosen, plan, numbers, selection=Selection(**selection))
    else:
        assert to_run(plan(numbers, selection=Selection(**selection))) == chosen


def test_a_file_that_no_job_has_is_named_with_those_there_are(done: Path) -> None:
    results = open_store(done.parent / "store")
    said = refuses("numbers: no file 'a'; expected one of", results.file, NUMBERS, "a")
    assert said.endswith(", ".join(sorted(stored(plan(done), NUMBERS).files)))


def test_files_of_jobs_that_nobody_asked_for_may_be_missing(tmp_path: Path) -> None:
    given = (ROOT / "workflow.yaml", tmp_path / "store", "ingest.source=embedded")
    data = ["task_data.source=nowhere"]
    alone = Selection(("ingest",), only=True)
    assert to_run(plan_of(*given, *data, profile="paper", selection=alone)) == ["ingest"]
    found = plan_of(*given, *data, profile="paper", selection=Selection(("pretrain",)))
    assert to_run(found)[-1] == "pretrain[model=lstm]"
    assert {one.cell.node for one in found.entries.values()}.isdisjoint({"task_data", "finetune"})
    for asked in ({}, {"stages": ("encode",), "only": True}):
        refuses("nowhere", plan_of, *given, *data, profile="paper", selection=Selection(**asked))


def test_a_record_that_the_disk_refuses_is_never_skipped(done: Path) -> None:
    file = done.parent / "store" / plan(done).entries[ONE].job / "record.json"
    file.unlink()
    file.symlink_to(file)
    refuses("record.json: cannot be read", plan, done, selection=Selection((NUMBERS,)))


def test_two_profiles_share_one_store(done: Path) -> None:
    assert run_inline(plan(done, profile="tripled")) == [NUMBERS, "total[factor=3]"]
    assert to_run(plan(done)) == to_run(plan(done, profile="tripled")) == []


# Repairs


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
    refuses("no job of this workflow makes it again", run.decide)
    run.file = run.artifacts["numbers"].files[run.file.name]
    refuses("is damaged again: check the disk", run.decide)


def test_the_limit_is_that_of_what_is_withdrawn(numbers: Path) -> None:
    run = Run(numbers, limit=0.0)
    refuses(r"making numbers again takes about .* --repair-limit \d+s", run.decide)


# Canonical JSON

number = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | number | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_order_of_keys_is_no_meaning(value: dict[str, object]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


@given(plain, plain)
def test_different_values_hash_differently(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (repr_of(one) == repr_of(other))


def repr_of(value: object) -> object:
    """A form that keeps apart what JSON keeps apart: 1, 1.0 and True."""
    if isinstance(value, dict):
        return {key: repr_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [repr_of(item) for item in value]
    return (type(value).__name__, 0.0 if value == 0 and isinstance(value, float) else value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1}, Path("x"), b"x", {1: 2}, object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match="cannot be hashed canonically"):
        digest({"key": value})
