"""Which files some work passes through."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from tests import path


def test_called_functions_count_in_any_thread_and_imports_do_not() -> None:
    def work() -> None:
        import stages.given  # noqa: F401 (its classes call functions of stages/contract.py)
        from gpt1.wording import counted

        thread = threading.Thread(target=counted, args=(1, "book"))
        thread.start()
        thread.join()

    sys.modules.pop("stages.given", None)
    assert path.called_files(work) == ["gpt1/wording.py"]


@pytest.mark.parametrize("name", path.PATHS)
def test_a_path(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["path", name])
    path.main()
    *files, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["gpt1"] + figures["stages"] == figures["files"] == len(set(files)) == len(files)
    assert all(Path(file).suffix == ".py" for file in files)
