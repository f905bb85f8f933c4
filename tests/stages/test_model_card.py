"""The model card: what the hub reads of it are the figures of the records; what is not recorded is not in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from gpt1.report.model_card import model_card
from gpt1.report.model_index import Publication
from gpt1.tasks.metrics import Score
from gpt1.tasks.table import task_named
from stages._sources import source_of
from stages.contract import Artifact
from tests.gpt1 import weight_samples as samples
from tests.stages.report_samples import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def card(artifacts: Sequence[Artifact], **publication: str) -> ModelCard:
    text = model_card(
        samples.model().config, samples.vocabulary(), [source_of(one) for one in artifacts], None, Publication(**publication)
    )
    return ModelCard(text)


def results(found: ModelCard) -> list[EvalResult]:
    return found.data.eval_results or []


def test_scores_are_those_of_the_records(workshop: Workshop) -> None:
    found = card(workshop.everything())
    values = {(one.dataset_type, one.metric_type, one.task_type): one.metric_value for one in results(found)}
    assert values == {
        ("books", "perplexity", "text-generation"): 121.4,
        ("demo_choice", "accuracy", "multiple-choice"): 58.4,
        ("demo_entailment", "accuracy", "text-classification"): 71.2,
        ("demo_similarity", "accuracy", "text-classification"): 50.8,
        ("demo_author", "accuracy", "text-classification"): 62.5,  # the median of three seeds
        ("demo_choice", "accuracy", "text-generation"): 56.4,  # zero-shot
    }
    names = [one.metric_name for one in results(found) if one.dataset_type == "demo_author"]
    assert names == ["accuracy (%, median of 3 seeds)"]
    for row in (
        "| bigram model | 171.3 |",
        "| unigram model | 531.7 |",
        "| Whose prose | accuracy | 62.5 (median of 3, 61.0 to 66.0)",
    ):
        assert row in found.content


def test_groups_tests_and_metrics_of_a_task(workshop: Workshop) -> None:
    """MNLI's two dev sets are two splits of one data set; a test score is a result of its own."""
    values = {"accuracy": 80.0, "accuracy/matched": 81.0, "accuracy/mismatched": 79.0}
    score = Score("accuracy", values, 33.3, "majority", 0.4, "binomial", 9_815)
    tested = Score("accuracy", {"accuracy": 70.0}, 33.3, "majority", 0.4, "binomial", 100)
    for task, more in (("mnli", {}), ("snli", {"test": tested.to_dict()}), ("race", {"sample": True})):
        (workshop.place(task) / "scores.json").write_text(json.dumps({**score.to_dict(), **more}))
    cells = [workshop.artifact("finetune", task, {"task": task, "variant": "full"}) for task in ("mnli", "snli", "race")]
    found = {(one.dataset_type, one.dataset_split, one.metric_name): one for one in results(card([workshop.pretrain(), *cells]))}
    mnli = [one for one in found.values() if one.dataset_config == "mnli"]
    assert {one.dataset_split for one in mnli} == {"validation_matched+validation_mismatched"}
    assert sorted((one.metric_name, one.metric_value) for one in mnli) == [
        ("accuracy (%)", 80.0), ("accuracy (%, matched)", 81.0), ("accuracy (%, mismatched)", 79.0),
    ]  # fmt: skip
    assert [one.metric_value for one in found.values() if one.dataset_split == "test"] == [70.0]
    assert {one.dataset_name for one in found.values() if one.dataset_type == "ehovy/race"} == {"RACE (a sample)"}


def test_ablations_are_in_the_table_alone(workshop: Workshop) -> None:
    variants = ("full", "no_auxiliary_lm")
    cells = [
        workshop.scored("finetune", f"finetune[{variant}]", {"task": "rte", "variant": variant}, value)
        for variant, value in zip(variants, (60.0, 55.0), strict=True)
    ]
    found = card([workshop.pretrain(), *cells])
    assert [one.metric_value for one in results(found) if one.dataset_config == "rte"] == [60.0]
    assert "(no_auxiliary_lm)".replace("_", "\\_") in found.content


@pytest.mark.parametrize(
    ("source", "datasets"),
    [
        ("books", None),
        ("embedded", None),
        ("https://example.org/books.zip", None),
        ("hf://datasets/someone/novels@main/part", ["someone/novels"]),
        (["hf://datasets/someone/novels", "books"], ["someone/novels"]),
    ],
)
def test_data_sets_are_named_where_the_books_came_from_the_hub(
    workshop: Workshop, source: object, datasets: list[str] | None
) -> None:
    ingest = workshop.artifact("ingest", settings={"source": source}, summary={"books": 3})
    assert card([ingest, workshop.pretrain()]).data.datasets == datasets


def test_no_license_is_invented(workshop: Workshop) -> None:
    found = card(workshop.everything())
    assert found.data.license is None
    assert "## License\n\nNone is stated." in found.content
    chosen = card(workshop.everything(), name="mine", language="de", license="cc-by-nc-4.0")
    assert (chosen.data.license, chosen.data.language, chosen.data.model_name) == ("cc-by-nc-4.0", "de", "mine")
    assert "None is stated" not in chosen.content


def test_a_card_without_records_has_neither_scores_nor_sections_for_them() -> None:
    found = card([])
    assert found.data.eval_results is None
    headings = [line for line in found.content.splitlines() if line.startswith("## ")]
    assert headings == [
        "## Model", "## Intended use", "## Limitations and bias", "## License", "## Citation",
    ]  # fmt: skip


def test_a_fine_tuned_model_has_its_own_score_only(workshop: Workshop) -> None:
    tuned = samples.tuned(task_named("rte"))
    cell = workshop.scored("finetune", "finetune[rte]", {"task": "rte", "seed": 3, "variant": "full"}, 60.0)
    behind = [source_of(one) for one in (*workshop.corpus(), workshop.pretrain(), cell)]
    found = ModelCard(model_card(tuned.model.gpt.config, samples.vocabulary(), behind, tuned))
    assert found.data.pipeline_tag == "text-classification"
    assert [(one.dataset_config, one.metric_value) for one in results(found)] == [("rte", 60.0)]
    assert "ids = [60, *first, 61, *second, 62]" in found.content
    assert "| cell | finetune\\[rte\\] |" in found.content


def test_a_title_is_one_line(workshop: Workshop) -> None:
    tuned = samples.tuned(replace(task_named("rte"), title="Odd: *x*\n# <b>\n---"))
    text = model_card(tuned.model.gpt.config, samples.vocabulary(), [source_of(workshop.pretrain())], tuned)
    assert [line for line in text.splitlines() if line.startswith("# ")] == [r"# GPT-1, fine-tuned for Odd: \*x\* \# \<b\> ---"]


@pytest.mark.parametrize("source", [".", "..", "/"])
def test_a_folder_without_a_name(workshop: Workshop, source: str) -> None:
    ingest = workshop.artifact("ingest", settings={"source": source}, summary={"books": 3})
    assert "Books from: A folder." in card([ingest, workshop.pretrain()]).content


def test_origin_and_given_weights_are_named_without_paths(workshop: Workshop) -> None:
    pretrain = workshop.pretrain(init_from="/home/someone/secret/published")
    made = {"git_commit": "abc|def", "run": "r1", "packages": {"torch": "2.13.0"}}
    found = card([*workshop.corpus(), replace(pretrain, provenance=made)])
    for row in ("| commit | abc\\|def |", "| fingerprint | " + pretrain.fingerprint, "| torch | 2.13.0 |"):
        assert row in found.content
    assert "Training began with given weights: The folder or file 'published'" in found.content
    assert "/home/someone" not in found.content


def test_how_a_given_model_was_trained_is_left_open(workshop: Workshop) -> None:
    found = card([workshop.artifact("given", "published", {"checkpoint": "/home/someone/from-hf"}, {"parameters": 117})])
    assert "## Training\n\nThe weights were given (The folder or file 'from-hf')" in found.content
    assert "/home/someone" not in found.content
