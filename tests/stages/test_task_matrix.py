"""The matrix of fine-tuning: variants choose their model, encoding is shared, the test set is predicted, any setting is an axis."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.train.random_state import generator
from gpt1.weights.store import save_model
from pipeline.context import Job, run_cell
from pipeline.plan import State
from stages.contract import Artifact, OutputFile, Resources, Settings
from stages.finetune import Finetune, FinetuneSettings
from stages.pretrain import PretrainSettings
from stages.task_data import TaskDataSettings
from stages.transfer import Transfer, TransferSettings
from tests.pipeline.inline import plan_of, run_inline
from tests.stages.test_finetune import Said

WORKFLOW = """
stages:
  ingest:
    with: {source: embedded, folders: [brontes], parts: 1}
  clean: {needs: [ingest]}
  split:
    needs: [clean]
    with: {held_out: 0.3, tail: 0.1, seed: 3}
  vocabulary:
    needs: [clean, split]
    with: {merges: 200}
  shard: {needs: [clean, split, vocabulary]}
  pretrain: {needs: [shard, vocabulary]}
  task_data:
    with: {source: SOURCE}
    matrix: {task: [rte, mnli, storycloze]}
  encode:
    needs: [vocabulary, task_data]
    matrix: {task: [rte, mnli, storycloze]}
  finetune:
    needs: [pretrain, vocabulary, task_data, encode]
    with: {variant: no_pretraining, layers: 1, width: 16, heads: 2, context: 48, batch: 8, log_every: 2}
    matrix: {task: [rte, mnli, storycloze], lr: [1.0e-3, 1.0e-2], epochs: [1]}
  submission:
    needs: [finetune]
    with: {variant: no_pretraining}
"""
CLOZE = "cloze_test_{0}__spring2016 - cloze_test_ALL_{0}.csv"


def write_tasks(folder: Path) -> None:
    header = "index\tsentence1\tsentence2"
    (folder / "RTE").mkdir(parents=True)
    rows = [f"{n}\tThe wind rose {n} times over the moor.\tIt was calm." for n in range(24)]
    labelled = [f"{row}\t{'entailment' if n % 3 else 'not_entailment'}" for n, row in enumerate(rows)]
    for split in ("train", "dev"):
        (folder / "RTE" / f"{split}.tsv").write_text("\n".join([header + "\tlabel", *labelled]) + "\n")
    (folder / "RTE" / "test.tsv").write_text("\n".join([header, *rows[:5]]) + "\n")
    (folder / "MNLI").mkdir()
    three = [f"{row}\t{('entailment', 'neutral', 'contradiction')[n % 3]}" for n, row in enumerate(rows)]
    for split in ("train", "dev_matched", "dev_mismatched"):
        (folder / "MNLI" / f"{split}.tsv").write_text("\n".join([header + "\tgold_label", *three]) + "\n")
    for split, count in (("test_matched", 3), ("test_mismatched", 4)):
        (folder / "MNLI" / f"{split}.tsv").write_text("\n".join([header, *rows[:count]]) + "\n")
    columns = "InputStoryid," + ",".join(f"InputSentence{n}" for n in range(1, 5))
    columns += ",RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding"
    stories = [f"id{n},One.,Two.,Three.,Four.,Good end.,Bad end.,{1 + n % 2}" for n in range(20)]
    for part in ("val", "test"):
        (folder / CLOZE.format(part)).write_text("\n".join([columns, *stories]) + "\n")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("matrix")
    write_tasks(folder / "data")
    file = folder / "workflow.yaml"
    file.write_text(WORKFLOW.replace("SOURCE", str(folder / "data")))
    plan = plan_of(file, folder / "store")
    for cell in ("shard", "pretrain"):  # the variant without pre-training needs neither
        plan.entries[cell].run = False
    run_inline(plan)
    return file, folder / "store", plan


def made(plan: Any, cell: str) -> Artifact:
    entry = plan.entries[cell]
    found = plan.store.artifact(entry.cell.uses, entry.fingerprint)
    assert found is not None, cell
    return found


def scores(plan: Any, cell: str) -> dict[str, Any]:
    return json.loads(made(plan, cell).path("scores.json").read_text())


def test_any_setting_is_an_axis_and_an_added_value_makes_only_what_is_missing(matrix: Any) -> None:
    file, store, plan = matrix
    names = [cell for cell in plan.entries if cell.startswith("finetune")]
    assert names[0] == "finetune[task=rte,lr=0.001,epochs=1]"
    assert len({made(plan, name).digest for name in names}) == 6
    text = file.read_text().replace("epochs: [1]", "epochs: [1, 2]")
    file.with_name("more.yaml").write_text(text)
    again = plan_of(file.with_name("more.yaml"), store)
    states = {name: entry.state for name, entry in again.entries.items() if name.startswith("finetune")}
    assert all((state is State.DONE) == ("epochs=1" in name) for name, state in states.items())
    assert len(states) == 12


def test_encoding_is_done_once_for_a_task_and_changes_no_result(matrix: Any) -> None:
    file, store, plan = matrix
    ids = made(plan, "encode[task=rte]")
    assert sorted(ids.files) == ["dev.safetensors", "test.safetensors", "train.safetensors"]
    assert ids.summary["train_ids"] > 0
    without = file.with_name("without.yaml")
    text = file.read_text()
    start, end = text.index("  encode:"), text.index("  finetune:")
    without.write_text((text[:start] + text[end:]).replace(", encode]", "]").replace("[1.0e-3, 1.0e-2]", "[1.0e-3]"))
    other = plan_of(without, store)
    for cell in ("shard", "pretrain"):
        other.entries[cell].run = False
    run_inline(other)
    cell = "finetune[task=rte,lr=0.001,epochs=1]"
    assert made(other, cell).fingerprint != made(plan, cell).fingerprint
    assert made(other, cell).digest == made(plan, cell).digest


def test_the_test_set_is_predicted_and_scored_where_its_labels_are_public(matrix: Any) -> None:
    _, _, plan = matrix
    rte, cloze = (f"finetune[task={task},lr=0.001,epochs=1]" for task in ("rte", "storycloze"))
    assert scores(plan, rte)["test"] is None
    assert len(made(plan, rte).path("submission/RTE.tsv").read_text().splitlines()) == 6
    tested = scores(plan, cloze)["test"]
    rows = [json.loads(line) for line in made(plan, cloze).path("test_predictions.jsonl").read_text().splitlines()]
    assert tested["n"] == len(rows) == 20
    assert tested["values"]["accuracy"] == pytest.approx(5 * sum(row["label"] == row["prediction"] for row in rows))
    assert made(plan, cloze).summary["test_accuracy"] == tested["values"]["accuracy"]
    assert scores(plan, rte)["train_rows"] == 24
    assert scores(plan, rte)["official_rows"]["train"] == 2490
    assert scores(plan, rte)["sample"]


def test_a_submission_is_the_best_cell_of_each_task(matrix: Any) -> None:
    _, _, plan = matrix
    handed = made(plan, "submission")
    about = json.loads(handed.path("submission.json").read_text())
    with zipfile.ZipFile(handed.path("glue.zip")) as archive:
        assert archive.namelist() == about["in_glue_zip"] == ["MNLI-m.tsv", "MNLI-mm.tsv", "RTE.tsv"]
        counts = {name: len(archive.read(name).splitlines()) - 1 for name in archive.namelist()}
        chosen = about["cells"]["rte"]["cell"]
        assert archive.read("RTE.tsv") == made(plan, chosen).path("submission/RTE.tsv").read_bytes()
    assert counts == {"MNLI-m.tsv": 3, "MNLI-mm.tsv": 4, "RTE.tsv": 5}
    assert "CoLA.tsv" in about["missing_from_glue_zip"]
    assert handed.path("StoryCloze.csv").read_text().startswith("InputStoryid,AnswerRightEnding\nid0,")
    other = f"finetune[task=rte,lr={0.01 if '0.001' in chosen else 0.001},epochs=1]"
    assert scores(plan, other)["values"]["accuracy"] <= about["cells"]["rte"]["dev"]


class Pretrain(Settings):
    """Upstream settings with a kind of model, as a matrix over `model` gives."""

    model: str
    context: int = 64
    layers: int = 2


def test_each_variant_takes_its_own_model() -> None:
    models = [Pretrain(model="gpt"), Pretrain(model="lstm")]

    def chosen(variant: Any) -> list[str]:
        settings = FinetuneSettings(task="rte", variant=variant)
        return [model.model for model in models if Finetune.wants_input(settings, "pretrain", model)]

    assert {variant: chosen(variant) for variant in ("full", "no_auxiliary_lm", "lstm", "no_pretraining")} == {
        "full": ["gpt"], "no_auxiliary_lm": ["gpt"], "lstm": ["lstm"], "no_pretraining": [],
    }  # fmt: skip
    assert [m.model for m in models if Transfer.wants_input(TransferSettings(task="rte", transferred=0), "pretrain", m)] == ["gpt"]
    assert Finetune.wants_input(FinetuneSettings(task="rte"), "pretrain", SimpleNamespace())


def test_a_missing_model_and_several_are_refused() -> None:
    data = {"task_data": [TaskDataSettings(task="demo_choice")]}
    with pytest.raises(UserError, match="variant lstm needs a pretrain cell with `model: lstm`"):
        Finetune.check(FinetuneSettings(task="demo_choice", variant="lstm"), data)
    two = {**data, "pretrain": [PretrainSettings(), PretrainSettings(seed=2)]}
    with pytest.raises(UserError, match="2 pretrain cells fit task 'demo_choice'; one was expected"):
        Finetune.check(FinetuneSettings(task="demo_choice"), two)


def tune(plan: Any, settings: FinetuneSettings, model: list[Artifact], fingerprint: str) -> tuple[Artifact, Said]:
    said = Said()
    inputs = (*model, made(plan, "vocabulary"), made(plan, "task_data[task=rte]"))
    values = settings.model_dump(mode="json")
    run_cell(Job(plan.store, "finetune", "finetune", fingerprint, {}, values, inputs, (), Resources(), cluster=False), said)
    found = plan.store.artifact("finetune", fingerprint)
    assert found is not None
    return found, said


def test_a_model_too_short_for_any_text_is_refused(matrix: Any, tmp_path: Path) -> None:
    _, _, plan = matrix
    size = made(plan, "vocabulary").summary["vocabulary"]
    gpt = GPT(ModelConfig(vocabulary=size, layers=1, width=16, heads=2, context=8), generator("w", 1))
    path = save_model(tmp_path / "model.safetensors", gpt)
    files = {"model.safetensors": OutputFile("model.safetensors", path, 1, "0" * 64)}
    model = Artifact("pretrain", "pretrain", "0" * 32, "0" * 64, {"steps": 1}, {}, files)
    with pytest.raises(UserError, match="sequences of 8 ids do not fit: expected 16 to the model's context of 8"):
        tune(plan, FinetuneSettings(task="rte", batch=8), [model], "3" * 32)


def test_examples_longer_than_the_context_are_cut_said_and_counted(matrix: Any) -> None:
    _, _, plan = matrix
    shape = {"layers": 1, "width": 16, "heads": 2, "context": 48, "epochs": 1, "batch": 8, "max_length": 16}
    found, said = tune(plan, FinetuneSettings(task="rte", variant="no_pretraining", **shape), [], "4" * 32)
    assert "24 of 24 train examples were cut to 16 ids" in said.lines
    assert json.loads(found.path("scores.json").read_text())["cut"] == {"train": 24, "dev": 24, "test": 5}
