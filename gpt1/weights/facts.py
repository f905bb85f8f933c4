"""What the model card says of a model's making, from the published figures of the stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpt1.weights.card import Facts

Values = Mapping[str, Any]
_DATA = {
    "tokens": "tokens seen",
    "epochs": "epochs",
    "books": "books read",
    "train_books": "books trained on",
    "held_out_books": "books held out",
    "train_tokens": "tokens to train on",
}
_SCORES = {
    "validation_perplexity": "held-out perplexity",
    "unigram_perplexity": "unigram perplexity of the same text",
    "bigram_perplexity": "bigram perplexity of the same text",
}
_SETTINGS = (
    "batch", "max_lr", "warmup", "schedule", "weight_decay", "clip", "dropout", "embedding_dropout", "init_std", "precision",
    "seed", "lr", "epochs", "lm_weight", "classifier_dropout", "variant", "max_length", "truncation", "regression",
)  # fmt: skip


def card_facts(settings: Values, summary: Values, made_by: Values, others: Iterable[tuple[str, Values]] = ()) -> Facts:
    """Tables of the card: `settings`, `summary` and `made_by` of the model's own artifact; `others`: (cell, summary) of more.

    What is not known is left out. The figures of `others` are data (books, tokens) or scores of tasks.
    """
    rows = list(others)
    data = {label: shown(found) for name, label in _DATA.items() if (found := _first(name, summary, rows)) is not None}
    updates = {"updates": shown(summary["steps"])} if summary.get("steps") is not None else {}
    chosen = {name: shown(settings[name]) for name in _SETTINGS if settings.get(name) is not None}
    scores = {label: shown(summary[name]) for name, label in _SCORES.items() if summary.get(name) is not None}
    scores |= dict(filter(None, (_score("this model", summary), *(_score(cell, one) for cell, one in rows))))
    origin = {"commit": made_by.get("git_commit"), "MLflow run": made_by.get("mlflow_run_id"), "run": made_by.get("run")}
    return {
        "Data": data,
        "Settings": {**updates, **chosen},
        "Scores": scores,
        "Origin": {name: str(value) for name, value in origin.items() if value},
    }


def shown(value: Any) -> str:
    """Whole numbers with groups of three; of other numbers two decimals, or four significant digits when small."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4g}"


def _first(name: str, summary: Values, others: list[tuple[str, Values]]) -> Any:
    return next((found for one in (summary, *(one for _, one in others)) if (found := one.get(name)) is not None), None)


def _score(cell: str, summary: Values) -> tuple[str, str] | None:
    """A task's score on dev, from the summary of finetune or zero_shot; None where the summary has none."""
    metric = summary.get("metric")
    if not isinstance(metric, str) or metric not in summary:
        return None
    sampled = ", a sample" if summary.get("sample") else ""
    baseline = f"; {summary.get('baseline_kind', 'baseline')} {summary['baseline']:.1f}" if "baseline" in summary else ""
    return cell, f"{metric} {summary[metric]:.1f} ({summary.get('n')} dev examples{sampled}{baseline})"
