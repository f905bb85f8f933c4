"""Which files some work passes through."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import path


def test_called_functions_count_in_any_thread_and_imports_do_not() -> None:
    sys.modules.pop("stages.pretrained", None)

    def work() -> None:
        import stages.pretrained  # noqa: F401 (its classes call functions of stages/contract.py)
        from gpt1.format import counted

        with ThreadPoolExecutor(1) as pool:
            pool.submit(counted, 1, "book").result()

    assert path.called_files(work) == ["gpt1/format.py"]


MOST = {"step": 15, "job": 16}
"""Files that a reader must open, at most."""


@pytest.mark.parametrize("name", path.PATHS)
def test_a_path(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["path", name])
    path.main()
    *files, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["files"] == len(set(files)) == len(files) > 12
    assert len(files) <= MOST.get(name, len(files))
