"""The pretrain stage on a real Ray: two DeepSpeed ranks, from shards of real books."""

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.checkpoint import Manifest
from gpt1.train.config import PretrainConfig, RuntimeConfig
from gpt1.weights.store import load_model
from pipeline.planning.planner import Plan, State
from stages.pretrain import INITIAL, STAGE, _deviation
from tests.pipeline.inline import output, plan_of, run_inline
from tests.servers.ray_cluster import Cluster
from tests.stages.runs import digests, lines, made, run

WORKFLOW = Path(__file__).parent / "pretrain_workflow.yaml"
Monkey = pytest.MonkeyPatch
TINY = Vocabulary.from_merges(list("ab"), [("a", "b</w>")])
STEPS = 300


def test_files_from_outside_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    TINY.save(tmp_path / "vocabulary")
    settings = PretrainConfig(init_from=str(tmp_path))
    assert [file.name for file in STAGE.external_files(settings)] == [f"{INITIAL}model.safetensors"]
    run = json.loads(STAGE.run_config(settings, tmp_path / "vocabulary", [], []))["runtime"]
    assert run["initial_sha256"] == sha256(b"weights").hexdigest()


def test_what_is_left_of_a_training_is_what_comes_after_its_newest_checkpoint() -> None:
    settings = PretrainConfig(max_steps=200, warmup_steps=10)
    for steps, left in (((), 1.0), ((50, 100), 0.5), ((200,), 0.0)):
        files = [f"attempt/checkpoints/step-{step:08d}/manifest.json" for step in steps]
        without = ["attempt/checkpoints/step-00000150/state.safetensors", "attempt/config.json"]
        assert STAGE.share_left(settings, [*files, *without]) == left


def test_what_is_not_the_paper_s_is_named_as_a_deviation() -> None:
    def said(*events: dict, shard: dict = {}, **settings: object) -> str:  # noqa: B006
        chosen, runtime = PretrainConfig.model_validate(settings), RuntimeConfig((), (), "", "", "")
        return _deviation(chosen, runtime, events, shard).get("deviation", "")

    assert said() == ""
    assert said(batch_size=256).startswith(
        "batch_size 256 instead of the paper's 64: 1,000,000 steps"
    )
    assert "250,000 steps, warmup 500" in said(batch_size=256, lr_scaling="sqrt")
    shard = {"train_fraction": 0.125, "sentence_order": "shuffled"}
    expected = "0.125 of the training books; the sentences of each training book in a random order"
    assert said(shard=shard) == expected
    event = {"step": 9, "loss": None, "before": 3.0, "batches": [7, 8], "books": ["Emma"]}
    skipped = "the loss at step 9 was not finite; skipped batches 7, 8, of 'Emma'"
    assert said(event, max_rollbacks=3, loss_spike_threshold=2.0) == skipped


@pytest.fixture(scope="module")
def trained(ray_head: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """The workflow's run, while this process is connected to the session's cluster."""
    import ray

    ray.init(address=ray_head.gcs, log_to_driver=False)
    yield run(WORKFLOW, tmp_path_factory.mktemp("store"))
    ray.shutdown()


@pytest.mark.slow
def test_it_learns_and_records_how_well(trained: Plan) -> None:
    pretrain = made(trained, "pretrain")
    summary, name = pretrain.summary, "validation_perplexity"
    unigram = made(trained, "shard").summary["unigram_perplexity"]
    assert summary["of_unigram"] == pytest.approx(summary[name] / unigram)
    assert summary["of_unigram"] < 0.9
    model = load_model(output(pretrain, "model.safetensors"))
    counts = (STEPS * 16 * 16, model.config.parameters())
    assert (summary["tokens"], summary["parameters"]) == counts
    assert lines(pretrain, "metrics.jsonl")[-1][name] == summary[name]
    snapshots = [f"snapshots/step-{step:08d}.safetensors" for step in (150, 300)]
    assert [file.name for file in pretrain.under("snapshots/")] == snapshots
    assert len(lines(pretrain, "samples.jsonl")) == 3 * 3
    volatile = {"throughput.jsonl", "hardware.json"}
    assert pretrain.files.keys() - digests(pretrain).keys() == volatile


def with_one_worker(trained: Plan, folder: Path) -> tuple[Plan, Path]:
    """The same on one worker, in a store with the checkpoints of two; and their attempt."""
    plan = plan_of(WORKFLOW, folder / "store", "pretrain.resources.workers=1")
    fingerprint = plan.entries["pretrain"].fingerprint
    assert fingerprint == trained.entries["pretrain"].fingerprint
    [source] = (trained.store.root / "pretrain" / fingerprint).glob("*/checkpoints")
    earlier = plan.store.new_attempt("pretrain", fingerprint)
    for name in ("checkpoints", "snapshots"):
        shutil.copytree(source.parent / name, earlier / name)
    return plan, earlier / "checkpoints"


@pytest.mark.slow
def test_another_number_of_workers_resumes_from_it(trained: Plan, tmp_path: Path) -> None:
    plan, checkpoints = with_one_worker(trained, tmp_path)
    shutil.rmtree(checkpoints / f"step-{STEPS:08d}")
    run_inline(plan)
    one, two = (made(done, "pretrain") for done in (plan, trained))
    loss = two.summary["validation_loss"]
    assert one.summary["validation_loss"] == pytest.approx(loss, abs=1e-4)
    assert lines(one, "throughput.jsonl")[0]["step"] == STEPS - 10


@pytest.mark.slow
def test_what_a_rank_refuses_reaches_the_user_as_one_line(trained: Plan, tmp_path: Path) -> None:
    """A checkpoint of other settings: only the ranks find out."""
    plan, checkpoints = with_one_worker(trained, tmp_path)
    for file in checkpoints.glob("*/manifest.json"):
        manifest = Manifest.from_bytes(file.read_bytes())
        manifest.facts.config["grad_clip"] = 9.0
        file.write_bytes(manifest.to_bytes())
    with pytest.raises(UserError, match=r"different settings: grad_clip ") as error:
        run_inline(plan)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_it_begins_with_given_weights(trained: Plan, tmp_path: Path, monkeypatch: Monkey) -> None:
    """Of a relative folder: Ray Train gives each rank a working directory of its own."""
    first = made(trained, "pretrain")
    for stage in ("pretrain", "vocabulary"):
        folder = Path(made(trained, stage).under("")[0].key).parent
        shutil.copytree(folder, tmp_path / "given", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    settings = ("init_from=given", "max_steps=1", "warmup_steps=0", "lr=1e-12", "snapshot_every=0")
    still = [f"pretrain.{one}" for one in settings]
    plan = run(WORKFLOW, trained.store.root, *still, stages=("pretrain",))
    absolute = plan_of(WORKFLOW, trained.store.root, *still, f"pretrain.init_from={tmp_path}/given")
    assert absolute.entries["pretrain"].state is State.DONE
    weights = (output(one, "model.safetensors") for one in (made(plan, "pretrain"), first))
    begun, before = (load_model(path).state_dict() for path in weights)
    assert not [name for name in begun if (begun[name] - before[name]).abs().max() >= 1e-9]
