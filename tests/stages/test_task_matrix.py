"""Published tasks in a matrix: axes, shared encoding, the test set, and what is handed in."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from pipeline.planning.planner import Plan, State
from stages.finetune import FinetuneSettings
from stages.task_data import TaskData, TaskDataSettings
from tests.conftest import write
from tests.pipeline.inline import MOOR, output, plan_of, run_inline, write_rte, write_stories
from tests.stages.runs import document, lines, made, run_stage
from tests.stages.test_finetune import SHAPE, random_model, tune

WORKFLOW = Path(__file__).parent / "matrix_workflow.yaml"
CELL = "finetune[task={},lr={},epochs=1]"


def write_tasks(folder: Path) -> None:
    """RTE, MNLI and Story Cloze as their publishers give them, small."""

    def table(name: str, header: str, rows: list[str]) -> None:
        write(folder, {name: "\n".join([header.replace(" ", "\t"), *rows, ""])})

    header, mnli = "index sentence1 sentence2", ("entailment", "neutral", "contradiction")
    rows = [f"{n}\t{MOOR.format(n)}" for n in range(24)]
    three = [f"{row}\t{mnli[n % 3]}" for n, row in enumerate(rows)]
    write_rte(folder)
    for split in ("train", "dev_matched", "dev_mismatched"):
        table(f"MNLI/{split}.tsv", f"{header} gold_label", three)
    for name, n in (("RTE/test", 5), ("MNLI/test_matched", 3), ("MNLI/test_mismatched", 4)):
        table(f"{name}.tsv", header, rows[:n])
    write_stories(folder)


def plan_matrix(folder: Path, *settings: str) -> Plan:
    """Without the books' shards and the pre-training, which no cell takes."""
    plan = plan_of(WORKFLOW, folder / "store", f"task_data.source={folder / 'data'}", *settings)
    for cell in ("shard", "pretrain"):
        plan.entries[cell].run = False
    return plan


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("matrix")
    write_tasks(folder / "data")
    run_inline(plan := plan_matrix(folder))
    return plan


def scores(plan: Plan, cell: str) -> dict[str, Any]:
    return document(made(plan, cell), "scores.json")


def test_any_setting_is_an_axis_and_an_added_value_makes_what_is_missing(matrix: Plan) -> None:
    names = [cell for cell in matrix.entries if cell.startswith("finetune")]
    assert names[0] == CELL.format("rte", 0.001)
    assert len({made(matrix, name).digest for name in names}) == 6
    more = plan_matrix(matrix.store.root.parent, "finetune.matrix.epochs=[1, 2]").entries
    states = {name: one.state for name, one in more.items() if name.startswith("finetune")}
    done = {name for name, state in states.items() if state is State.DONE}
    assert (done, len(states)) == ({*names}, 12)


def test_encoding_is_done_once_for_a_task_and_changes_no_result(matrix: Plan) -> None:
    ids = made(matrix, "encode[task=rte]")
    assert sorted(ids.files) == ["dev.safetensors", "test.safetensors", "train.safetensors"]
    inputs = [made(matrix, name) for name in ("vocabulary", "task_data[task=rte]")]
    cell = made(matrix, CELL.format("rte", 0.001))
    settings = FinetuneSettings.model_validate(dict(cell.settings))
    assert run_stage(settings, inputs, matrix.store.root).digest == cell.digest


def test_the_test_set_is_predicted_and_scored_where_its_labels_are_public(matrix: Plan) -> None:
    rte, cloze = (CELL.format(task, 0.001) for task in ("rte", "storycloze"))
    found = scores(matrix, rte)
    assert (found["test"], found["train_rows"], found["sample"]) == (None, 24, True)
    assert found["official_rows"]["train"] == 2490
    tested, rows = scores(matrix, cloze)["test"], lines(made(matrix, cloze), "test_predictions")
    assert tested["n"] == len(rows) == 20
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert tested["values"]["accuracy"] == pytest.approx(5 * right)
    assert made(matrix, cloze).summary["test_accuracy"] == tested["values"]["accuracy"]


def test_a_submission_is_the_best_cell_of_each_task(matrix: Plan) -> None:
    submission = made(matrix, "submission")
    about = document(submission, "submission.json")
    archive = zipfile.ZipFile(output(submission, "glue.zip"))
    files = {name: archive.read(name) for name in archive.namelist()}
    assert list(files) == about["in_glue_zip"]
    assert about["missing_from_glue_zip"][:2] == ["CoLA.tsv", "SST-2.tsv"]
    counts = {name: len(data.splitlines()) - 1 for name, data in files.items()}
    assert counts == {"MNLI-m.tsv": 3, "MNLI-mm.tsv": 4, "RTE.tsv": 5}
    chosen = made(matrix, about["cells"]["rte"]["cell"])
    assert files["RTE.tsv"] == output(chosen, "submission/RTE.tsv").read_bytes()
    assert output(submission, "StoryCloze.csv").read_text().startswith("InputStoryid,Answer")
    values = [scores(matrix, CELL.format("rte", lr))["values"]["accuracy"] for lr in (0.001, 0.01)]
    assert about["cells"]["rte"]["dev"] == chosen.summary["accuracy"] == max(values)


def test_sequences_that_do_not_fit_are_refused_or_cut(matrix: Plan, tmp_path: Path) -> None:
    size = made(matrix, "vocabulary").summary["vocabulary"]
    short = random_model(tmp_path / "short", size, {"model": 1}, context=8)
    with pytest.raises(UserError, match=r"sequences of 8 tokens .* 16 to the model's context of 8"):
        tune(matrix, FinetuneSettings(task="rte", batch_size=8), [short], tmp_path / "store")
    shape = {**SHAPE, "context": 48, "epochs": 1, "batch_size": 8, "max_length": 16}
    settings = FinetuneSettings(task="rte", variant="no_pretraining", **shape)
    found = tune(matrix, settings, [], tmp_path / "store")
    assert document(found, "scores.json")["cut"] == {"train": 24, "dev": 24, "test": 5}


def test_published_files_become_a_sample(tmp_path: Path) -> None:
    write_tasks(tmp_path / "data")
    settings = TaskDataSettings(task="rte", source=str(tmp_path / "data"), train_rows=10)
    found = run_stage(settings, [], tmp_path / "store", TaskData.external_files(settings))
    facts = document(found, "task.json")
    assert facts["rows"] == {"train": 10, "dev": 24, "test": 5}
    assert (facts["rows_in_source"]["train"], facts["sample"]) == (24, True)
