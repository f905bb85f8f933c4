"""Figures of other models that the field compares with GPT-1, by the columns of the paper's tables.

Test scores in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping

Row = tuple[str, tuple[float | None, ...]]

OTHERS: Mapping[int, tuple[Row, ...]] = {
    2: (
        ("ESIM + ELMo, single (2018)", (None, None, 88.7, None, None, None)),
        ("BERT base (2019)", (84.6, 83.4, None, None, 90.5, 66.4)),
        ("BERT large (2019)", (86.7, 85.9, None, None, 92.7, 70.1)),
    ),
    4: (
        ("BERT base (2019)", (52.1, 93.5, 88.9, None, 71.2, None)),
        ("BERT large (2019)", (60.5, 94.9, 89.3, None, 72.1, None)),
    ),
}
"""ELMo: Peters et al. 2018, table 1. BERT: Devlin et al. 2019, table 1. In the order of
`gpt1.report.paper_tables.COLUMNS`.
"""

NOTES: Mapping[int, str] = {
    2: (
        "ELMo alone: Peters et al. 2018, table 1. BERT: Devlin et al. 2019, table 1 (QNLI in its"
        " second version, where GPT has 87.4). ELMo's ensemble is one of the paper's rows."
    ),
    3: "None of ELMo, ULMFiT and BERT reports these tasks in its own paper.",
    4: (
        "BERT: Devlin et al. 2019, table 1. Its STS-B is Spearman's (85.8 and 86.5) and its average"
        " excludes WNLI (79.6 and 82.1; GPT 75.1), so neither is shown here. ELMo is in the GLUE"
        " baseline rows. ULMFiT (Howard and Ruder 2018, tables 2 and 3) reports"
        " IMDb, TREC-6, AG News, DBpedia and Yelp: none of these columns."
    ),
    5: (
        "The paper's ablations; the other papers have no comparable ones. The paper's averages"
        " over these tasks, from top to bottom 74.7, 59.9, 75.0 and 69.1, use unrounded scores and"
        " two metrics for some tasks."
    ),
}
"""Where the rows come from, and what is left out and why."""
