"""The pretrain stage on a real Ray: two DeepSpeed ranks placed by Ray Train, from shards of real books."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from gpt1.errors import UserError
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.store import load_model
from pipeline.plan import Plan, Selection
from stages.contract import Artifact, Resources
from stages.pretrain import STAGE, PretrainSettings, _check_ranks, _config, _deviation
from tests.pipeline.inline import plan_of, run_inline

WORKFLOW = Path(__file__).parent / "pretrain_workflow.yaml"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"width": 100, "heads": 3}, "not divisible"),
        ({"batch": 64, "micro_batch": 7}, "micro_batch 7 does not divide batch 64"),
        ({"steps": 10, "warmup": 10}, "warmup 10 must be less than steps 10"),
        ({"max_lr": 0}, "greater than 0"),
        ({"zero": 4}, "0, 1, 2 or 3"),
        ({"dropout": 1.0}, "less than 1"),
        ({"layer": 3}, "Extra inputs"),
        ({"rollback_spike": 1.0}, "does nothing without rollbacks"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, float], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        PretrainSettings(**given)  # type: ignore[arg-type]


def test_defaults_are_the_paper_s() -> None:
    settings = PretrainSettings()
    assert (settings.layers, settings.width, settings.heads, settings.context) == (12, 768, 12, 512)
    assert (settings.batch, settings.max_lr, settings.warmup, settings.schedule) == (64, 2.5e-4, 2000, "cosine")
    assert (settings.dropout, settings.weight_decay, settings.clip, settings.zero) == (0.1, 0.01, 1.0, 1)


def test_the_settings_file_of_deepspeed_counts_by_content() -> None:
    [file] = STAGE.external_files(PretrainSettings(zero=2))
    assert file.name == "deepspeed/zero2.json"
    assert file.path.is_file()


def test_a_relative_folder_of_given_weights_is_that_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "given" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    relative, absolute = PretrainSettings(init_from="given"), PretrainSettings(init_from=str(weights.parent))
    monkeypatch.chdir(tmp_path)
    found = STAGE.external_files(relative)
    assert found == STAGE.external_files(absolute)
    monkeypatch.chdir("/")
    config = _config(relative, Vocabulary.from_merges(list("ab"), [("a", "b</w>")]), found)
    assert config.initial_sha256 == hashlib.sha256(b"weights").hexdigest()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this test's own, with two CPUs."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def artifact(plan: Plan, stage: str) -> Artifact:
    found = plan.store.artifact(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def trained(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    del cluster
    plan = plan_of(WORKFLOW, tmp_path_factory.mktemp("store"))
    run_inline(plan)
    return plan


@pytest.mark.slow
def test_it_learns_and_says_how_well(trained: Plan) -> None:
    made = artifact(trained, "pretrain")
    summary = made.summary
    assert summary["validation_perplexity"] < 0.8 * summary["unigram_perplexity"]
    assert summary["of_unigram"] == pytest.approx(summary["validation_perplexity"] / summary["unigram_perplexity"])
    assert summary["tokens"] == 300 * 16 * 16
    assert summary["parameters"] == load_model(made.path("model.safetensors")).config.parameters()
    rows = [json.loads(line) for line in made.path("metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["validation_perplexity"] == summary["validation_perplexity"]
    assert [file.name for file in made.under("snapshots/")] == [f"snapshots/step-{n:08d}.safetensors" for n in (150, 300)]
    assert len(made.path("samples.jsonl").read_text().splitlines()) == 3 * 3
    assert made.files["throughput.jsonl"].volatile
    assert not any(file.volatile for name, file in made.files.items() if name != "throughput.jsonl")


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_result_is_the_same(trained: Plan, tmp_path: Path) -> None:
    plan = plan_of(WORKFLOW, tmp_path / "store")
    killer = threading.Thread(target=kill_one, args=(plan, "RayTrainWorker"), daemon=True)
    killer.start()
    run_inline(plan)
    killer.join(timeout=1)
    assert not killer.is_alive(), "no rank was killed"
    assert digests(plan) == digests(trained)


def digests(plan: Plan) -> dict[str, str]:
    return {name: file.sha256 for name, file in artifact(plan, "pretrain").files.items() if not file.volatile}


def kill_one(plan: Plan, kind: str) -> None:
    """Kill one process of that name below this one, -9, once there is a checkpoint."""
    folder = plan.store.folder("pretrain", plan.entries["pretrain"].fingerprint)
    while not list(folder.glob("*/checkpoints/step-*")):
        time.sleep(0.005)
    named = [process for process in psutil.process_iter() if kind in " ".join(process.cmdline())]
    ours = [process for process in named if psutil.Process() in process.parents()]
    ours[0].send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_after_a_killed_trainer_the_next_try_gets_its_ranks_and_the_result_is_the_same(trained: Plan, tmp_path: Path) -> None:
    """The cluster has just the two CPUs that the dead trainer's ranks had."""
    from ray.exceptions import ActorDiedError

    plan = plan_of(WORKFLOW, tmp_path / "store")
    killer = threading.Thread(target=kill_one, args=(plan, "TrainController"), daemon=True)
    killer.start()
    with pytest.raises(ActorDiedError):
        run_inline(plan)
    killer.join(timeout=1)
    assert not killer.is_alive(), "no trainer was killed"
    run_inline(plan_of(WORKFLOW, plan.store.root))
    assert digests(plan) == digests(trained)


@pytest.mark.slow
def test_a_number_of_ranks_that_does_not_divide_is_refused_before_any_rank_starts(trained: Plan) -> None:
    with pytest.raises(UserError, match="workers: 2 ranks cannot share 3 micro-batches"):
        run_inline(plan_of(WORKFLOW, trained.store.root, "pretrain.batch=12"))
    fewer = ["pretrain.batch=12", "pretrain.resources.workers=3", "pretrain.resources.min_workers=2"]
    with pytest.raises(UserError, match="min_workers: 2 ranks cannot share 3 micro-batches"):
        run_inline(plan_of(WORKFLOW, trained.store.root, *fewer))


def test_a_least_number_of_ranks_that_does_not_divide_is_refused() -> None:
    """With room for 6 of 8 ranks no count from 5 to 6 would do, and nothing would be said."""
    settings = PretrainSettings(batch=64, micro_batch=8)
    _check_ranks(settings, Resources(workers=8, min_workers=4))
    with pytest.raises(UserError, match=r"min_workers: 5 ranks cannot share 8 micro-batches .*out of \[1, 2, 4, 8\]"):
        _check_ranks(settings, Resources(workers=8, min_workers=5))


def with_one_worker(trained: Plan, folder: Path) -> tuple[Plan, Path]:
    """The same pre-training on one worker, in a store where an earlier attempt left the checkpoints of two; and that attempt."""
    file = folder / "workflow.yaml"
    file.write_text(WORKFLOW.read_text().replace("workers: 2", "workers: 1"))
    plan = plan_of(file, folder / "store")
    fingerprint = plan.entries["pretrain"].fingerprint
    assert fingerprint == trained.entries["pretrain"].fingerprint
    [source] = trained.store.folder("pretrain", fingerprint).glob("*/checkpoints")
    earlier = plan.store.new_attempt("pretrain", fingerprint)
    shutil.copytree(source, earlier / "checkpoints")
    shutil.copytree(source.parent / "snapshots", earlier / "snapshots")
    return plan, earlier


@pytest.mark.slow
def test_another_number_of_workers_goes_on_from_the_same_checkpoint(trained: Plan, tmp_path: Path) -> None:
    plan, earlier = with_one_worker(trained, tmp_path)
    shutil.rmtree(earlier / "checkpoints" / "step-00000300")
    run_inline(plan)
    one, two = (artifact(made, "pretrain").summary["validation_loss"] for made in (plan, trained))
    assert one == pytest.approx(two, abs=1e-4)
    assert artifact(plan, "pretrain").path("throughput.jsonl").read_text().startswith('{"step": 290')


@pytest.mark.slow
def test_what_a_rank_refuses_reaches_the_user_as_one_line(trained: Plan, tmp_path: Path) -> None:
    """A checkpoint of other settings: only the ranks find out."""
    plan, earlier = with_one_worker(trained, tmp_path)
    record = earlier / "checkpoints" / "step-00000300" / "record.json"
    values = json.loads(record.read_text())
    values["facts"]["config"]["clip"] = 9.0
    record.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"made with other clip "):
        run_inline(plan)


@pytest.mark.slow
def test_it_begins_with_the_weights_of_a_relative_folder(trained: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train gives each rank a working directory of its own."""
    (tmp_path / "given").mkdir()
    made = [
        file for stage in ("pretrain", "vocabulary") for name, file in artifact(trained, stage).files.items() if "/" not in name
    ]
    for file in made:
        shutil.copyfile(file.path, tmp_path / "given" / file.path.name)
    monkeypatch.chdir(tmp_path)
    still = ["pretrain.steps=1", "pretrain.warmup=0", "pretrain.max_lr=1e-12", "pretrain.snapshot_every=0"]
    pretrain = Selection(stages=("pretrain",))
    plan, absolute = (
        plan_of(WORKFLOW, trained.store.root, f"pretrain.init_from={folder}", *still, selection=pretrain)
        for folder in ("given", tmp_path / "given")
    )
    assert plan.entries["pretrain"].fingerprint == absolute.entries["pretrain"].fingerprint
    assert run_inline(plan) == ["pretrain"]
    begun, given = (load_model(artifact(one, "pretrain").path("model.safetensors")).state_dict() for one in (plan, trained))
    for name, tensor in begun.items():
        assert (tensor - given[name]).abs().max() < 1e-9, name


def test_a_batch_that_is_not_the_paper_s_is_named_and_may_have_its_own_schedule() -> None:
    vocabulary = Vocabulary.from_merges(list("ab"), [("a", "b</w>")])
    plain, scaled = (PretrainSettings(batch=256, large_batch=how) for how in ("as_set", "scaled"))  # type: ignore[arg-type]
    assert _config(plain, vocabulary).steps == 1_000_000
    config = _config(scaled, vocabulary)
    assert (config.steps, config.warmup, config.max_lr) == (250_000, 500, 5e-4)
    assert "batch 256 instead of the paper's 64: 250,000 steps" in _deviation(scaled, config)["deviation"]
    assert _deviation(PretrainSettings(), config) == {}


def test_batches_left_out_are_named_as_a_deviation_with_their_books() -> None:
    settings = PretrainSettings(rollbacks=3, rollback_spike=2.0)
    config = _config(settings, Vocabulary.from_merges(list("ab"), [("a", "b</w>")]))
    assert (config.rollbacks, config.rollback_batches, config.rollback_spike) == (3, 2, 2.0)
    event = {"step": 9, "loss": None, "before": 3.0, "first": 7, "batches": [7, 8], "books": ["Emma"]}
    said = "the loss at step 9 was no number; left out batches 7, 8, of 'Emma'"
    assert _deviation(settings, config, [event])["deviation"] == said
    assert _deviation(PretrainSettings(batch=128), config, [event])["deviation"].endswith(f"(as set); {said}")


def test_the_lstm_has_one_layer_whatever_the_blocks() -> None:
    config = _config(PretrainSettings(model="lstm", layers=12), Vocabulary.from_merges(list("ab"), [("a", "b</w>")]))
    assert (config.model.kind, config.model.layers, config.model.units) == ("lstm", 1, 2048)
