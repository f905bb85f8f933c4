"""What is to be made, and why: from a workflow and what its store has."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.planning.planner import Plan, Selection
from tests.conftest import refuses, write
from tests.pipeline.inline import TOY, artifact, output, plan_of, run_inline

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


def test_two_profiles_share_one_store(done: Path) -> None:
    assert run_inline(plan(done, profile="tripled")) == [NUMBERS, "total[factor=3]"]
    assert to_run(plan(done)) == to_run(plan(done, profile="tripled")) == []
