"""`gpt1 pack`: the folder it writes trains and fine-tunes by itself, wherever it is."""

import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, patch

import pytest
import yaml

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks import finetune_packed
from gpt1.train.config import from_json
from gpt1.weights.checkpoint import load_checkpoint
from gpt1.weights.store import save_model
from pipeline.planning.planner import Selection
from tests.conftest import ROOT
from tests.e2e.workflow import MINI
from tests.gpt1.test_train_alone import FEW, run_with
from tests.pipeline.inline import artifact, output, plan_of, run_inline, write_rte, write_stories
from tests.pipeline.inprocess import Ended, gpt1

pytestmark = pytest.mark.slow
TASKS, VARIANTS = ("rte", "storycloze"), ("full", "no_auxiliary_lm", "no_pretraining")
TUNING = {
    "layers": 1, "width": 16, "heads": 2, "context": 32, "batch_size": 8, "lr": 0.01, "epochs": 2,
}


def pack(folder: Path, store: Path, *words: object, file: Path = MINI, **settings: object) -> Ended:
    """`gpt1 pack` with these settings of pre-training."""
    given = [f"--set=pretrain.{key}={value}" for key, value in settings.items()]
    return gpt1("pack", folder, "--file", file, "--store", store, *given, *words)


def test_the_folder_trains(golden_run: Path, tmp_path: Path) -> None:
    """Elsewhere, and with few packages; another training begins with its weights."""

    def train(folder: Path, status: int = 0, message: str = "") -> Any:
        done = run_with(FEW, "gpt1.train.pretrain", "--config", folder / "run.json")
        assert (done.returncode, message in done.stderr) == (status, True), done
        return None if status else load_checkpoint(folder / "output").model

    pack(tmp_path / "packed", golden_run, max_steps=12, warmup_steps=2)
    folder = Path(shutil.move(tmp_path / "packed", tmp_path / "moved"))
    trained = train(folder)
    config = from_json(folder / "run.json")[0]
    assert trained.config == config.shape(trained.config.vocabulary)
    assert '"step": 12' in (folder / "output" / "metrics.jsonl").read_text().splitlines()[-1]

    still: Any = {"max_steps": 1, "warmup_steps": 0, "lr": 1e-12, "init_from": folder / "output"}
    following = tmp_path / "next"
    pack(following, golden_run, **still)
    shutil.rmtree(folder)  # its weights were packed
    for name, tensor in train(following).state_dict().items():
        assert (tensor - trained.state_dict()[name]).abs().max() < 1e-9, name
    given = following / "init_from" / "model.safetensors"
    given.write_bytes(given.read_bytes()[:-1] + b"\x55")  # of its last tensor
    train(following, 2, f"{given} has sha256")


@pytest.mark.parametrize("broken", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_pack_that_breaks_off(golden_run: Path, tmp_path: Path, broken: Any) -> None:
    """It leaves nothing, and can be done again."""
    with patch("shutil.copyfile", wraps=shutil.copyfile, side_effect=[DEFAULT, broken]) as copies:
        ended = pack(tmp_path / "packed", golden_run)
    assert (ended.status > 0, copies.call_count, list(tmp_path.iterdir())) == (True, 2, []), ended
    assert pack(tmp_path / "packed", golden_run).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_what_is_not_made_not_named_or_there_is_said(golden_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "file").mkdir(parents=True)
    models, paper = "known: pretrain[model=gpt], pretrain[model=lstm]", ROOT / "workflow.yaml"
    for folder, store, file, message in (
        ("packed", "empty", MINI, "run `gpt1 run shard`"), ("packed", "empty", paper, models),
        ("packed", "nowhere", MINI, "no such store"), ("full", golden_run, MINI, "is not empty"),
    ):
        ended = pack(tmp_path / folder, tmp_path / store, file=file)
        assert (ended.status, message in ended.err) == (2, True), ended
    assert not (tmp_path / "packed").exists()


def write_workflow(file: Path, tasks: Sequence[str]) -> Path:
    """The small workflow up to pre-training, with these tasks, their ids, and fine-tuning."""
    stages = dict(list(yaml.safe_load(MINI.read_text())["stages"].items())[:7])
    matrix = {"task": list(tasks)}
    stages["task_data"] = {"with": {"source": str(file.parent / "data")}, "matrix": matrix}
    stages["encode"] = {"needs": ["vocabulary", "task_data"], "matrix": matrix}
    tuned = {"with": TUNING, "matrix": {**matrix, "variant": list(VARIANTS)}}
    stages["finetune"] = {"needs": ["pretrain", "vocabulary", "task_data", "encode"], **tuned}
    file.write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def work(golden_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a workflow, and of a store in which all is made that `pack` takes."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("RTE", "QNLI"):
        write_rte(folder / "data", name=name)
    write_stories(folder / "data")
    shutil.copytree(golden_run, folder / "store")
    file = write_workflow(folder / "workflow.yaml", TASKS)
    run_inline(plan_of(file, folder / "store", selection=Selection(("encode",))))
    return folder


@pytest.fixture
def folder(work: Path, tmp_path: Path) -> Path:
    """A packed folder after its pre-training, here that of the store, in another place."""
    assert pack(tmp_path / "here", work / "store", file=work / "workflow.yaml").status == 0
    folder = (tmp_path / "here").rename(tmp_path / "there")
    made = artifact(plan_of(work / "workflow.yaml", work / "store"), "pretrain")
    for name in ("model.safetensors", "config.json"):
        shutil.copy(output(made, name), folder / "output" / name)
    return folder


def finetune(folder: Path, *words: str) -> int:
    """The command in this process; its exit status."""
    first = ("finetune", "--config", str(folder / "finetune.json"), "--device", "cpu")
    with patch("sys.argv", [*first, *words]):
        return finetune_packed.main()


def test_the_scores_are_the_stages_with_few_packages(work: Path, folder: Path) -> None:
    words = ("gpt1.tasks.finetune_packed", "--config", folder / "finetune.json", "--threads", "1")
    done = run_with(FEW, *words, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    run_inline(plan := plan_of(work / "workflow.yaml", work / "store"))
    rows = finetune_packed.read_results(folder)
    expected = [(task, variant) for task in TASKS for variant in VARIANTS]
    assert [(row["task"], row["variant"]) for row in rows] == expected
    same = ("metric", "values", "baseline", "standard_error", "best_epoch", "train_rows", "test")
    for row in rows:
        scores = json.loads(output(artifact(plan, row["job"]), "scores.json").read_text())
        assert {key: row[key] for key in same} == {key: scores[key] for key in same}, row["job"]
        assert row["cut"] == {split: scores["cut"][split] for split in row["cut"]}
        assert f"{row['metric']} {row['values'][row['metric']]:.1f} (" in done.stdout


def test_the_same_command_after_a_kill(folder: Path) -> None:
    results = folder / "output" / "finetune.jsonl"
    assert finetune(folder, "--task", "rte") == 0
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed while it wrote the third
    assert finetune(folder, "--task", "rte") == 0
    again = results.read_bytes().splitlines(keepends=True)
    assert again[:2] == lines[:2]  # with the seconds it took
    assert {**json.loads(again[2]), "seconds": 0} == {**json.loads(lines[2]), "seconds": 0}

    # Other settings and another model are other results; no_pretraining has no model.
    choice = ("--task", "rte", "--variant", "full", "--variant", "no_pretraining", "--seed", "1")
    assert finetune(folder, *choice, "--max-length", "20", "--precision", "bf16") == 0
    shape = json.loads((folder / "output" / "config.json").read_text())
    save_model(folder / "output", GPT(ModelConfig(**shape)))
    assert finetune(folder, *choice) == 0
    made = [(row["variant"], row["max_length"]) for row in finetune_packed.read_results(folder)]
    assert made[3:] == [("full", 20), ("no_pretraining", 20), ("full", 32)]


def test_what_cannot_be_fine_tuned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, ids = folder / "output", folder / "tasks" / "rte" / "dev.safetensors"
    shape = ModelConfig(vocabulary=99, context=32, width=16, layers=1, heads=2)
    other = save_model(folder / "other", GPT(shape))
    for path, content, words, message in (
        (ids, 0, "--task mnli", "mnli: no such job; "),
        (ids, 0, "--max-length 49", "sequences of 49 tokens do not fit"),
        (ids, 0, f"--model {other}", "the model has 99 vocabulary rows"),
        (ids, "", "", "not the encoded texts of a task"),
        (ids.with_name("task.json"), 0, "--config .", ".: cannot be read (Is a directory)"),
        (ids.with_suffix(".jsonl"), None, "", "dev.jsonl: no such file; pack rte again"),
        (ids.with_name("task.json"), "{}", "", "task.json: not a task's facts (KeyError('task'))"),
        (output / "finetune.jsonl", "{\n", "--variant no_pretraining", "a line is not JSON"),
        (folder / "finetune.json", '{"jobs": [{"id": 1}]}', "", "not the jobs of a packed folder"),
        (folder / "finetune.json", None, "", "no such file; expected the finetune.json"),
    ):
        if content is None:
            path.unlink()
        elif content != 0:
            path.write_text(str(content))
        status, (out, err) = finetune(folder, *words.split()), capsys.readouterr()
        assert (status, out, message in err) == (2, "", True), (message, out, err)


def test_tasks_may_be_left_out_and_asked_for(work: Path, tmp_path: Path) -> None:
    store, file = work / "store", work / "workflow.yaml"
    assert "finetune" not in pack(tmp_path / "without", store, "--no-tasks", file=file).out
    more = write_workflow(work / "more.yaml", ("rte", "qnli"))  # no ids of QNLI are made
    refused = pack(tmp_path / "more", store, "--tasks", file=more)
    assert (refused.status, "needs encode[task=qnli], which has" in refused.err) == (2, True)
    assert pack(tmp_path / "more", store, file=more).status == 0
    for name in ("tasks", "finetune.json"):
        assert [path.parent.name for path in tmp_path.glob(f"*/{name}")] == ["more"]
    assert [path.name for path in (tmp_path / "more" / "tasks").iterdir()] == ["rte"]
