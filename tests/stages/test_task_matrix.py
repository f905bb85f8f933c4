"""Published tasks in a matrix: axes, shared encoding, the test set, and what is handed in."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from pipeline.plan import Plan, State
from stages.finetune import FinetuneSettings
from stages.task_data import TaskData, TaskDataSettings
from tests.pipeline.inline import plan_of, run_inline
from tests.stages.runs import Said, document, lines, made, run_stage
from tests.stages.test_finetune import SHAPE, random_model, tune

WORKFLOW = Path(__file__).parent / "matrix_workflow.yaml"
CELL = "finetune[task={},lr={},epochs=1]"


def write_tasks(folder: Path) -> None:
    """RTE, MNLI and Story Cloze as their publishers give them, small."""

    def table(name: str, header: str, rows: list[str], separator: str = "\t") -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join([header.replace(" ", separator), *rows]) + "\n")

    header = "index sentence1 sentence2"
    rows = [f"{n}\tThe wind rose {n} times over the moor.\tIt was calm." for n in range(24)]
    two = [f"{row}\t{'entailment' if n % 3 else 'not_entailment'}" for n, row in enumerate(rows)]
    labels = ("entailment", "neutral", "contradiction")
    three = [f"{row}\t{labels[n % 3]}" for n, row in enumerate(rows)]
    for split in ("train", "dev"):
        table(f"RTE/{split}.tsv", f"{header} label", two)
    table("RTE/test.tsv", header, rows[:5])
    for split in ("train", "dev_matched", "dev_mismatched"):
        table(f"MNLI/{split}.tsv", f"{header} gold_label", three)
    for split, count in (("test_matched", 3), ("test_mismatched", 4)):
        table(f"MNLI/{split}.tsv", header, rows[:count])
    columns = "InputStoryid " + " ".join(f"InputSentence{n}" for n in range(1, 5))
    columns += " RandomFifthSentenceQuiz1 RandomFifthSentenceQuiz2 AnswerRightEnding"
    stories = [f"id{n},One.,Two.,Three.,Four.,Good end.,Bad end.,{1 + n % 2}" for n in range(20)]
    for part in ("val", "test"):
        name = f"cloze_test_{part}__spring2016 - cloze_test_ALL_{part}.csv"
        table(name, columns, stories, separator=",")


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
    plan = plan_matrix(folder)
    run_inline(plan)
    return plan


def scores(plan: Plan, cell: str) -> dict[str, Any]:
    return document(made(plan, cell), "scores.json")


def test_any_setting_is_an_axis_and_an_added_value_makes_what_is_missing(matrix: Plan) -> None:
    names = [cell for cell in matrix.entries if cell.startswith("finetune")]
    assert names[0] == CELL.format("rte", 0.001)
    assert len({made(matrix, name).digest for name in names}) == 6
    more = plan_matrix(matrix.store.root.parent, "finetune.matrix.epochs=[1, 2]").entries
    states = {name: one.state for name, one in more.items() if name.startswith("finetune")}
    assert all((state is State.DONE) == ("epochs=1" in name) for name, state in states.items())
    assert len(states) == 12


def test_encoding_is_done_once_for_a_task_and_changes_no_result(matrix: Plan) -> None:
    ids = made(matrix, "encode[task=rte]")
    assert sorted(ids.files) == ["dev.safetensors", "test.safetensors", "train.safetensors"]
    inputs = [made(matrix, name) for name in ("vocabulary", "task_data[task=rte]")]
    cell = made(matrix, CELL.format("rte", 0.001))
    settings = FinetuneSettings.model_validate(dict(cell.settings))
    without = run_stage(settings, inputs, matrix.store.root)
    assert without.digest == cell.digest


def test_the_test_set_is_predicted_and_scored_where_its_labels_are_public(matrix: Plan) -> None:
    rte, cloze = (CELL.format(task, 0.001) for task in ("rte", "storycloze"))
    found = scores(matrix, rte)
    assert (found["test"], found["train_rows"], found["sample"]) == (None, 24, True)
    assert found["official_rows"]["train"] == 2490
    assert len(made(matrix, rte).path("submission/RTE.tsv").read_text().splitlines()) == 6
    tested, rows = scores(matrix, cloze)["test"], lines(made(matrix, cloze), "test_predictions")
    assert tested["n"] == len(rows) == 20
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert tested["values"]["accuracy"] == pytest.approx(5 * right)
    assert made(matrix, cloze).summary["test_accuracy"] == tested["values"]["accuracy"]


def test_a_submission_is_the_best_cell_of_each_task(matrix: Plan) -> None:
    submission = made(matrix, "submission")
    about = document(submission, "submission.json")
    chosen = about["cells"]["rte"]["cell"]
    with zipfile.ZipFile(submission.path("glue.zip")) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert list(files) == about["in_glue_zip"]
    counts = {name: len(data.splitlines()) - 1 for name, data in files.items()}
    assert counts == {"MNLI-m.tsv": 3, "MNLI-mm.tsv": 4, "RTE.tsv": 5}
    assert files["RTE.tsv"] == made(matrix, chosen).path("submission/RTE.tsv").read_bytes()
    assert submission.path("StoryCloze.csv").read_text().startswith("InputStoryid,Answer")
    values = [scores(matrix, CELL.format("rte", lr))["values"]["accuracy"] for lr in (0.001, 0.01)]
    assert about["cells"]["rte"]["dev"] == max(values)


def test_sequences_that_do_not_fit_are_refused_or_cut(matrix: Plan, tmp_path: Path) -> None:
    size = made(matrix, "vocabulary").summary["vocabulary"]
    short = random_model(tmp_path / "short", size, {"model": 1}, context=8)
    with pytest.raises(UserError, match=r"sequences of 8 ids .* 16 to the model's context of 8"):
        tune(matrix, FinetuneSettings(task="rte", batch=8), [short], tmp_path / "store")
    shape = {**SHAPE, "context": 48, "epochs": 1, "batch": 8, "max_length": 16}
    said, settings = Said(), FinetuneSettings(task="rte", variant="no_pretraining", **shape)
    found = tune(matrix, settings, [], tmp_path / "store", said)
    assert "24 of 24 train examples were cut to 16 ids" in said.lines
    assert document(found, "scores.json")["cut"] == {"train": 24, "dev": 24, "test": 5}


def test_published_files_become_a_sample(tmp_path: Path) -> None:
    write_tasks(tmp_path / "data")
    settings = TaskDataSettings(task="rte", source=str(tmp_path / "data"), train_rows=10)
    files = TaskData.outside(settings)
    assert [file.name for file in files] == ["train/train.tsv", "dev/dev.tsv", "test/test.tsv"]
    assert not TaskData.selects(settings, "clean", None)
    found = run_stage(settings, [], tmp_path / "store", outside=files)
    facts = document(found, "task.json")
    assert facts["rows"] == {"train": 10, "dev": 24, "test": 5}
    assert facts["rows_in_source"]["train"] == 24
    assert (facts["sample"], facts["baseline"]) == (True, pytest.approx(100 * 16 / 24))
