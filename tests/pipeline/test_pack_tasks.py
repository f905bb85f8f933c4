"""`gpt1 pack` with tasks: a folder's fine-tuning gives the stage's scores with few packages."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.example import read_examples
from gpt1.tasks.files import sample
from gpt1.tasks.finetune_packed import append_result, main, read_jobs, read_results, run_packed
from gpt1.tasks.pieces import load_pieces, select_pieces
from gpt1.train.random_state import generator
from gpt1.weights.store import save_model
from pipeline.commands.pack import pack
from pipeline.context import Job, run_cell
from pipeline.plan import Plan, Selection
from pipeline.store import Store
from stages.contract import Artifact, OutputFile, Resources
from tests.gpt1.test_train_alone import FEW, run_with
from tests.pipeline.inline import plan_of, run_inline
from tests.stages.test_finetune import Said, made
from tests.stages.test_task_matrix import write_tasks

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
  pretrain:
    needs: [shard, vocabulary]
    with: {layers: 1, width: 16, heads: 2, context: 48, units: 16}
    matrix: {model: [gpt, lstm]}
  task_data:
    with: {source: SOURCE}
    matrix: {task: [rte, mnli, storycloze]}
  encode:
    needs: [vocabulary, task_data]
    matrix: {task: [rte, mnli, storycloze]}
  finetune:
    needs: [pretrain, vocabulary, task_data, encode]
    with:
      {layers: 1, width: 16, heads: 2, context: 48, batch: 8, lr: 1.0e-2, epochs: 2, log_every: 2}
    matrix:
      task: [rte, storycloze]
      variant: [full, no_auxiliary_lm, no_pretraining, lstm]
    resources: {cpus: 1}
"""
CELL = "pretrain[model=gpt]"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A workflow of which all is made that a folder takes, and its plan."""
    folder = tmp_path_factory.mktemp("work")
    write_tasks(folder / "data")
    file = folder / "workflow.yaml"
    file.write_text(WORKFLOW.replace("SOURCE", str(folder / "data")))
    plan = plan_of(file, folder / "store", selection=Selection(stages=("shard", "encode")))
    run_inline(plan)
    return file, plan


@pytest.fixture(scope="module")
def packed(work: tuple[Path, Plan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after its pre-training, which is a random model here."""
    file, plan = work
    folder = tmp_path_factory.mktemp("packed") / "here"
    pack(folder, CELL, file=file, store=str(file.parent / "store"))
    size = made(plan, "vocabulary").summary["vocabulary"]
    shape = ModelConfig(vocabulary=size, context=48, width=16, layers=1, heads=2, init_std=0.1)
    save_model(folder / "output", GPT(shape, generator("weights", 3)))
    return folder


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """A copy of one's own, in another place."""
    return Path(shutil.copytree(packed, tmp_path / "there"))


def finetune(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str | Path) -> int:
    """The exit status of the command in this process."""
    first = ("finetune", "--config", folder / "finetune.json", "--device", "cpu")
    monkeypatch.setattr("sys.argv", [str(word) for word in (*first, *words)])
    return main()


def scores_of_stage(plan: Plan, folder: Path, cell: str, store: Path) -> dict[str, Any]:
    """scores.json of a cell, from the model of `folder`."""
    job = plan.entries[cell].cell
    task = job.settings.model_dump()["task"]
    model = OutputFile("model.safetensors", folder / "output" / "model.safetensors", 1, "0" * 64)
    inputs = (
        Artifact("pretrain", "pretrain", "0" * 32, "0" * 64, {}, {}, {model.name: model}),
        *(made(plan, name) for name in ("vocabulary", f"task_data[task={task}]", f"encode[task={task}]")),
    )
    target, values = Store.at(store), job.settings.model_dump(mode="json")
    wanted = Job(target, "finetune", cell, "1" * 32, {}, values, inputs, (), Resources(), cluster=False)
    run_cell(wanted, Said())
    found = target.artifact("finetune", "1" * 32)
    assert found is not None
    return json.loads(found.path("scores.json").read_text())


def test_the_files_of_a_folder(packed: Path) -> None:
    files = sorted(str(path.relative_to(packed)) for path in (packed / "tasks").rglob("*.*"))
    splits = {"rte": ("dev", "train"), "storycloze": ("dev", "test", "train")}
    assert files == sorted(
        f"tasks/{task}/{name}"
        for task in splits
        for name in (
            "task.json",
            *(f"{s}.{e}" for s in splits[task] for e in ("jsonl", "safetensors")),
        )
    )
    assert [job.id for job in read_jobs(packed / "finetune.json")] == [
        f"finetune[task={task},variant={variant}]" for task in splits for variant in ("full", "no_auxiliary_lm", "no_pretraining")
    ]


def test_the_scores_are_the_stages_with_few_packages(work: tuple[Path, Plan], folder: Path, tmp_path: Path) -> None:
    words = ("gpt1.tasks.finetune_packed", "--config", folder / "finetune.json", "--threads", "1")
    done = run_with(FEW, *words, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_results(folder)
    assert len(rows) == 6
    for number, row in enumerate(rows):
        scores = scores_of_stage(work[1], folder, row["job"], tmp_path / str(number))
        for key in (
            "metric",
            "values",
            "baseline",
            "standard_error",
            "n",
            "best_epoch",
            "train_rows",
            "test",
        ):
            assert row[key] == scores[key], (row["job"], key)
        assert row["cut"] == {split: scores["cut"][split] for split in row["cut"]}
        assert (row["test"] is None) == (row["task"] == "rte")
        assert f"{row['metric']} {row['values'][row['metric']]:.1f} (" in done.stdout
    used = [(row["train_rows"], row["max_length"], row["precision"], row["device"]) for row in rows]
    assert set(used) == {(24, 48, "fp32", "cpu"), (16, 48, "fp32", "cpu")}


def test_the_same_command_goes_on_after_a_kill(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = folder / "output" / "finetune.jsonl"
    assert finetune(monkeypatch, folder, "--task", "rte") == 0
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed while it wrote the third
    capsys.readouterr()
    assert finetune(monkeypatch, folder, "--task", "rte") == 0
    printed = capsys.readouterr().out.splitlines()
    already = "in output/finetune.jsonl already, with the same settings"
    assert printed[:2] == [f"rte seed 1: {already}", f"rte seed 1 no_auxiliary_lm: {already}"]
    assert printed[2].startswith("rte seed 1 no_pretraining: accuracy ")

    def without_time(content: bytes) -> dict[str, Any]:
        return {**json.loads(content), "seconds": 0}

    again = results.read_bytes().splitlines(keepends=True)
    assert again[:2] == lines[:2]
    assert without_time(again[2]) == without_time(lines[2])

    # Other settings and another model are other results.
    choice = ("--task", "rte", "--variant", "full", "--variant", "no_pretraining", "--seed", "1")
    assert finetune(monkeypatch, folder, *choice, "--max-length", "20", "--precision", "bf16") == 0
    save_model(
        folder / "output",
        GPT(ModelConfig(**json.loads((folder / "output" / "config.json").read_text()))),
    )
    assert finetune(monkeypatch, folder, *choice) == 0
    rows = read_results(folder)
    shapes = [(row["variant"], row["max_length"], row["precision"]) for row in rows[3:]]
    assert shapes == [("full", 20, "bf16"), ("no_pretraining", 20, "bf16"), ("full", 48, "fp32")]


def test_fewer_rows_are_those_of_task_data(packed: Path) -> None:
    job = read_jobs(packed / "finetune.json")[0]
    data = packed / "tasks" / "rte"
    examples = list(read_examples(data / "train.jsonl"))
    pieces = load_pieces(data / "train.safetensors", examples)
    assert len({example.texts for example in examples}) > 10
    drawn = sample(examples, 10, 1, "train")
    some = select_pieces(pieces, examples, [examples.index(example) for example in drawn])
    ids = {example.id: [pieces.piece(2 * n), pieces.piece(2 * n + 1)] for n, example in enumerate(examples)}
    assert [[some.piece(2 * n), some.piece(2 * n + 1)] for n in range(10)] == [ids[example.id] for example in drawn]
    row = run_packed(packed, job, packed / "output", torch.device("cpu"), rows=10, reporter=Said())
    assert (row["train_rows"], row["train_rows_in_source"], row["settings"]["rows"]) == (10, 24, 10)


def test_a_script_may_run_a_job_by_itself(folder: Path) -> None:
    job = read_jobs(folder / "finetune.json")[2]
    (folder / "output" / "model.safetensors").unlink()  # no_pretraining needs none
    row = run_packed(folder, job, folder / "output", torch.device("cpu"), reporter=Said())
    append_result(folder / "output" / "finetune.jsonl", row)
    assert read_results(folder) == [row]
    with pytest.raises(UserError, match="4 training examples do not fill one batch of 8"):
        run_packed(folder, job, folder / "output", torch.device("cpu"), rows=4, reporter=Said())
    ids = folder / "tasks" / "rte" / "dev.safetensors"
    ids.write_bytes(ids.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"dev.safetensors: no ids of a task"):
        run_packed(folder, job, folder / "output", torch.device("cpu"), reporter=Said())
    (folder / "tasks" / "rte" / "dev.jsonl").unlink()
    with pytest.raises(UserError, match=r"dev.jsonl: no such file; pack rte again"):
        run_packed(folder, job, folder / "output", torch.device("cpu"), reporter=Said())


def test_what_cannot_be_is_one_line_and_status_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*words: str | Path) -> str:
        assert finetune(monkeypatch, folder, *words) == 2
        found = capsys.readouterr()
        assert found.out == ""
        return found.err

    assert "--task mnli: no job has it; " in error("--task", "mnli")
    assert "finetune.json has: rte, storycloze" in error("--task", "mnli")
    assert "--seed 9: no job has it" in error("--seed", "9")
    assert "sequences of 49 ids do not fit: expected 16 to" in error("--max-length", "49")
    if not torch.cuda.is_available():
        assert "torch finds no GPU" in error("--device", "cuda")
    other = save_model(folder / "other", GPT(ModelConfig(vocabulary=99, context=48, width=16, layers=1, heads=2)))
    assert "the model has 99 vocabulary rows" in error("--model", other)
    (folder / "output" / "model.safetensors").unlink()
    assert "model.safetensors: no such file, and finetune[task=rte,variant=full] starts from" in error()
    (folder / "output" / "finetune.jsonl").write_text("{\n")
    assert "a line is not JSON" in error("--variant", "no_pretraining")
    (folder / "finetune.json").write_text('{"jobs": [{"id": 1}]}')
    assert "not the jobs of a packed folder" in error()
    (folder / "finetune.json").unlink()
    assert "no such file; expected the finetune.json" in error()


def test_a_job_comes_back_as_it_was(packed: Path) -> None:
    for job in read_jobs(packed / "finetune.json"):
        assert type(job).from_dict(json.loads(json.dumps(job.to_dict()))) == job
        assert (job.shape is None) == job.pretrained
        assert job.training == (replace(job.config, lm_weight=0.0) if "lm" in job.variant else job.config)


def test_tasks_may_be_left_out_and_asked_for(work: tuple[Path, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = work
    store = str(file.parent / "store")
    pack(tmp_path / "with", CELL, file=file, store=store, tasks=True)
    assert "python -m gpt1.tasks.finetune_packed --config with/finetune.json" in capsys.readouterr().out
    pack(tmp_path / "without", CELL, file=file, store=store, tasks=False)
    assert "finetune" not in capsys.readouterr().out
    assert not (tmp_path / "without" / "finetune.json").exists()
    assert not (tmp_path / "without" / "tasks").exists()

    more = file.with_name("more.yaml")  # its ids of MNLI are made, those of QNLI are not
    (file.parent / "data" / "QNLI").mkdir()
    for split in ("train", "dev"):
        shutil.copy(
            file.parent / "data" / "RTE" / f"{split}.tsv",
            file.parent / "data" / "QNLI" / f"{split}.tsv",
        )
    text = file.read_text().replace("[rte, mnli, storycloze]", "[rte, mnli, storycloze, qnli]")
    more.write_text(text.replace("task: [rte, storycloze]", "task: [mnli, qnli]"))
    with pytest.raises(UserError, match=r"encode\[task=qnli\] is not made yet.*run `gpt1 run encode"):
        pack(tmp_path / "more", CELL, file=more, store=store, tasks=True)
    pack(tmp_path / "more", CELL, file=more, store=store)
    assert [path.name for path in (tmp_path / "more" / "tasks").iterdir()] == ["mnli"]

    bare = file.with_name("bare.yaml")
    bare.write_text(file.read_text()[: file.read_text().index("  finetune:")])
    with pytest.raises(UserError, match=r"no finetune cell starts from pretrain\[model=gpt\]"):
        pack(tmp_path / "bare", CELL, file=bare, store=store, tasks=True)
    pack(tmp_path / "bare", CELL, file=bare, store=store)
    assert not (tmp_path / "bare" / "finetune.json").exists()
