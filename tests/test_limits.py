"""The limits of a test run fail it, and skip nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, write

TESTS = """
import time
import pytest
def test_that_passes(): time.sleep(0.3)
def test_that_is_skipped(): pytest.skip("no chromium here")
"""
MODULE = "import pytest\npytest.skip('no Ray here', allow_module_level=True)\n"


@pytest.mark.parametrize(("limit", "allowed", "status", "said"), [
    ("100", "no .* here # not needed", 0, "slowest"),
    ("0.2", "no .* here # not needed", 1, "more than its 0.2 s"),
    ("100", "no chromium # no screen", 1, "module.py: skipped, which is not allowed: no Ray"),
    ("100", "no Ray # elsewhere", 1, "skipped: skipped, which is not allowed: no chromium"),
    ("100", "no .* here", 4, "does not say why"),
])  # fmt: skip
def test_a_run_fails(limit: str, allowed: str, status: int, said: str, tmp_path: Path) -> None:
    write(tmp_path, {"test_it.py": TESTS, "test_module.py": MODULE, "allowed": allowed})
    options = "-p tests.limits -p no:cacheprovider --rootdir . --allowed-skips allowed --limit"
    command = [sys.executable, "-m", "pytest", *options.split(), limit]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True), done.stdout
