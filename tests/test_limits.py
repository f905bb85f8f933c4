"""The limits of a test run fail it, and skip nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TESTS = """
import time
import pytest
def test_that_passes(): time.sleep(0.3)
def test_that_is_skipped(): pytest.skip("no chromium here")
"""
MODULE = "import pytest\npytest.skip('no Ray here', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("words", "allowed", "status", "said"),
    [
        (["--limit", "100"], "no .* here # not needed", 0, "slowest"),
        (["--limit", "0.2"], "no .* here # not needed", 1, "more than its 0.2 s"),
        (
            [], "no chromium # no screen there", 1,
            "test_module.py: skipped, which is not allowed: no Ray",
        ),
        (
            [], "no Ray # other machine", 1,
            "::test_that_is_skipped: skipped, which is not allowed: no chr",
        ),
        ([], "no .* here", 4, "does not say why"),
    ],
)
def test_a_run_fails(
    words: list[str], allowed: str, status: int, said: str, tmp_path: Path
) -> None:
    for name, text in {"test_it.py": TESTS, "test_module.py": MODULE, "allowed": allowed}.items():
        (tmp_path / name).write_text(text)
    options = ["-p", "tests.limits", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *options, "--allowed-skips", "allowed", *words]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
