"""Faults that the tests must notice: `python -m tests.mutants [NAME ...]`, a part of `make chaos`.

A copy of the tree gets one fault at a time, by replacing one short line; then the tests that should
notice are run there, and the first that failed is printed. Status 1 if a fault survives, no longer
applies (its line is not there once), or if the tests fail without it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

LEFT_OUT = (".venv", ".git", "store", "__pycache__", ".*_cache", ".hypothesis")
SECONDS = 600


MUTANTS: dict[str, tuple[str, ...]] = {
    "a checkpoint taken unchecked": (
        "gpt1/train/checkpoint.py", "if found != expected:", "if False:",
        "pipeline/test_checkpoints.py"),
    "a lease never released": (
        "pipeline/store/lease.py", "self._give_back(list(self._held))", "pass",
        "pipeline/test_store_contract.py"),
    "a part taken unchecked": (
        "pipeline/execution/worker.py", "damage |= snapshot.damage(last.record)", "pass",
        "pipeline/test_plan.py"),
    "a file taken unchecked": (
        "pipeline/store/base.py", "if found == file.sha256 else", "if found else",
        "pipeline/test_store_contract.py"),
    "order that depends on ranks": (
        "gpt1/train/trainer.py", "range(ranks.rank, config.batch_size // size, ranks.world)",
        "range(config.batch_size // size // ranks.world)", "gpt1/test_train_elastic.py"),
    "dropout not seeded": (
        "gpt1/train/engine.py", "seed_micro_batch(self.seed, step, micro_batch.index)", "pass",
        "gpt1/test_train_resume.py"),
    "a point sent twice to MLflow": (
        "pipeline/tracking/exporter.py", "if is_again or step not in steps:", "if True:",
        "pipeline/test_tracking.py"),
    "a skipped book not recorded": (
        "gpt1/corpus/skipped.py", "self._write(asdict(skipped))", "pass", "stages/test_ingest.py"),
    "ids off by one merge": (
        "gpt1/tokenizer/bpe.py", "unranked = len(ranks)", "unranked = len(ranks) - 1",
        "gpt1/tokenizer"),
    "a wrong metric": (
        "gpt1/tasks/metrics.py", "int(truth.sum()) + int(found.sum())", "int(truth.sum()) * 2",
        "gpt1/test_tasks_metrics.py"),
    "escapes reach a terminal": (
        "gpt1/terminal.py", "clean(text).encode", "text.encode", "pipeline/test_terminal.py"),
    "exit 0 on failure": (
        "pipeline/cli/main.py", "return outcome.status", "return 0", "pipeline/test_run.py"),
}  # fmt: skip
"""Faults: in the file, the first text becomes the second; one of the tests in tests/ must fail."""


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """The status of pytest there, and the first test that fell or the last line of its output."""
    options = ["-q", "-x", "-m", "not chaos", "-p", "no:cacheprovider"]
    how: Any = {"cwd": tree, "env": {**os.environ, "PYTHONPATH": str(tree)}, "timeout": SECONDS}
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{name}" for name in tests)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, **how)
    except subprocess.TimeoutExpired:
        return -1, f"no end within {SECONDS} s"
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    last = (done.stdout + done.stderr).strip().rpartition("\n")[2]
    return done.returncode, found[1] if found else last


def survives(tree: Path, mutant: tuple[str, ...]) -> tuple[bool, str]:
    """Whether the tests passed over a fault, or could not be run on it; and what is to be said."""
    name, old, new, *tests = mutant
    file = tree / name
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if (times := text.count(old)) != 1:
        return True, f"no longer applies: {name} has {old.strip()!r} {times} times"
    status, said = run_tests(tree, tests)
    if status != 0:
        return True, f"its tests fail without it: {said}"
    file.write_text(text.replace(old, new), encoding="utf-8")
    status, said = run_tests(tree, tests)
    file.write_text(text, encoding="utf-8")
    return (False, f"noticed by {said}") if status == 1 else (True, f"SURVIVES: {said}")


def main() -> None:
    """Plant each fault, or those that are named."""
    names = sys.argv[1:] or list(MUTANTS)
    if unknown := [name for name in names if name not in MUTANTS]:
        sys.exit(f"mutants: found {unknown[0]!r}, expected some of: {', '.join(MUTANTS)}")
    left = 0
    with tempfile.TemporaryDirectory() as folder:
        tree, ignored = Path(folder) / "tree", shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(ROOT, tree, ignore=ignored, symlinks=True)
        for name in names:
            is_left, said = survives(tree, MUTANTS[name])
            left += is_left
            print(f"{name}: {said}", flush=True)
    print(f"{len(names) - left} of {len(names)} faults were noticed")
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
