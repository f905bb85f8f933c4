from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt1.errors import UserError
from pipeline.plan import Plan, Selection, State
from tests.pipeline.inline import plan_of, run_inline

TOY = Path(__file__).parent / "toy" / "workflow.yaml"


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    folder = tmp_path / "numbers"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"{number}.txt").write_text(str(number))
    return folder


def plan(numbers: Path, *assignments: str, profile: str | None = None, selection: Selection | None = None) -> Plan:
    source = f"numbers.source={numbers}"
    return plan_of(TOY, numbers.parent / "store", source, *assignments, profile=profile, selection=selection)


def states(made: Plan) -> dict[str, tuple[State, list[str]]]:
    return {cell: (entry.state, entry.reasons) for cell, entry in made.entries.items()}


def test_never_run_then_done(numbers: Path) -> None:
    first = plan(numbers)
    assert {state for state, _ in states(first).values()} == {State.NEVER}
    assert run_inline(first) == ["numbers", "total[factor=1]", "total[factor=2]"]
    again = plan(numbers)
    assert again.to_run == []
    assert {state for state, _ in states(again).values()} == {State.DONE}


def test_a_changed_setting_names_old_and_new_and_spares_what_comes_before(numbers: Path) -> None:
    run_inline(plan(numbers))
    changed = plan(numbers, "total.factor=3")
    assert states(changed)["numbers"] == (State.DONE, [])
    assert [entry.cell.id for entry in plan(numbers, "numbers.add=5").to_run] == ["numbers", "total[factor=1]", "total[factor=2]"]
    assert states(plan(numbers, "numbers.add=5"))["numbers"] == (State.STALE, ["with.add: 0 -> 5"])
    assert states(plan(numbers, "numbers.add=5"))["total[factor=1]"] == (State.STALE, ["input tests.pipeline.toy.numbers changed"])


def test_a_new_matrix_value_costs_one_cell(numbers: Path) -> None:
    run_inline(plan(numbers))
    assert [entry.cell.id for entry in plan(numbers, "total.matrix.factor=[1,2,5]").to_run] == ["total[factor=5]"]


def test_placement_changes_nothing(numbers: Path, tmp_path: Path) -> None:
    run_inline(plan(numbers))
    moved = tmp_path / "elsewhere"
    numbers.rename(moved)
    assert plan_of(TOY, tmp_path / "store", f"numbers.source={moved}", "numbers.pause=0.01", "total.resources.cpus=2").to_run == []


def test_a_changed_file_is_named_and_costs_one_part(numbers: Path) -> None:
    run_inline(plan(numbers))
    (numbers / "2.txt").write_text("20")
    (numbers / "4.txt").write_text("4")
    changed = plan(numbers)
    assert states(changed)["numbers"] == (State.STALE, ["file 2.txt: changed", "file 4.txt: added"])
    run_inline(changed)
    entry = changed.entries["numbers"]
    record = changed.store.record(entry.cell.uses, entry.fingerprint)
    assert record is not None
    assert record["parts"] == {"made": 2, "reused": 2}
    assert record["summary"] == {"total": 28}


def test_a_failure_is_remembered_and_finished_parts_stay(numbers: Path) -> None:
    (numbers / "3.txt").write_text("three")
    with pytest.raises(UserError, match=r"3\.txt: expected a number"):
        run_inline(plan(numbers))
    assert states(plan(numbers))["numbers"] == (State.FAILED, ["3.txt: expected a number, found 'three'"])
    (numbers / "3.txt").write_text("3")
    run_inline(plan(numbers))
    entry = plan(numbers).entries["numbers"]
    record = plan(numbers).store.record(entry.cell.uses, entry.fingerprint)
    assert record is not None
    assert record["parts"] == {"made": 1, "reused": 2}


def test_a_killed_try_counts_its_parts(numbers: Path) -> None:
    run_inline(plan(numbers))
    entry = plan(numbers).entries["numbers"]
    folder = entry.artifact and plan(numbers).store.folder(entry.cell.uses, entry.fingerprint)
    assert folder
    (folder / "record.json").unlink()
    assert states(plan(numbers))["numbers"] == (State.PARTIAL, ["3 of 3 parts are made"])


def test_damage_makes_stale_and_a_rerun_with_the_same_content_spares_the_rest(numbers: Path) -> None:
    run_inline(plan(numbers))
    artifact = plan(numbers).entries["numbers"].artifact
    assert artifact is not None
    artifact.path("1.txt.value").unlink()
    damaged = plan(numbers)
    assert states(damaged)["numbers"] == (State.STALE, ["file 1.txt.value is missing from the store"])
    assert run_inline(damaged) == ["numbers"]
    assert plan(numbers).to_run == []


def test_an_input_with_other_content_makes_stale(numbers: Path) -> None:
    run_inline(plan(numbers))
    store = plan(numbers).store
    entry = plan(numbers).entries["numbers"]
    path = store.folder(entry.cell.uses, entry.fingerprint) / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "digest": "0" * 64}))
    assert states(plan(numbers))["total[factor=1]"] == (State.STALE, ["input numbers has other content now"])


def test_selection(numbers: Path) -> None:
    def chosen(**selection: object) -> list[str]:
        return [entry.cell.id for entry in plan(numbers, selection=Selection(**selection)).to_run]  # type: ignore[arg-type]

    assert chosen(stages=("total[factor=1]",)) == ["numbers", "total[factor=1]"]
    assert chosen(stages=("numbers",)) == ["numbers"]
    with pytest.raises(UserError, match="needs numbers, which is never run and was not chosen"):
        chosen(stages=("total",), only=True)
    with pytest.raises(UserError, match="unknown stage 'totl'; did you mean 'total'"):
        chosen(stages=("totl",))
    run_inline(plan(numbers))
    assert chosen(stages=("numbers",), force=True) == ["numbers"]
    assert chosen(force=True) == ["numbers", "total[factor=1]", "total[factor=2]"]
    assert chosen(start="total", force=True) == ["total[factor=1]", "total[factor=2]"]


def test_two_profiles_live_in_one_store(numbers: Path) -> None:
    run_inline(plan(numbers))
    assert run_inline(plan(numbers, profile="tripled")) == ["numbers", "total[factor=3]"]
    assert plan(numbers).to_run == []
    assert plan(numbers, profile="tripled").to_run == []
