"""What stages call a figure, and what MLflow shows it as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETS = {"validation_": "val/", "dev_": "dev/", "test_": "test/", "train_": "train/"}
TRAINING = ("loss", "lr", "gradient_norm", "task_loss", "lm_loss", "skipped_batches")
SCORES = (
    "accuracy", "f1", "matthews", "pearson", "spearman", "rougeL", "rouge1", "rouge2", "bleu",
    "meteor_no_synonyms",
)  # fmt: skip
CONSTANTS = {
    "seed", "steps", "epochs", "best_epoch", "tokens", "parameters", "layers",
    "num_layers_transferred", "merges", "vocabulary", "n", "train_n", "train_rows", "tasks",
    "files", "glue_files", "glue_files_missing", "other_files", "baseline_targets",
    "baseline_trained_on",
}  # fmt: skip
"""Numbers of summaries that settings or the size of the data give. Every other number is a metric:
scores, losses, perplexities, rates, and counts of what was found, kept or dropped.
"""


def metric_name(name: str) -> str:
    """The MLflow metric of a figure: train/loss, val/bpb, dev/accuracy; others keep their names."""
    for prefix, place in SETS.items():
        if name.startswith(prefix):
            return place + name.removeprefix(prefix).replace("bits_per_byte", "bpb")
    if name in TRAINING:
        return f"train/{name.replace('gradient', 'grad')}"
    return f"dev/{name}" if name.split("/")[0] in SCORES else name


def split_summary(
    summary: Mapping[str, Any],
) -> tuple[dict[str, str | int | float], dict[str, float]]:
    """The parameters, by a summary's own names, and the metrics, by MLflow's.

    Words, yes and no, and CONSTANTS are parameters. Lists and tables are in the record only.
    """
    params: dict[str, str | int | float] = {}
    metrics: dict[str, float] = {}
    for name, value in summary.items():
        if isinstance(value, str | bool) or (isinstance(value, int | float) and name in CONSTANTS):
            params[name] = value
        elif isinstance(value, int | float):
            metrics[metric_name(name)] = float(value)
    return params, metrics
