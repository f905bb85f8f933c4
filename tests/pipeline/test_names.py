"""Which figures of the demo's stages are parameters, and which are metrics, by what names."""

import pytest

from pipeline.tracking.names import split_summary

DEMO = {
    "ingest": ("files", "authors books bytes characters stretches_of_sentences words"),
    "clean": ("", "books bytes bytes_in sentences sentences_in words words_in"),
    "split": ("", "held_out_books train_books=train/books duplicate_characters tied_books"),
    "audit": ("", "books rejected sentence_words unique_words"),
    "vocabulary": ("merges sha256 tokenizer_json vocabulary", "characters word_types words"),
    "shard": (
        "baseline_targets baseline_trained_on",
        "bigram_perplexity tokens_per_word train_tokens=train/tokens unknown unknown_rate",
    ),
    "pretrain": (
        "deviation epochs parameters steps tokens",
        "bigram_perplexity of_unigram train_loss=train/loss unigram_perplexity"
        " validation_bits_per_byte=val/bpb validation_loss=val/loss skipped_batches="
        "train/skipped_batches validation_perplexity=val/perplexity",
    ),
    "task_data": ("baseline_kind sample task", "baseline"),
    "encode": ("task", "dev_ids=dev/ids train_ids=train/ids"),
    "finetune": (
        "baseline_kind best_epoch metric n num_layers_transferred sample seed train_rows variant",
        "accuracy=dev/accuracy accuracy/held_out=dev/accuracy/held_out baseline standard_error"
        " f1=dev/f1 test_matthews=test/matthews standard_errors_above_baseline",
    ),
    "transfer": ("layers train_n", "train_accuracy=train/accuracy"),
    "zero_shot": ("normalized_against scored_on split standard_error_kind", "normalized"),
    "export": ("files parameters", ""),
    "report": (
        "tasks",
        "score/demo_author tasks_above_baseline val/perplexity/pretrain unigram_perplexity",
    ),
    "submission": ("glue_files glue_files_missing other_files", ""),
}
"""By stage: parameters, and metrics with the name in MLflow where it differs."""
WORDS = {
    "sha256", "deviation", "baseline_kind", "task", "metric", "variant", "normalized_against",
    "scored_on", "split", "standard_error_kind",
}  # fmt: skip
FLAGS = {"tokenizer_json", "sample"}


@pytest.mark.parametrize("stage", DEMO)
def test_the_demos_summaries(stage: str) -> None:
    params, metrics = (set(names.split()) for names in DEMO[stage])
    names = params | {name.partition("=")[0] for name in metrics}
    values = {name: "x" if name in WORDS else name not in FLAGS and 3 for name in names}
    found = split_summary({**values, "rules": {"ftfy": 4}, "exported": ["hf"], "lost": None})
    assert found[0] == {name: values[name] for name in params}
    assert found[1] == {name.rpartition("=")[2]: 3.0 for name in metrics}
