"""What several tests of whole workflows start from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.workflow import run_mini


@pytest.fixture(scope="session")
def mini_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed run of the small workflow on this machine. To be read only.

    GPT1_MINI_STORE: a store in which it has been run already.
    """
    given = os.environ.get("GPT1_MINI_STORE")
    store = Path(given) if given else tmp_path_factory.mktemp("undisturbed") / "store"
    ended = run_mini(store)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return store
