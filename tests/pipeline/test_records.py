"""What a run of the workflow tells MLflow: descriptions that are cut between rows, links between the runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.plan import Entry, Plan, State
from pipeline.recorder import default_uri
from pipeline.records import CELLS, NOTE, Records, comparison, fitting
from pipeline.store import Store
from pipeline.workflow import read
from tests.conftest import ROOT


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
    assert records.close(0, []) == 0
    for uid, count in (("run", 323), ("run/finetune", 324)):
        note, document = shown(tmp_path, uid)
        assert len(note) <= 8000
        assert note.splitlines()[-1].startswith("and ")
        assert len(document) == count
    assert document[0]["figures"] == {"accuracy": 81.25, "loss": "nan"}
    assert document[-1]["axes"] == dict(cells[-1].axes)


def shown(store: Path, uid: str) -> tuple[str, Any]:
    """A run's description, and its document with all cells."""
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(store))
    [run] = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], f"tags.`gpt1.uid` = '{uid}'"
    )
    path = client.download_artifacts(run.info.run_id, CELLS, str(store))
    return run.data.tags[NOTE], json.loads(Path(path).read_text())
