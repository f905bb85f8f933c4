"""The export stage: a folder that transformers reads, and a card with the records' figures."""

from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from gpt1.report.model_card import Publication, model_card
from gpt1.tasks.registry import task_named
from gpt1.weights.checkpoint import Checkpoint, save_checkpoint
from gpt1.weights.hf import export
from stages.contract import Artifact, StoredFile
from stages.export import ExportSettings
from stages.report import source_of
from tests.gpt1 import weight_samples as samples
from tests.pipeline.inline import output
from tests.stages.report_samples import Workshop
from tests.stages.runs import given, run_stage

Card = huggingface_hub.ModelCard


def test_the_folder_is_the_model_in_transformers_form_and_a_card(tmp_path: Path) -> None:
    """tests/gpt1/test_weights_openai.py has what transformers makes of it."""
    ours, vocabulary = tmp_path / "ours", samples.vocabulary()
    save_checkpoint(ours, Checkpoint(samples.model(), vocabulary))
    summary = {"validation_perplexity": 12.5, "steps": 1000, "epochs": None}
    inputs = [given(ours, stage, summary=summary) for stage in ("pretrain", "vocabulary")]
    settings = ExportSettings(license="cc-by-4.0", registry_name="mine")
    folder = output(run_stage(settings, inputs, tmp_path / "store"), "hf/config.json").parent
    for file in export(tmp_path / "exported", samples.model(), vocabulary, ""):
        same = (folder / file.name).read_bytes() == file.read_bytes()
        assert same or file.name == "README.md"
    found = Card.load(folder / "README.md")
    assert (found.data.license, found.data.model_name) == ("cc-by-4.0", "mine")
    assert ("| steps | 1,000 |" in found.content, "epochs" in found.content) == (True, False)


def values(card: huggingface_hub.ModelCard) -> dict[tuple[str, str], float]:
    """Scores by data set and the metric's name."""
    found = card.data.eval_results or []
    return {(one.dataset_type, one.metric_name): one.metric_value for one in found}


def read(file: StoredFile) -> Path:
    return Path(file.key)


def card(artifacts: list[Artifact], **publication: str) -> huggingface_hub.ModelCard:
    sources = [source_of(one, read) for one in artifacts]
    about = (samples.model().config, samples.vocabulary(), sources, None)
    return Card(model_card(*about, Publication(**publication)))


def test_the_card_s_scores_are_those_of_the_records(work: Workshop) -> None:
    inputs = [*work.corpus(), work.pretrain(), *work.tasks()]
    found = card(inputs)
    tasks = [("choice", "", 58.4), ("author", ", median of 3 seeds", 64.0)]
    tasks.append(("choice", ", zero-shot", 56.4))
    expected = {(f"demo_{task}", f"accuracy (%{more})"): value for task, more, value in tasks}
    assert values(found) == {("books", "Perplexity"): 121.4, **expected}
    rows = ["bigram model | 171.3", "words read | 1,683,201", "rejected as `too_short` | 2"]
    rows += ["held-out books | 6", "Whose prose | accuracy | 64.0 (median of 3"]
    assert not [row for row in rows if f"| {row}" not in found.content]


def test_groups_tests_and_ablations_of_a_task(work: Workshop) -> None:
    """MNLI's two dev sets are two splits of one data set; a test score is a result of its own."""
    groups = {"accuracy": 80.0, "accuracy/matched": 81.0, "accuracy/mismatched": 79.0}
    tested = {"metric": "accuracy", "values": {"accuracy": 70.0}, "n": 100}
    more = {"mnli": {"values": groups}, "snli": {"test": tested}, "race": {"sample": True}}
    inputs = [work.scored({"task": name}, 80.0, **one) for name, one in more.items()]
    inputs.append(work.scored({"task": "rte", "variant": "no_auxiliary_lm"}, 55.0))
    written = card([work.pretrain(), *inputs])
    found = written.data.eval_results or []
    mnli = {one.metric_value: one.dataset_split for one in found if one.dataset_config == "mnli"}
    assert mnli == dict.fromkeys((79.0, 80.0, 81.0), "validation_matched+validation_mismatched")
    assert [one.metric_value for one in found if one.dataset_split == "test"] == [70.0]
    assert "RACE (a sample)" in {one.dataset_name for one in found}
    assert "rte" not in {one.dataset_config for one in found}  # in the table alone
    assert "(no\\_auxiliary\\_lm)" in written.content


ORIGINS: list[tuple[object, str]] = [
    ("embedded", "Public-domain prose"), ("/home/someone/books", "The folder or file 'books'"),
    ("..", "A folder"),
    ("https://key:secret@example.org/books.zip?token=1", "https://example.org/books.zip"),
    (["hf://datasets/someone/novels@main/part", "b"], "hf://datasets/someone/novels"),
]


@pytest.mark.parametrize(("source", "named"), ORIGINS)
def test_where_the_books_came_from(source: object, named: str, work: Workshop) -> None:
    about = {"git_commit": "abc|def", "packages": {"torch": "2.13.0"}}
    pretrain = replace(work.pretrain(init_from="/home/someone/published"), provenance=about)
    found = card([*work.corpus(source), pretrain])
    assert found.data.datasets == (["someone/novels"] if named.startswith("hf:") else None)
    rows = ("commit | abc\\|def", f"fingerprint | {pretrain.fingerprint}", "torch | 2.13.0")
    texts = [f"Books from: {named}", "The folder or file 'published'", *(f"| {r} |" for r in rows)]
    assert not [text for text in texts if text not in found.content]
    assert not [word for word in ("/home/someone", "secret", "token=") if word in found.content]


def test_a_card_without_records_invents_nothing(work: Workshop) -> None:
    found = card([])
    assert (found.data.eval_results, found.data.license) == (None, None)
    assert "## License\n\nNone is stated." in found.content
    assert not [part for part in ("Training", "Evaluation") if f"## {part}" in found.content]
    other = card([work.artifact("pretrained", settings={"checkpoint": "/home/someone/from-hf"})])
    assert "## Training\n\nImported weights: The folder or file 'from-hf'" in other.content


def test_a_fine_tuned_model_has_its_own_score_and_a_title_of_one_line(work: Workshop) -> None:
    tuned = samples.tuned(task_named("rte"))
    cell = work.scored({"task": "rte", "seed": 3}, 60.0)
    behind = [source_of(one, read) for one in (*work.corpus(), work.pretrain(), cell)]
    about = (tuned.model.gpt.config, samples.vocabulary(), behind)
    found = Card(model_card(*about, tuned))
    assert found.data.pipeline_tag == "text-classification"
    assert list(values(found).values()) == [60.0]
    assert "ids = [60, *first, 61, *second, 62]" in found.content
    odd = samples.tuned(replace(task_named("rte"), title="Odd: *x*\n# <b>\n---"))
    titles = [line for line in model_card(*about, odd).splitlines() if line.startswith("# ")]
    assert titles == [r"# GPT-1, fine-tuned for Odd: \*x\* \# \<b\> ---"]
