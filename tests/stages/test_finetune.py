"""task_data, finetune, transfer and zero_shot run as stages, in this process, on books and a small random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.example import read_examples
from gpt1.train.random_state import generator
from gpt1.weights.store import load_model, save_model
from pipeline.context import Job, run_cell
from pipeline.plan import Plan
from pipeline.store import Store
from stages.contract import Artifact, OutputFile, Resources
from stages.finetune import Finetune, FinetuneSettings
from stages.pretrain import PretrainSettings
from stages.task_data import TaskData, TaskDataSettings
from stages.transfer import Transfer, TransferSettings
from stages.zero_shot import ZeroShotSettings
from tests.pipeline.inline import plan_of, run_inline

WORKFLOW = Path(__file__).parent / "task_workflow.yaml"
SMALL = {"epochs": 2, "batch": 16, "lr": 1e-3, "log_every": 2}
SHAPE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2, "context": 64}


class Said:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.points: list[tuple[int, dict[str, float]]] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        pass

    def log(self, step: int, values: Any) -> None:
        self.points.append((step, dict(values)))


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    plan = plan_of(WORKFLOW, tmp_path_factory.mktemp("store"))
    run_inline(plan)
    return plan


def made(plan: Plan, cell: str) -> Artifact:
    entry = plan.entries[cell]
    found = plan.store.artifact(entry.cell.uses, entry.fingerprint)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def pretrained(books: Plan, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What pretrain leaves: a final model and two snapshots, here of random weights."""
    folder = tmp_path_factory.mktemp("pretrain")
    config = ModelConfig(vocabulary=made(books, "vocabulary").summary["vocabulary"], dropout=0.1, init_std=0.1, **SHAPE)
    for name, seed in (("model", 3), ("snapshots/step-00000010", 1), ("snapshots/step-00000020", 2)):
        save_model(folder / f"{name}.safetensors", GPT(config, generator("weights", seed)))
    names = ["model.safetensors", "snapshots/step-00000010.safetensors", "snapshots/step-00000020.safetensors"]
    files = {name: OutputFile(name, folder / name, (folder / name).stat().st_size, "0" * 64) for name in names}
    return Artifact("pretrain", "pretrain", "0" * 32, "0" * 64, {"steps": 30}, {}, files)


def run(
    books: Plan,
    kind: str,
    settings: Any,
    inputs: list[Artifact],
    store: Path,
    said: Said | None = None,
    fingerprint: str = "1" * 32,
) -> Artifact:
    target = Store.at(store)
    values = settings.model_dump(mode="json")
    all_inputs = (*inputs, made(books, "vocabulary"), made(books, f"task_data[task={settings.task}]"))
    run_cell(Job(target, kind, kind, fingerprint, {}, values, all_inputs, (), Resources(), cluster=False), said or Said())
    found = target.artifact(kind, fingerprint)
    assert found is not None
    return found


def lines(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.path(name).read_text().splitlines()]


@pytest.mark.parametrize("task", ["demo_choice", "demo_entailment", "demo_similarity", "demo_author"])
def test_task_data_of_real_books(task: str, books: Plan) -> None:
    data = made(books, f"task_data[task={task}]")
    facts = json.loads(data.path("task.json").read_text())
    train, dev = (list(read_examples(data.path(f"{split}.jsonl"))) for split in ("train", "dev"))
    assert facts["rows"] == {"train": len(train), "dev": len(dev)}
    assert len(train) >= 50
    assert len(dev) >= 32
    assert not facts["sample"]
    assert {example.group for example in dev} <= {"held_out", "tail"}
    if task == "demo_author":
        assert {"Anton Chekhov", "Fyodor Dostoevsky"} <= set(facts["labels"])


@pytest.mark.parametrize("task", ["demo_choice", "demo_entailment", "demo_similarity", "demo_author"])
def test_every_kind_is_fine_tuned(task: str, books: Plan, pretrained: Artifact, tmp_path: Path) -> None:
    said = Said()
    settings = FinetuneSettings(task=task, keep_model=True, **SMALL)
    found = run(books, "finetune", settings, [pretrained], tmp_path, said)
    scores = json.loads(found.path("scores.json").read_text())
    predictions = lines(found, "predictions.jsonl")
    right = sum(row["label"] == row["prediction"] for row in predictions)
    assert scores["values"]["accuracy"] == pytest.approx(100 * right / len(predictions))
    assert scores["n"] == len(predictions) == len(list(read_examples(made(books, f"task_data[task={task}]").path("dev.jsonl"))))
    assert found.summary["accuracy"] == scores["values"]["accuracy"]
    assert said.lines[-1].startswith(f"{task} seed 1: accuracy {scores['values']['accuracy']:.1f} (")
    assert [row for row in lines(found, "metrics.jsonl") if "dev_accuracy" in row]
    assert load_model(found.path("model.safetensors")).config.special_tokens == 3
    assert found.path("head.safetensors").stat().st_size > 0


def test_two_runs_give_the_same_bytes(books: Plan, pretrained: Artifact, tmp_path: Path) -> None:
    settings = FinetuneSettings(task="demo_entailment", keep_model=True, **SMALL)
    first, second = (run(books, "finetune", settings, [pretrained], tmp_path / name) for name in ("one", "two"))
    assert first.digest == second.digest
    assert first.summary == second.summary
    without = run(books, "finetune", settings.model_copy(update={"keep_model": False}), [pretrained], tmp_path / "three")
    weights = {"model.safetensors", "config.json", "head.safetensors", "head.json"}
    assert {name: file.sha256 for name, file in without.files.items()} == {
        name: file.sha256 for name, file in first.files.items() if name not in weights
    }


def test_variants_differ_and_no_pretraining_needs_no_model(books: Plan, pretrained: Artifact, tmp_path: Path) -> None:
    full = run(books, "finetune", FinetuneSettings(task="demo_choice", **SMALL), [pretrained], tmp_path / "full")
    without = FinetuneSettings(task="demo_choice", variant="no_auxiliary_lm", **SMALL)
    plain = run(books, "finetune", without, [pretrained], tmp_path / "plain")
    assert all(row["lm_loss"] == 0 for row in lines(plain, "metrics.jsonl") if "loss" in row)
    assert all(row["lm_loss"] > 0 for row in lines(full, "metrics.jsonl") if "loss" in row)
    random = FinetuneSettings(task="demo_choice", variant="no_pretraining", **SMALL, **SHAPE)
    assert not Finetune.wants_input(random, "pretrain", None)
    assert run(books, "finetune", random, [], tmp_path / "random").digest != full.digest


def test_transfer_scores_dev_and_train(books: Plan, pretrained: Artifact, tmp_path: Path) -> None:
    digests = set()
    for blocks in (0, 1, 2):
        said = Said()
        settings = TransferSettings(task="demo_author", transferred=blocks, **SMALL)
        found = run(books, "transfer", settings, [pretrained], tmp_path / str(blocks), said)
        scores = json.loads(found.path("scores.json").read_text())
        assert (scores["transferred"], scores["layers"]) == (blocks, 2)
        assert 0 <= scores["train_accuracy"] <= 100
        assert f"with {blocks} of 2 layers transferred" in said.lines[-1]
        digests.add(found.digest)
    assert len(digests) == 3
    # all blocks transferred is fine-tuning as usual
    usual = run(books, "finetune", FinetuneSettings(task="demo_author", **SMALL), [pretrained], tmp_path / "usual")
    assert lines(usual, "predictions.jsonl") == lines(found, "predictions.jsonl")


def test_zero_shot_over_the_snapshots(books: Plan, pretrained: Artifact, tmp_path: Path) -> None:
    said = Said()
    found = run(books, "zero_shot", ZeroShotSettings(task="demo_choice", rows=30), [pretrained], tmp_path, said)
    curve = lines(found, "curve.jsonl")
    assert [row["step"] for row in curve] == [10, 20, 30] == [step for step, _ in said.points]
    scores = json.loads(found.path("scores.json").read_text())
    assert scores["values"]["accuracy"] == curve[-1]["accuracy"]
    assert scores["normalised"] == pytest.approx((curve[-1]["accuracy"] - 50) / 50)
    assert scores["n"] == 30
    assert scores["sample"]


def test_another_vocabulary_is_refused(books: Plan, tmp_path: Path) -> None:
    path = save_model(tmp_path / "model.safetensors", GPT(ModelConfig(vocabulary=99, **SHAPE)))
    files = {"model.safetensors": OutputFile("model.safetensors", path, 1, "0" * 64)}
    other = Artifact("pretrain", "pretrain", "0" * 32, "0" * 64, {"steps": 1}, {}, files)
    with pytest.raises(UserError, match="the model has 99 vocabulary rows"):
        run(books, "finetune", FinetuneSettings(task="demo_choice", **SMALL), [other], tmp_path / "store")


def upstream(**model: Any) -> dict[str, list[Any]]:
    return {"pretrain": [PretrainSettings(**model)], "task_data": [TaskDataSettings(task="demo_choice")]}


def test_checks_before_anything_starts() -> None:
    with pytest.raises(UserError, match="max_length 128 is longer than the model's context of 64"):
        Finetune.check(FinetuneSettings(task="demo_choice", max_length=128), upstream(context=64))
    with pytest.raises(UserError, match="no task_data cell makes task 'rte'"):
        Finetune.check(FinetuneSettings(task="rte"), {"pretrain": upstream()["pretrain"]})
    with pytest.raises(UserError, match="set layers, width, heads, context"):
        Finetune.check(FinetuneSettings(task="demo_choice", variant="no_pretraining"), upstream())
    shape = {**SHAPE, "width": 30, "heads": 4}
    with pytest.raises(UserError, match="width 30 is not divisible by heads 4"):
        Finetune.check(FinetuneSettings(task="demo_choice", variant="no_pretraining", **shape), upstream())
    with pytest.raises(UserError, match="transferred is 5, the pre-trained model has 4 layers"):
        Transfer.check(TransferSettings(task="demo_choice", transferred=5), upstream(layers=4))
    with pytest.raises(UserError, match="made from the books: add a clean stage"):
        TaskData.check(TaskDataSettings(task="demo_choice"), {})
    with pytest.raises(UserError, match="is no folder"):
        TaskData.external_files(TaskDataSettings(task="rte", source="no/such/folder"))


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (FinetuneSettings, {"task": "mnly"}, "did you mean 'mnli'"),
        (FinetuneSettings, {"task": "dprd"}, "scored zero-shot only"),
        (FinetuneSettings, {"task": "rte", "batch": 32, "accumulation": 5}, "cannot be cut in accumulation 5"),
        (FinetuneSettings, {"task": "rte", "lr": -1}, "greater than 0"),
        (ZeroShotSettings, {"task": "rte"}, "is not scored zero-shot; these are: cola"),
        (TaskDataSettings, {"task": "rte"}, "needs `source`"),
        (TaskDataSettings, {"task": "demo"}, "unknown task 'demo'"),
    ],
)
def test_bad_settings(model: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**values)


def test_published_files_become_a_sample(tmp_path: Path) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    rows = "".join(f"{n}\tA {n}.\tB.\t{'entailment' if n % 3 else 'not_entailment'}\n" for n in range(30))
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + rows)
    settings = TaskDataSettings(task="rte", source=str(tmp_path), train_rows=10)
    files = TaskData.external_files(settings)
    assert [file.name for file in files] == ["train/train.tsv", "dev/dev.tsv"]
    store, said = Store.at(tmp_path / "store"), Said()
    job = Job(store, "task_data", "task_data", "2" * 32, {}, settings.model_dump(mode="json"), (), tuple(files), Resources())
    run_cell(job, said)
    found = store.artifact("task_data", "2" * 32)
    assert found is not None
    facts = json.loads(found.path("task.json").read_text())
    assert facts["rows"] == {"train": 10, "dev": 30}
    assert facts["rows_in_source"] == {"train": 30, "dev": 30}
    assert facts["sample"]
    assert facts["baseline"] == pytest.approx(100 * 20 / 30)
    assert said.lines == ["rte: 10 train, 30 dev examples (a sample); majority 66.7"]
    assert not TaskData.wants_input(settings, "clean", None)
