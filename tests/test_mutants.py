"""Faults that the tests must notice, a part of `make chaos`.

A copy of the tree gets one fault at a time, by replacing one short line; then the tests that should
notice are run there. Without the fault they pass.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

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
        "gpt1/corpus/assemble.py", "self._write(asdict(skipped))", "pass", "stages/test_ingest.py"),
    "ids off by one merge": (
        "gpt1/tokenizer/bpe.py", "min(ranked)) != _NO_RANK", "min(ranked)) < 100 << _BITS",
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


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, ignored = tmp_path_factory.mktemp("mutants"), shutil.ignore_patterns(*LEFT_OUT)
    return Path(shutil.copytree(ROOT, folder / "tree", ignore=ignored, symlinks=True))


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """The status of pytest there, and the end of its output."""
    options = ["-q", "-x", "-m", "not chaos", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{name}" for name in tests)]
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, timeout=SECONDS,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr)[-3000:]


def test_each_fault_can_be_planted() -> None:
    for file, old, *_ in MUTANTS.values():
        assert (ROOT / file).read_text(encoding="utf-8").count(old) == 1, (file, old)


@pytest.mark.chaos
@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_noticed(name: str, tree: Path) -> None:
    place, old, new, *tests = MUTANTS[name]
    text = (tree / place).read_text(encoding="utf-8")
    status, said = run_tests(tree, tests)
    assert status == 0, f"they fail without it: {said}"
    (tree / place).write_text(text.replace(old, new), encoding="utf-8")
    status, said = run_tests(tree, tests)
    (tree / place).write_text(text, encoding="utf-8")
    assert status == 1, f"it survives: {said}"
