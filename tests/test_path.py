"""Which files some work passes through."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading

import pytest

from gpt1.errors import UserError
from gpt1.train.reporter import PrintReporter
from gpt1.wording import counted
from tests.conftest import ROOT
from tests.path import called_files


def test_called_functions_count_in_any_thread_and_in_the_order_of_their_first_call() -> None:
    def work() -> None:
        counted(1, "book")
        thread = threading.Thread(target=PrintReporter().stop_asked)
        thread.start()
        thread.join()
        counted(2, "book")
        UserError("an error")

    assert called_files(work) == ["gpt1/wording.py", "gpt1/train/reporter.py"]


def test_what_an_import_runs_does_not_count() -> None:
    """The classes of stages/given.py call functions of stages/contract.py when they are made."""
    spec = importlib.util.spec_from_file_location("given_again", ROOT / "stages" / "given.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    assert called_files(lambda: loader.exec_module(module)) == []
    assert called_files(lambda: module.placement(1, "a field")) == ["stages/contract.py"]


@pytest.mark.parametrize(
    ("path", "some"),
    [
        ("step", ["gpt1/train/pretrain.py", "gpt1/model/gpt.py", "gpt1/train/checkpoint.py"]),
        ("book", ["stages/ingest.py", "stages/clean.py", "gpt1/text/encoder.py", "gpt1/data/windows.py"]),
        ("job", ["stages/finetune.py", "gpt1/tasks/job.py", "gpt1/model/gpt.py", "gpt1/tasks/metrics.py"]),
    ],
)
def test_a_path(path: str, some: list[str]) -> None:
    command = [sys.executable, "-m", "tests.path", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    *files, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert (figures["path"], figures["files"]) == (path, len(files))
    assert figures["gpt1"] + figures["stages"] == len(set(files)) == len(files)
    assert [name for name in files if name in some] == some
    assert not [name for name in files if name.endswith(("/errors.py", "/__init__.py"))]
