"""Outputs of a small workflow, written by hand, for what the golden run has none of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.contract import Artifact
from tests.stages.runs import given

SCORE = {"metric": "accuracy", "baseline": 50.0, "baseline_kind": "chance"}
SCORE |= {"standard_error": 2.2, "error_kind": "binomial", "n": 500}
BOOKS = {"books": 61, "words": 1_683_201}
SUMMARIES: Mapping[str, Any] = {
    "clean": {"words": 1_652_310, "rejected": {"too_short": 2}, "rules": {"join_lines": 18_211}},
    "split": {"train_books": 52, "held_out_books": 6},
    "shard": {"unigram_perplexity": 531.7, "bigram_perplexity": 171.3},
}


class Workshop:
    """Makes artifacts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def artifact(self, stage: str, cell: str = "", files: Any = (), **about: Any) -> Artifact:
        """An artifact of JSON Lines files, by name."""
        folder = self.folder / (cell or stage)
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in dict(files).items():
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return given(folder, stage, cell, **about)

    def corpus(self, source: object = "/home/someone/books") -> list[Artifact]:
        """ingest, clean, split and shard."""
        rest = [self.artifact(stage, summary=one) for stage, one in SUMMARIES.items()]
        return [self.artifact("ingest", settings={"source": source}, summary=BOOKS), *rest]

    def pretrain(self, cell: str = "pretrain", final: float = 121.4, **settings: Any) -> Artifact:
        """A curve from step 0 that ends at `final`, a sample, and what it took."""
        points = ((0, 2000.0, 4.0), (200, final, 2.5), (400, final, 2.2))
        names = ("step", "validation_perplexity", "validation_bits_per_byte")
        rows = [dict(zip(names, point, strict=True)) for point in points]
        for row in rows[1:]:
            row["loss"] = row["step"] / 99
        text = {"prompt": "she looked at him & said <b>", "text": "the lamp *was* out | so ."}
        speed = [{"step": n, "tokens_per_second": 1000.0 + n, "tflops": 6e-3} for n in (10, 20, 30)]
        files: dict[str, Any] = {"metrics.jsonl": rows, "throughput.jsonl": speed}
        files["hardware.json"] = [{"device": "AMD EPYC", "ranks": 2}]
        files["samples.jsonl"] = [{"step": 400, **text}]
        summary = {"parameters": 1_345_024, "tokens": 1_638_400, "validation_perplexity": final}
        return self.artifact("pretrain", cell, files, settings=settings, summary=summary)

    def scored(self, settings: Mapping[str, Any], value: float, **more: Any) -> Artifact:
        """A fine-tuned cell."""
        cell = "finetune[" + ",".join(map(str, settings.values())) + "]"
        scores = {**SCORE, "values": {"accuracy": value}, **more}
        return self.artifact("finetune", cell, {"scores.json": [scores]}, settings=settings)

    def tasks(self) -> list[Artifact]:
        """Two tasks, one with three seeds, and one scored zero-shot."""
        rows = [("demo_choice", 1, 58.4), *(("demo_author", n, 60.0 + n**2) for n in (1, 2, 3))]
        named = [({"task": t, "seed": n, "keep_model": n == 1}, value) for t, n, value in rows]
        scored = [self.scored(settings, value) for settings, value in named]
        curve = [{"step": 400, "accuracy": 56.4, "normalized": 0.1}]
        scores = {**SCORE, "values": {"accuracy": 56.4}}
        files = {"scores.json": [scores], "curve.jsonl": curve}
        about = {"task": "demo_choice"}
        return [*scored, self.artifact("zero_shot", "", files, settings=about)]
