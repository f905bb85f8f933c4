"""Stores of finished workflows for benchmarks/plan.py, with the records and files that the product
writes and without its work.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

from gpt1.tasks.registry import TASKS
from pipeline.planning.planner import Plan
from pipeline.planning.provenance import provenance
from pipeline.store.atomic import to_json
from pipeline.store.base import BEGUN
from pipeline.store.record import ArtifactRecord, content_digest, record_name
from stages.contract import StoredFile

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "tests" / "e2e" / "mini.yaml"
FILES = ("scores.json", "metrics.jsonl", "predictions.jsonl")
"""Of a fine-tuning; here every job has three."""
REPORT = "report.html"
ATTEMPT = "20260101-000000.000000-abcdef"
SUMMARY = {
    "accuracy": 18.333333333333332, "baseline": 16.666666666666664, "baseline_kind": "majority",
    "best_epoch": 1, "cut": {"dev": 0, "train": 0}, "metric": "accuracy", "n": 60, "sample": False,
    "standard_error": 5.100447838981257, "train_rows": 120, "variant": "full",
}  # fmt: skip


def write_workflow(file: Path, finetunings: int) -> Path:
    """The workflow of the tests, every stage, with that many fine-tuning jobs."""
    workflow = yaml.safe_load(MINI.read_text())
    matrix = workflow["stages"]["finetune"]["matrix"]
    matrix["seed"] = list(range(1, finetunings // len(matrix["task"]) + 1))
    file.write_text(yaml.safe_dump(workflow, default_flow_style=None, sort_keys=False))
    return file


def write_task_data(folder: Path) -> Path:
    """Files of the paper's tasks, with their names and nothing in them."""
    for task in TASKS.values():
        for sources in task.files.values():
            for source in sources:
                path = folder / task.folder / source.path
                if not path.suffix:
                    path = path / "1.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n")
    return folder


def finish(plan: Plan, root: Path) -> int:
    """Write all that an empty store at `root` has when everything in the plan has run; returns how
    many records that is.

    As `Store.publish` writes them; not one by one to the disk, which would take an hour.
    """
    digests: dict[str, str] = {}
    for entry in plan.entries.values():
        cell, folder = entry.cell, f"{entry.job}/{ATTEMPT}"
        place = root / folder
        place.mkdir(parents=True)
        (place / BEGUN).write_bytes(to_json({"run": "benchmark", "when": 0.0}))
        files: dict[str, StoredFile] = {}
        for name in (*FILES, *([REPORT] if cell.uses == "report" else [])):
            data = json.dumps({"job": cell.id, "file": name}).encode()
            (place / name).write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            files[name] = StoredFile(name, f"{folder}/{name}", len(data), sha256)
        needs = {need: plan.entries[need].fingerprint for need in cell.needs}
        settings = cell.settings.model_dump(mode="json")
        record = ArtifactRecord(
            stage=cell.uses, fingerprint=entry.fingerprint, attempt=ATTEMPT, cell=cell.id,
            digest=content_digest(files), files=files, identity=entry.identity,
            settings=settings, summary=SUMMARY, inputs=needs,
            input_digests={print_: digests[print_] for print_ in needs.values()},
            parts={"made": 0, "reused": 0}, resources=vars(cell.resources), run="benchmark",
            started=0.0, finished=60.0, seconds=60.0,
            **provenance(cell.uses, settings.get("task")),
        )  # fmt: skip
        digests[entry.fingerprint] = record.digest
        (root / entry.job / record_name(1)).write_bytes(record.to_bytes())
    return len(plan.entries)
