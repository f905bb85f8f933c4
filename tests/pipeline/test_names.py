"""Which figures of the stages' summaries are parameters, and which are metrics, by what names."""

from pipeline.tracking.names import split_summary

WORDS = "baseline_kind deviation metric normalized_against scored_on sha256 split task variant"
NUMBERS = (
    "baseline_targets baseline_trained_on best_epoch epochs files glue_files glue_files_missing"
    " layers merges n num_layers_transferred other_files parameters seed steps tasks tokens train_n"
    " train_rows vocabulary"
)
METRICS = (
    "accuracy=dev/accuracy accuracy/held_out=dev/accuracy/held_out baseline bigram_perplexity books"
    " bytes_in dev_ids=dev/ids duplicate_characters f1=dev/f1 held_out_books normalized of_unigram"
    " score/demo_author skipped_batches=train/skipped_batches tasks_above_baseline"
    " test_matthews=test/matthews tokens_per_word train_accuracy=train/accuracy"
    " train_books=train/books train_loss=train/loss unknown_rate val/perplexity/pretrain"
    " validation_bits_per_byte=val/bpb validation_perplexity=val/perplexity words"
)
"""With the name in MLflow where it differs."""


def test_figures_are_parameters_or_metrics() -> None:
    params = {**dict.fromkeys(WORDS.split(), "x"), **dict.fromkeys(NUMBERS.split(), 3)}
    params |= {"sample": True, "tokenizer_json": False}
    pairs = [name.partition("=") for name in METRICS.split()]
    figures = {name: 3 for name, _, _ in pairs} | {"rules": {"ftfy": 4}, "lost": None, "few": ["x"]}
    metrics = {shown or name: 3.0 for name, _, shown in pairs}
    assert split_summary({**params, **figures}) == (params, metrics)
