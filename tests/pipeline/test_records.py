"""What a run of the workflow tells MLflow: descriptions that are cut between rows, links between the runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.plan import Entry, Plan, State
from pipeline.recorder import EXPERIMENT, FILES, default_uri
from pipeline.records import CELLS, NOTE, Records, comparison, fitting
from pipeline.store import Store
from pipeline.workflow import read
from tests.conftest import ROOT
from tests.pipeline.inline import make, plan_of

TOY = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_table_is_cut_between_rows_and_says_how_many_are_missing() -> None:
    cells = read(ROOT / "workflow.yaml", "paper").node_cells("finetune")
    figures = {cell.id: {"accuracy": 81.25, "seconds": 12.5} for cell in cells}
    run_ids = {cell.id: f"{number:032x}" for number, cell in enumerate(cells)}
    head, rows = comparison(cells, figures, run_ids)
    assert len(rows) == len(cells) == 324
    note, left = fitting(head, rows)
    assert 7800 < len(note) <= 8000
    *table, empty, last = note.splitlines()
    assert table == [*head, *rows[: len(table) - 2]]
    assert table[-1].count("|") == table[0].count("|")
    assert left == 324 - (len(table) - 2)
    assert (empty, last.startswith(f"and {left} more: "), CELLS in last) == ("", True, True)
    assert fitting(head, rows[:9]) == ("\n".join([*head, *rows[:9]]), 0)


def test_a_long_matrix_is_whole_in_a_document(tmp_path: Path) -> None:
    workflow, store = read(ROOT / "workflow.yaml", "paper"), Store.at(tmp_path)
    cells = workflow.node_cells("finetune")
    entries = {cell.id: Entry(cell, cell.id, {"files": {}}, (), State.NEVER, [], True) for cell in cells}
    records = Records(Plan(workflow, store, entries, store), "run", print)
    first, *others = entries.values()
    records.started(first)
    for entry in others:
        records.cached(entry)
    records._figure(first, {"accuracy": 81.25, "loss": math.nan})
    assert records.close("FINISHED", []) == 0
    for uid, count in (("run", 323), ("run/finetune", 324)):
        note, document = shown(tmp_path, uid)
        assert len(note) <= 8000
        assert note.splitlines()[-1].startswith("and ")
        assert len(document) == count
    assert document[0]["figures"] == {"accuracy": 81.25, "loss": "nan"}
    assert document[-1]["axes"] == dict(cells[-1].axes)


def test_an_entry_with_a_name_of_its_own_is_linked(tmp_path: Path) -> None:
    """The toy workflow's first entry is called `numbers` and uses tests.pipeline.toy.numbers."""
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "1.txt").write_text("1")
    plan = plan_of(TOY, tmp_path / "store", f"numbers.source={tmp_path / 'numbers'}", "total.factor=2")
    records = Records(plan, "run", print)
    for entry in plan.to_run:
        make(plan, entry, "run", records.started(entry))
        artifact, record = (look(entry.cell.uses, entry.fingerprint) for look in (plan.store.artifact, plan.store.record))
        assert artifact is not None
        assert record is not None
        records.made(entry, artifact, record)
    assert records.close("FINISHED", []) == 0
    numbers, total = plan.entries.values()
    _, found = run_of(plan.store.root, f"{total.cell.uses}-{total.fingerprint}")
    made = plan.store.record(numbers.cell.uses, numbers.fingerprint) or {}
    assert f"- from [numbers](#/runs/{made['mlflow_run_id']})" in found.data.tags[NOTE]
    [dataset] = [item.dataset for item in found.inputs.dataset_inputs]
    assert plan.store.address(plan.store.folder(numbers.cell.uses, numbers.fingerprint)) in dataset.source


def run_of(store: Path, uid: str) -> tuple[Any, Any]:
    """MLflow's client, and the run as it has it."""
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(store))
    [run] = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], f"tags.`gpt1.uid` = '{uid}'"
    )
    return client, run


def shown(store: Path, uid: str) -> tuple[str, Any]:
    """A run's description, and its document with all cells."""
    _, run = run_of(store, uid)
    path = store / FILES / EXPERIMENT / run.info.run_id / "artifacts" / CELLS
    return run.data.tags[NOTE], json.loads(path.read_text())
