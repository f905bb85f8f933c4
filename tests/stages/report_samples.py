"""Outputs of a small workflow, written with the stages' own writers, for the tests of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt1.tasks.metrics import Score
from gpt1.train.history import History
from stages.contract import Artifact, OutputFile

PROMPTS = ("it was a dark and stormy night", "she looked at him & said <b>", "the old man")

PRETRAINED = {"parameters": 1_345_024, "tokens": 1_638_400, "epochs": 0.87}


class Workshop:
    """Makes artifacts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def artifact(
        self, stage: str, cell: str = "", settings: Mapping[str, Any] | None = None, summary: Mapping[str, Any] | None = None
    ) -> Artifact:
        """An artifact whose files are those found in the cell's folder."""
        cell = cell or stage
        folder = self.place(cell)
        files = {
            str(path.relative_to(folder)): OutputFile(str(path.relative_to(folder)), path, path.stat().st_size, "0" * 64)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return Artifact(stage, cell, f"{len(cell):02x}" * 16, "ab" * 32, settings or {}, summary or {}, files)

    def place(self, cell: str) -> Path:
        folder = self.folder / cell
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def corpus(self) -> list[Artifact]:
        """ingest, clean, split, vocabulary and shard."""
        books = {"books": 61, "files": 412, "authors": 17, "words": 1_683_201}
        kept = {"books": 59, "words": 1_652_310, "rejected": {"too_short": 2}, "rules": {"joined_lines": 18211, "illustration": 31}}
        sets = {"train_books": 52, "held_out_books": 6, "duplicate_books": 1}
        shards = {"train_tokens": 1_910_233, "held_out_tokens": 171_200, "unigram_perplexity": 531.7, "bigram_perplexity": 171.3}
        return [
            self.artifact("ingest", settings={"source": "/home/someone/books", "parts": 16}, summary=books),
            self.artifact("clean", settings={"join_lines": True}, summary=kept),
            self.artifact("split", settings={"held_out": 0.1}, summary=sets),
            self.artifact("vocabulary", settings={"merges": 4000}, summary={"vocabulary": 4190, "merges": 4000}),
            self.artifact("shard", summary=shards),
        ]

    def pretrain(self, cell: str = "pretrain", final: float = 121.4, **settings: Any) -> Artifact:
        """A curve that falls to `final`, and samples."""
        history = History()
        for step in range(10, 401, 10):
            loss = math.log(final) - 0.2 + 3.2 * math.exp(-step / 60) + 0.15 * math.sin(step * 1.7)
            rate = 1e-3 * min(step / 40, 0.5 * (1 + math.cos(math.pi * max(step - 40, 0) / 360)))
            history.row(step, {"loss": loss, "lr": rate, "gradient_norm": 1.2 + math.sin(step)})
            if step % 50 == 0:
                nats = math.log(final) + 3 * math.exp(-step / 60) - 3 * math.exp(-400 / 60)
                history.row(step, {"validation_loss": nats, "validation_perplexity": math.exp(nats)})
                history.samples += [
                    {
                        "step": step,
                        "prompt": prompt,
                        "text": f"and the wind went on, {step} times,\nuntil the lamp *was* out | so .",
                    }
                    for prompt in PROMPTS
                ]
        history.write(self.place(cell))
        chosen = {"steps": 400, "max_lr": 1e-3, "model": {"width": 128, "layers": 4}, **settings}
        return self.artifact("pretrain", cell, chosen, {**PRETRAINED, "validation_perplexity": final})

    def scored(self, stage: str, cell: str, settings: Mapping[str, Any], value: float, baseline: float = 50.0) -> Artifact:
        """A fine-tuned cell with its scores."""
        (self.place(cell) / "scores.json").write_text(json.dumps({**_score(value, baseline).to_dict(), "best_epoch": 2}))
        return self.artifact(stage, cell, settings)

    def finetune(self) -> list[Artifact]:
        """Four tasks, one of them with three seeds and one no better than its baseline."""
        rows = [("demo_choice", 1, 58.4, 50.0), ("demo_entailment", 1, 71.2, 50.0), ("demo_similarity", 1, 50.8, 50.0)]
        rows += [("demo_author", seed, value, 21.3) for seed, value in ((1, 61.0), (2, 66.0), (3, 62.5))]
        return [
            self.scored("finetune", f"finetune[{task},{seed}]", {"task": task, "seed": seed}, value, base)
            for task, seed, value, base in rows
        ]

    def transfer(self) -> list[Artifact]:
        """0, 2 and 4 layers."""
        rows = ((0, 52.0), (2, 60.0), (4, 71.0))
        return [
            self.scored("transfer", f"transfer[{n}]", {"task": "demo_entailment", "seed": 1, "transferred": n}, score)
            for n, score in rows
        ]

    def zero_shot(self) -> Artifact:
        """Three points of pre-training."""
        rows = [{"step": step, "accuracy": value, "normalised": 0.1} for step, value in ((100, 50.2), (200, 53.0), (400, 56.4))]
        folder = self.place("zero_shot")
        (folder / "scores.json").write_text(json.dumps(_score(56.4, 50.0).to_dict()))
        (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return self.artifact("zero_shot", settings={"task": "demo_choice"})

    def everything(self) -> list[Artifact]:
        """The whole workflow."""
        return [*self.corpus(), self.pretrain(), *self.finetune(), *self.transfer(), self.zero_shot()]


def _score(value: float, baseline: float) -> Score:
    kind = "majority" if baseline < 50 else "chance"
    return Score("accuracy", {"accuracy": value}, baseline, kind, 2.2, "binomial", 500)
