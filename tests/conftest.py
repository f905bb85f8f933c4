"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from gpt1.errors import UserError

if TYPE_CHECKING:
    from tests.servers.ray_cluster import Cluster

ROOT = Path(__file__).resolve().parents[1]

# In a shell's background SIGINT is ignored, also in what the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a folder, by their names in it; the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def refuses(message: str, function: Callable[..., object], *given: Any, **named: Any) -> str:
    """What a call says that raises UserError: one line, in which this expression is found."""
    with pytest.raises(UserError, match=message) as caught:
        function(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def variables_of_each_test() -> Iterator[None]:
    """Take away the variables that `mlflow.set_tracking_uri` and `gpt1 run` leave."""
    before = dict(os.environ)
    yield
    for name in {*os.environ, *before}:
        if name.startswith(("MLFLOW_", "RAY_")) and os.environ.get(name) != before.get(name):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No quick test may start Ray."""
    for item in items:
        long = any(item.get_closest_marker(mark) for mark in ("slow", "chaos"))
        fixtures = set(getattr(item, "fixturenames", ()))
        if not long and fixtures & {"golden_run", "ray_head", "documented"}:
            raise pytest.UsageError(f"{item.nodeid} starts Ray, so it needs the mark slow")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("GPT1_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data not found in {folder} (set GPT1_SHARED)")
    return folder


def shared_by_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of pytest-xdist have."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def golden_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed run of the small workflow on this machine. To be read only.

    The processes of pytest-xdist share it. GPT1_GOLDEN_RUN: a store in which it has been run.
    """
    from tests.e2e.workflow import MINI, done

    folder = shared_by_processes(tmp_path_factory)
    store = Path(os.environ.get("GPT1_GOLDEN_RUN") or folder / "golden" / "store")
    with FileLock(folder / "golden.lock"):
        if not (store / "report.html").exists():
            done("run", "--file", MINI, "--store", store)
    return store


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The session's one Ray cluster, of two CPUs, begun by `ray start` when a test first asks."""
    from tests.servers.ray_cluster import ray_cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"  # Ray reads it once, when it is imported
    with ray_cluster(tmp_path_factory.mktemp("ray") / "log") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def code_of_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give transformers, which copies an export's code before it runs it, a folder of the tests."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("code"))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", cache)
        yield


@pytest.fixture(scope="session")
def documented(golden_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documentation's commands name, and the store of a small run.

    Each process has a copy of its own, which it may change.
    """
    from tests.e2e.documented import make

    made = shared_by_processes(tmp_path_factory) / "documented"
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            made.mkdir()
            make(made, golden_run)
    folder = tmp_path_factory.mktemp("documented") / "folder"
    shutil.copytree(made, folder, symlinks=True)
    return folder
