"""An S3 server for the tests of this folder, and small artifacts."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.execution.worker import Outputs
from pipeline.store import s3 as objects
from pipeline.store.base import Store
from pipeline.store.record import ArtifactRecord, content_digest
from pipeline.tracking.mlflow_server import DATA_BASE, MlflowServer, default_uri
from stages.contract import Artifact
from tests.pipeline.inline import write_numbers
from tests.servers.process import s3_server

BUCKET = "store-bucket"
VALUE, WHEN = "values/value.txt", "values/when.txt"
Patch = pytest.MonkeyPatch
Move = Callable[[], None]
S3 = tuple[str, "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The address of a server, and its process."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as found:
        yield found


def use_s3(monkeypatch: Patch, address: str, cache: Path) -> None:
    """Set this process's environment for a server."""
    variables = {
        "GPT1_CACHE": str(cache), "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    objects._client.cache_clear()


@pytest.fixture
def s3_store(s3: S3, tmp_path: Path, monkeypatch: Patch) -> Iterator[str]:
    """The address of an empty store, with this process's environment set for it."""
    use_s3(monkeypatch, s3[0], tmp_path / "cache")
    objects._client(os.getpid()).create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    objects._client.cache_clear()


@pytest.fixture(scope="session")
def empty_data_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data base of MLflow's without runs, to be copied: it takes MLflow seconds to make one."""
    folder = tmp_path_factory.mktemp("mlflow")
    assert MlflowServer(Store.at(folder), default_uri(folder), print).experiment_id
    return folder / DATA_BASE


@pytest.fixture
def another_host(tmp_path: Path, monkeypatch: Patch) -> Move:
    """From a call on, this process is one of another host, with a cache of its own."""
    return lambda: monkeypatch.setenv("GPT1_CACHE", str(tmp_path / f"cache-{time.time_ns()}"))


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A source for the toy workflow."""
    return write_numbers(tmp_path / "numbers")


def publish(
    store: Store, value: str = "value", fingerprint: str = "print", *, gate: Any = None,
    stage: str = "stage",
) -> bool:
    """Write VALUE, and WHEN, which is volatile, in an attempt, wait at the gate, and publish."""
    attempt = store.new_attempt(stage, fingerprint)
    outputs = Outputs(store, attempt)
    with outputs.open(VALUE) as file:
        file.write(value.encode())
    outputs.declare(WHEN, volatile=True).write_text(attempt.name)
    if gate is not None:
        gate.wait()
    return publish_all(store, outputs, {"value": value})


def publish_all(
    store: Store, outputs: Outputs, summary: Mapping[str, Any] = {}, **more: Any
) -> bool:
    """Publish the files of an attempt, with `more` in the record."""
    place = zip(("stage", "fingerprint", "attempt"), outputs.folder.parts[-3:], strict=True)
    files = outputs.close()
    made = {"digest": content_digest(files), "files": files, "summary": summary, **dict(place)}
    return store.publish(ArtifactRecord(**{"cell": "cell", **made, **more}))


def published(store: Store, fingerprint: str = "print", stage: str = "stage") -> Artifact:
    """What is published there."""
    found: Any = store.artifact(stage, fingerprint)
    return found


def read(store: Store, found: Artifact, name: str) -> str:
    """The text of one of its files."""
    return store.fetch(found.file(name)).read_text()
