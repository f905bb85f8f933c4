"""The paper's tables 2 to 5 with its baseline rows, and our figures
under them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.report.published import NOTES, OTHERS
from gpt1.tasks.metrics import GLUE_METRICS, glue_score

Row = tuple[str, tuple[float | None, ...]]

COLUMNS: Mapping[int, tuple[tuple[str, str, str], ...]] = {
    2: (("MNLI-m", "mnli", "accuracy/matched"), ("MNLI-mm", "mnli", "accuracy/mismatched"),
        ("SNLI", "snli", "accuracy"), ("SciTail", "scitail", "accuracy"),
        ("QNLI", "qnli", "accuracy"), ("RTE", "rte", "accuracy")),
    3: (("Story Cloze", "storycloze", "accuracy"), ("RACE-m", "race", "accuracy/middle"),
        ("RACE-h", "race", "accuracy/high"), ("RACE", "race", "accuracy")),
    4: (("CoLA", "cola", "matthews"), ("SST-2", "sst2", "accuracy"), ("MRPC", "mrpc", "f1"),
        ("STS-B", "stsb", "pearson"), ("QQP", "qqp", "f1"), ("GLUE", "", "")),
    5: (("CoLA", "cola", "matthews"), ("SST-2", "sst2", "accuracy"), ("MRPC", "mrpc", "f1"),
        ("STS-B", "stsb", "pearson"), ("QQP", "qqp", "f1"), ("MNLI", "mnli", "accuracy"),
        ("QNLI", "qnli", "accuracy"), ("RTE", "rte", "accuracy")),
}  # fmt: skip
"""Of each table its columns: heading, task, metric. GLUE's is the score of nine tasks."""

PAPER: Mapping[int, tuple[Row, ...]] = {
    2: (
        ("ESIM + ELMo (5x)", (None, None, 89.3, None, None, None)),
        ("CAFE (5x)", (80.2, 79.0, 89.3, None, None, None)),
        ("SAN (3x)", (80.6, 80.1, None, None, None, None)),
        ("CAFE", (78.7, 77.9, 88.5, 83.3, None, None)),
        ("GenSen", (71.4, 71.3, None, None, 82.3, 59.2)),
        ("multi-task BiLSTM + Attn", (72.2, 72.1, None, None, 82.1, 61.7)),
        ("paper's GPT", (82.1, 81.4, 89.9, 88.3, 88.1, 56.0)),
    ),
    3: (
        ("val-LS-skip", (76.5, None, None, None)), ("Hidden Coherence", (77.6, None, None, None)),
        ("Dynamic Fusion Net (9x)", (None, 55.6, 49.4, 51.2)),
        ("BiAttention MRU (9x)", (None, 60.2, 50.3, 53.3)),
        ("paper's GPT", (86.5, 62.9, 57.4, 59.0)),
    ),
    4: (
        ("byte mLSTM", (None, 93.2, None, None, None, None)),
        ("TF-KLD", (None, None, 86.0, None, None, None)),
        ("ECNU", (None, None, None, 81.0, None, None)),
        ("single-task BiLSTM + ELMo + Attn", (35.0, 90.2, 80.2, 55.5, 66.1, 64.8)),
        ("multi-task BiLSTM + ELMo + Attn", (18.9, 91.6, 83.5, 72.8, 63.3, 68.9)),
        ("paper's GPT", (45.4, 91.3, 82.3, 82.0, 70.3, 72.8)),
    ),
    5: (
        ("paper, full", (45.4, 91.3, 82.3, 82.0, 70.3, 81.8, 88.1, 56.0)),
        ("paper, no_pretraining", (18.9, 84.0, 79.4, 30.9, 65.5, 75.7, 71.2, 53.8)),
        ("paper, no_auxiliary_lm", (47.9, 92.0, 84.9, 83.2, 69.8, 81.1, 86.9, 54.4)),
        ("paper, lstm", (30.3, 90.5, 83.2, 71.8, 68.1, 73.7, 81.1, 54.6)),
    ),
}  # fmt: skip
"""Test scores in per cent; None where the paper has no figure."""

MAIN = "full"


def table_facts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All four tables; `ours` is empty where no column has a figure.

    `rows`: those of `gpt1.report.tasks.finetune_facts`.

    `others` are rows of later models, `note` says where they come from. Our figures are medians
    over the seeds, on dev; `difference` is ours less the paper's, `gain` ours less the best earlier
    row. Tables 2 to 4 show the variant `full`, table 5 all. GLUE's column stays empty until all
    nine tasks have run.
    """
    found = []
    for number, columns in COLUMNS.items():
        variants = sorted({_variant(row) for row in rows}) if number == 5 else [MAIN]
        ours = {
            variant: [_ours(rows, variant, task, metric) for _, task, metric in columns]
            for variant in variants
        }
        samples = _samples(rows, [task for _, task, _ in columns])
        found.append(
            {"samples": samples}
            | _table(
                number, columns,
                {variant: row for variant, row in ours.items() if row != [None] * len(row)},
            )
        )
    return found


def _samples(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[str]:
    """What was scored on, or trained on, fewer rows than the publisher has: `RTE (600 of 2,490
    training rows, 200 dev rows)`.
    """
    found = []
    for row in rows:
        if row["task"] not in tasks or not row["sample"]:
            continue
        known = row["train_rows"] and row["official_train_rows"]
        trained = (
            f"{row['train_rows']:,} of {row['official_train_rows']:,} training rows, "
            if known
            else ""
        )
        found.append(f"{row['title']} ({trained}{row['n']:,} dev rows)")
    return list(dict.fromkeys(found))


def _table(
    number: int, columns: Sequence[tuple[str, str, str]], ours: Mapping[str, list[float | None]]
) -> dict[str, Any]:
    paper = [{"name": name, "values": list(values)} for name, values in PAPER[number]]
    mine = [{"name": f"ours, {variant}", "values": cells} for variant, cells in ours.items()]
    others = [{"name": name, "values": list(values)} for name, values in OTHERS.get(number, ())]
    compared = number != 5 and MAIN in ours
    lines = _compared(PAPER[number], ours[MAIN]) if compared else {"difference": [], "gain": []}
    return {"number": number, "columns": [heading for heading, _, _ in columns], "paper": paper,
            "ours": mine, "others": others, "note": NOTES[number], **lines}  # fmt: skip


def _compared(paper: Sequence[Row], ours: Sequence[float | None]) -> dict[str, list[float | None]]:
    """Ours less the paper's, and less the best earlier single figure of each column."""
    published = paper[-1][1]
    columns = zip(*(row for _, row in paper[:-1]), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    best = [max(values, default=None) for values in known]
    return {"difference": _less(ours, published), "gain": _less(ours, best)}


def _less(ours: Sequence[float | None], others: Sequence[float | None]) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(ours, others, strict=True)]


def _variant(row: Mapping[str, Any]) -> str:
    """The variant alone; a row that differs in other settings too keeps their names, so it is
    not taken for the plain variant.
    """
    return row["variant"] if "=" in row["variant"] else row["variant_setting"]


def _ours(rows: Sequence[Mapping[str, Any]], variant: str, task: str, metric: str) -> float | None:
    if not task:
        return glue_score(
            {
                row["task"]: row["medians"]
                for row in rows
                if _variant(row) == variant and row["task"] in GLUE_METRICS
            }
        )[0]
    return next(
        (
            row["medians"].get(metric)
            for row in rows
            if row["task"] == task and _variant(row) == variant
        ),
        None,
    )
