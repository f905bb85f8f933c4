"""`gpt1 pack` with tasks: a folder's fine-tuning gives the stage's scores with few packages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.finetune_packed import main, read_results
from gpt1.weights.store import save_model
from pipeline.plan import Selection
from tests.e2e.workflow import MINI
from tests.gpt1.test_train_alone import FEW, run_with
from tests.pipeline.inline import artifact, plan_of, run_inline
from tests.pipeline.inprocess import Ended, gpt1

pytestmark = pytest.mark.slow
TASKS, VARIANTS = ("rte", "storycloze"), ("full", "no_auxiliary_lm", "no_pretraining")
ROWS = [f"{n}\tWind {n}.\tCalm.\t{'' if n % 3 else 'not_'}entailment" for n in range(24)]
STORIES = [f"id{n},One.,Two.,Three.,Four.,Good end.,Bad end.,{1 + n % 2}" for n in range(20)]
FINETUNE = {
    "layers": 1, "width": 16, "heads": 2, "context": 32, "batch": 8, "lr": 0.01, "epochs": 2,
}  # fmt: skip


def write_tasks(folder: Path) -> None:
    for name in ("RTE", "QNLI"):
        (folder / name).mkdir(parents=True)
        for split in ("train", "dev"):
            header = "index\tsentence1\tsentence2\tlabel"
            (folder / name / f"{split}.tsv").write_text("\n".join([header, *ROWS, ""]))
    columns = ["InputStoryid", *(f"InputSentence{n}" for n in range(1, 5))]
    columns += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    for part in ("val", "test"):
        file = folder / f"cloze_test_{part}__spring2016 - cloze_test_ALL_{part}.csv"
        file.write_text("\n".join([",".join(columns), *STORIES, ""]))


def write_workflow(file: Path, tasks: Sequence[str], variants: Sequence[str] = VARIANTS) -> Path:
    """The small workflow, with these tasks and their encoded ids."""
    document = yaml.safe_load(MINI.read_text())
    stages = {name: document["stages"][name] for name in list(document["stages"])[:7]}
    every = {"matrix": {"task": list(tasks)}}
    stages["task_data"] = {"with": {"source": str(file.parent / "data")}, **every}
    stages["encode"] = {"needs": ["vocabulary", "task_data"], **every}
    if variants:
        needs = ["pretrain", "vocabulary", "task_data", "encode"]
        matrix = {"task": list(tasks), "variant": list(variants)}
        stages["finetune"] = {"needs": needs, "with": FINETUNE, "matrix": matrix}
    file.write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def work(golden_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a workflow, and of a store in which all is made that `pack` takes."""
    folder = tmp_path_factory.mktemp("work")
    write_tasks(folder / "data")
    shutil.copytree(golden_run, folder / "store")
    file = write_workflow(folder / "workflow.yaml", TASKS)
    run_inline(plan_of(file, folder / "store", selection=Selection(("encode",))))
    return folder


def pack(work: Path, to: Path, *words: object, file: str = "workflow.yaml") -> Ended:
    return gpt1("pack", to, "--file", work / file, "--store", work / "store", *words)


@pytest.fixture(scope="module")
def packed(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed folder after its pre-training, here that of the store."""
    folder = tmp_path_factory.mktemp("packed") / "here"
    assert pack(work, folder).status == 0
    pretrain = artifact(plan_of(work / "workflow.yaml", work / "store"), "pretrain")
    for name in ("model.safetensors", "config.json"):
        shutil.copy(pretrain.path(name), folder / "output" / name)
    return folder


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """A copy of one's own, in another place."""
    return Path(shutil.copytree(packed, tmp_path / "there"))


def finetune(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: object) -> int:
    """The exit status of the command in this process."""
    first = ("finetune", "--config", folder / "finetune.json", "--device", "cpu")
    monkeypatch.setattr("sys.argv", [str(word) for word in (*first, *words)])
    return main()


def test_the_scores_are_the_stages_with_few_packages(work: Path, folder: Path) -> None:
    words = ("gpt1.tasks.finetune_packed", "--config", folder / "finetune.json", "--threads", "1")
    done = run_with(FEW, *words, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = plan_of(work / "workflow.yaml", work / "store")
    run_inline(plan)
    rows = read_results(folder)
    jobs = [f"finetune[task={task},variant={variant}]" for task in TASKS for variant in VARIANTS]
    assert [row["job"] for row in rows] == jobs
    same = {
        "metric", "values", "baseline", "standard_error", "n", "best_epoch", "train_rows", "test",
    }
    for row in rows:
        scores = json.loads(artifact(plan, row["job"]).path("scores.json").read_text())
        assert {key: row[key] for key in same} == {key: scores[key] for key in same}, row["job"]
        assert row["cut"] == {split: scores["cut"][split] for split in row["cut"]}
        assert (row["test"] is None) == (row["task"] == "rte")
        assert f"{row['metric']} {row['values'][row['metric']]:.1f} (" in done.stdout


def test_the_same_command_after_a_kill_makes_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = folder / "output" / "finetune.jsonl"
    assert finetune(monkeypatch, folder, "--task", "rte") == 0
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed while it wrote the third
    capsys.readouterr()
    assert finetune(monkeypatch, folder, "--task", "rte") == 0
    assert capsys.readouterr().out.count("finetune.jsonl already, with the same settings") == 2
    again = results.read_bytes().splitlines(keepends=True)
    assert again[:2] == lines[:2]
    assert {**json.loads(again[2]), "seconds": 0} == {**json.loads(lines[2]), "seconds": 0}

    # Other settings and another model are other results; no_pretraining has no model.
    choice = ("--task", "rte", "--variant", "full", "--variant", "no_pretraining", "--seed", "1")
    other = ("--max-length", "20", "--precision", "bf16")
    assert finetune(monkeypatch, folder, *choice, *other) == 0
    shape = json.loads((folder / "output" / "config.json").read_text())
    save_model(folder / "output", GPT(ModelConfig(**shape)))
    assert finetune(monkeypatch, folder, *choice) == 0
    made = [(row["variant"], row["max_length"]) for row in read_results(folder)[3:]]
    assert made == [("full", 20), ("no_pretraining", 20), ("full", 32)]


def test_what_cannot_be_is_one_line_and_status_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, ids = folder / "output", folder / "tasks" / "rte" / "dev.safetensors"
    shape = ModelConfig(vocabulary=99, context=32, width=16, layers=1, heads=2)
    other = save_model(folder / "other", GPT(shape))

    def error(*words: object) -> str:
        assert finetune(monkeypatch, folder, *words) == 2
        found = capsys.readouterr()
        return found.err if not found.out else found.out

    assert "no job has it; " in error("--task", "mnli")
    assert "finetune.json has: rte, storycloze" in error("--task", "mnli")
    assert "--seed 9: no job has it" in error("--seed", "9")
    assert "sequences of 49 ids do not fit" in error("--max-length", "49")
    assert "4 training examples do not fill one batch" in error("--rows", "4")
    if not torch.cuda.is_available():
        assert "torch finds no GPU" in error("--device", "cuda")
    assert "the model has 99 vocabulary rows" in error("--model", other)
    for path, content, words, message in (
        (ids, "", (), "no ids of a task"),
        (ids.with_suffix(".jsonl"), None, (), "dev.jsonl: no such file; pack rte again"),
        (output / "model.safetensors", None, (), "model.safetensors: no such file, and finetune["),
        (output / "finetune.jsonl", "{\n", ("--variant", "no_pretraining"), "a line is not JSON"),
        (folder / "finetune.json", '{"jobs": [{"id": 1}]}', (), "not the jobs of a packed folder"),
        (folder / "finetune.json", None, (), "no such file; expected the finetune.json"),
    ):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        assert message in error(*words)


def test_tasks_may_be_left_out_and_asked_for(work: Path, tmp_path: Path) -> None:
    ended = pack(work, tmp_path / "with", "--tasks")
    assert "python -m gpt1.tasks.finetune_packed --config with/finetune.json" in ended.out
    assert "finetune" not in pack(work, tmp_path / "without", "--no-tasks").out
    write_workflow(work / "more.yaml", ("rte", "qnli"))  # no ids of QNLI are made
    write_workflow(work / "bare.yaml", TASKS, ())
    for name, message in (
        ("more", "encode[task=qnli] is not made yet"),
        ("bare", "no finetune cell starts from pretrain"),
    ):
        refused = pack(work, tmp_path / name, "--tasks", file=f"{name}.yaml")
        assert (refused.status, message in refused.err) == (2, True), refused
        assert pack(work, tmp_path / name, file=f"{name}.yaml").status == 0
    assert {folder.parent.name for folder in tmp_path.glob("*/tasks")} == {"with", "more"}
    assert {file.parent.name for file in tmp_path.glob("*/finetune.json")} == {"with", "more"}
    assert [path.name for path in (tmp_path / "more" / "tasks").iterdir()] == ["rte"]
