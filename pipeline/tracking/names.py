"""Temporary."""
from typing import Any, Mapping

SETS = {"validation_": "val/", "dev_": "dev/", "test_": "test/", "train_": "train/"}
TRAINING = ("loss", "lr", "gradient_norm", "task_loss", "lm_loss", "skipped_batches")
SCORES = ("accuracy", "f1", "matthews", "pearson", "spearman")
def metric_name(name: str) -> str:
    for prefix, place in SETS.items():
        if name.startswith(prefix):
            return place + name.removeprefix(prefix).replace("bits_per_byte", "bpb")
    if name in TRAINING:
        return f"train/{name.replace('gradient', 'grad')}"
    return f"dev/{name}" if name.split("/")[0] in SCORES else name
def split_summary(summary: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    return {}, {metric_name(n): float(v) for n, v in summary.items() if isinstance(v, int | float)}
