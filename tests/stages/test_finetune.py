"""task_data of books, finetune and zero_shot: inputs, scores and predictions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig, import_variant, model_class
from gpt1.rng import generator
from gpt1.tasks.dataset import TokenizedTexts
from gpt1.tasks.finetune import FinetuneJob
from gpt1.tasks.finetune_packed import jobs_json, read_jobs, run_packed
from gpt1.tasks.io import read_examples
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights.store import load_model, save_model
from pipeline.planning.planner import Plan
from pipeline.workflow.user_code import NONE, UserCode, install
from stages.contract import Artifact
from stages.finetune import Finetune, FinetuneSettings
from stages.task_data import TaskDataSettings
from stages.zero_shot import ZeroShotSettings
from tests.conftest import ROOT, write
from tests.pipeline.inline import output
from tests.stages.runs import digests, document, given, lines, made, run_stage

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "log_every": 2}
SHAPE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 2, "context": 64}
DEMO = ("demo_choice", "demo_entailment", "demo_similarity", "demo_author")
WEIGHTS = {"model.safetensors", "config.json", "head.safetensors", "head.json"}


def random_model(folder: Path, vocabulary: int, names: dict[str, int], **shape: Any) -> Artifact:
    """What pretrain leaves, of random weights: files by name, each of its own seed."""
    config = ModelConfig(vocabulary=vocabulary, **{"init_std": 0.1, **SHAPE, **shape})
    for name, seed in names.items():
        model = model_class(config.kind)(config, generator("weights", seed))
        save_model(folder / f"{name}.safetensors", model)
    return given(folder, "pretrain", settings={"max_steps": 30})


@pytest.fixture(scope="module")
def pretrained(embedded: Plan, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A final model and two snapshots."""
    names = {"model": 3, "snapshots/step-00000010": 1, "snapshots/step-00000020": 2}
    size = made(embedded, "vocabulary").summary["vocabulary"]
    return random_model(tmp_path_factory.mktemp("pretrain"), size, names)


def tune(plan: Plan, settings: Any, models: list[Artifact], store: Path) -> Artifact:
    """Run the stage of these settings on task data and vocabulary of the plan."""
    data = made(plan, f"task_data[task={settings.task}]")
    return run_stage(settings, [*models, made(plan, "vocabulary"), data], store)


@pytest.fixture
def run(embedded: Plan, pretrained: Artifact, tmp_path: Path) -> Callable[..., Artifact]:
    """The same on the embedded books, from the pre-trained model."""
    return lambda settings: tune(embedded, settings, [pretrained], tmp_path)


@pytest.mark.parametrize("task", DEMO)
def test_every_kind_is_fine_tuned(task: str, embedded: Plan, run: Callable[..., Artifact]) -> None:
    data = made(embedded, f"task_data[task={task}]")
    train, dev = (list(read_examples(output(data, f"{name}.jsonl"))) for name in ("train", "dev"))
    assert document(data, "task.json")["rows"] == {"train": len(train), "dev": len(dev)}
    assert {example.group for example in dev} <= {"held_out", "tail"}
    found = run(FinetuneSettings(task=task, keep_model=True, **SMALL))
    scores, rows = document(found, "scores.json"), lines(found, "predictions.jsonl")
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert scores["values"]["accuracy"] == pytest.approx(100 * right / len(rows))
    assert (scores["n"], found.summary["accuracy"]) == (len(dev), scores["values"]["accuracy"])
    assert load_model(output(found, "model.safetensors")).config.special_tokens == 3
    assert found.files.keys() >= WEIGHTS


def test_a_text_is_generated_better_than_before(
    embedded: Plan, pretrained: Artifact, tmp_path: Path
) -> None:
    wanted = TaskDataSettings(task="demo_reverse", train_rows=1500, dev_rows=80, passage_words=5)
    data = run_stage(wanted, [made(embedded, "clean"), made(embedded, "split")], tmp_path)
    settings = {**SMALL, "epochs": 1, "lr": 4e-3, "lm_weight": 0, "keep_model": True}
    inputs = [pretrained, made(embedded, "vocabulary"), data]
    found = run_stage(FinetuneSettings(task="demo_reverse", **settings), inputs, tmp_path)
    scores, curve = document(found, "scores.json"), lines(found, "metrics.jsonl")
    assert scores["standard_errors_above_untrained"] > 2
    assert (curve[0]["step"], curve[0]["dev_rougeL"]) == (0, scores["untrained"])
    assert document(data, "task.json")["baseline"] == pytest.approx(scores["baseline"])
    assert scores["baseline_kind"] == "copied source"
    assert "case:lc" in scores["bleu_signature"]
    dev, rows = read_examples(output(data, "dev.jsonl")), lines(found, "predictions.jsonl")
    assert [row["label"] for row in rows] == [example.label for example in dev]
    assert all(isinstance(row["prediction"], str) for row in rows)
    assert found.files.keys() >= WEIGHTS


def test_the_same_bytes_twice_and_without_the_weights(run: Callable[..., Artifact]) -> None:
    kept = FinetuneSettings(task=DEMO[1], keep_model=True, **SMALL)
    first, second = run(kept), run(kept)
    assert (first.digest, first.summary) == (second.digest, second.summary)
    without = digests(run(kept.model_copy(update={"keep_model": False})))
    assert without == {n: sha for n, sha in digests(first).items() if n not in WEIGHTS}


def test_variants_differ(run: Callable[..., Artifact], embedded: Plan, tmp_path: Path) -> None:
    full = run(FinetuneSettings(task="demo_choice", **SMALL))
    plain = run(FinetuneSettings(task="demo_choice", variant="no_auxiliary_lm", **SMALL))
    rows = [lines(one, "metrics.jsonl") for one in (full, plain)]
    losses = [{row["lm_loss"] for row in found if "loss" in row} for found in rows]
    assert (min(losses[0]) > 0, losses[1]) == (True, {0})
    random = FinetuneSettings(task="demo_choice", variant="no_pretraining", **SMALL, **SHAPE)
    assert tune(embedded, random, [], tmp_path / "no model").digest != full.digest


@pytest.mark.parametrize("task", DEMO[1:])
def test_label_words_and_an_interpolated_loss(
    task: str, embedded: Plan, pretrained: Artifact, run: Callable[..., Artifact], tmp_path: Path
) -> None:
    """They differ from the paper's, and a packed folder gives the same scores."""
    claimed: dict[str, Any] = {"classifier": "label_words", "loss": "interpolated"}
    settings = FinetuneSettings(task=task, **claimed, **{**SMALL, "lm_weight": 0.25})
    assert Finetune.complete([settings])[0].keep_model is False
    found, usual = run(settings), run(FinetuneSettings(task=task, **SMALL))
    assert found.files.keys().isdisjoint(WEIGHTS)
    rows = [lines(one, "metrics.jsonl")[0] for one in (found, usual)]
    totals = [row["loss"] for row in rows]
    weighted = 0.75 * rows[0]["task_loss"] + 0.25 * rows[0]["lm_loss"]
    assert totals[0] == pytest.approx(weighted)
    assert totals[1] == pytest.approx(rows[1]["task_loss"] + 0.5 * rows[1]["lm_loss"])

    vocabulary = Vocabulary.load(Path(made(embedded, "vocabulary").under("vocab_")[0].key).parent)
    job = Finetune.job(settings, "cell", vocabulary.size, lambda: vocabulary)
    assert job.label_words is not None
    assert read_jobs(write(tmp_path, {"jobs.json": jobs_json([job])}) / "jobs.json") == [job]
    data, encode = made(embedded, f"task_data[task={task}]"), Tokenizer(vocabulary).encode
    folder = tmp_path / "tasks" / task
    write(folder, {name: Path(file.key).read_bytes() for name, file in data.files.items()})
    for split in ("train", "dev"):
        texts = TokenizedTexts.of(list(read_examples(folder / f"{split}.jsonl")), encode)
        write(folder, {f"{split}.safetensors": texts.to_bytes()})
    model = output(pretrained, "model.safetensors")
    row = run_packed(tmp_path, job, model, torch.device("cpu"))
    scores = document(found, "scores.json")
    assert {key: row[key] for key in ("values", "best_epoch")} == {
        key: scores[key] for key in ("values", "best_epoch")
    }


def test_a_prompt_needs_room(run: Callable[..., Artifact]) -> None:
    settings = FinetuneSettings(
        task="demo_entailment", classifier="label_words", max_length=16, **SMALL
    )
    with pytest.raises(UserError, match=r"sequences of 16 tokens .* expected (?!16)\d\d to the"):
        run(settings)


def test_transfer_scores_dev_and_train(run: Callable[..., Artifact]) -> None:
    settings = [
        FinetuneSettings(task="demo_author", num_layers_transferred=n, **SMALL) for n in (0, 1, 2)
    ]
    found = [run(one) for one in settings]
    job = Finetune.job(settings[1], "cell", 99, lambda: Vocabulary.from_merges("ab", []))
    assert (job.num_layers_transferred, FinetuneJob.from_dict(job.to_dict())) == (1, job)
    assert [document(one, "scores.json")["num_layers_transferred"] for one in found] == [0, 1, 2]
    assert len({one.digest for one in found}) == 3
    usual = run(FinetuneSettings(task="demo_author", **SMALL))
    assert lines(usual, "predictions.jsonl") == lines(found[-1], "predictions.jsonl")


def test_a_variant_is_fine_tuned_and_scored(embedded: Plan, tmp_path: Path) -> None:
    """Segment embeddings, which only the delimiter of fine-tuning makes differ."""
    kind = "variants.py:SegmentEmbeddings"
    install(UserCode(ROOT / "examples" / "variants", (("variants", ""),)))
    import_variant(kind)
    size = made(embedded, "vocabulary").summary["vocabulary"]
    names = {"model": 3, "snapshots/step-00000010": 1}
    models = [random_model(tmp_path / "model", size, names, kind=kind)]
    about: dict[str, Any] = {"task": "demo_entailment", "model": kind, **SMALL}
    full = tune(embedded, FinetuneSettings(keep_model=True, **about), models, tmp_path)
    gpt = load_model(output(full, "model.safetensors"))
    assert (gpt.config.kind, gpt.config.special_tokens) == (kind, 3)
    first = load_model(output(models[0], "model.safetensors"))
    assert not torch.equal(gpt.segments_embed.weight, first.segments_embed.weight)
    others = [
        tune(embedded, FinetuneSettings(**about, **more), given, tmp_path)
        for more, given in (({"variant": "no_auxiliary_lm"}, models),
                            ({"num_layers_transferred": 1}, models),
                            ({"variant": "no_pretraining", **SHAPE}, []))
    ]  # fmt: skip
    assert len({one.digest for one in (full, *others)}) == 4
    settings = ZeroShotSettings(task="demo_choice", model=kind, rows=30)
    curve = lines(tune(embedded, settings, models, tmp_path), "curve.jsonl")
    assert [row["step"] for row in curve] == [10, 30]
    install(NONE)


def test_zero_shot_over_the_snapshots(run: Callable[..., Artifact]) -> None:
    found = run(ZeroShotSettings(task="demo_choice", rows=30))
    curve, scores = lines(found, "curve.jsonl"), document(found, "scores.json")
    assert [row["step"] for row in curve] == [10, 20, 30]
    assert scores["values"]["accuracy"] == curve[-1]["accuracy"]
    assert scores["normalized"] == pytest.approx((curve[-1]["accuracy"] - 50) / 50)
    assert (scores["n"], scores["sample"]) == (30, True)


def test_another_vocabulary_is_refused(embedded: Plan, tmp_path: Path) -> None:
    other = random_model(tmp_path / "other", 99, {"model": 1})
    with pytest.raises(UserError, match="the model has 99 vocabulary rows"):
        tune(embedded, FinetuneSettings(task="demo_choice", **SMALL), [other], tmp_path / "store")
