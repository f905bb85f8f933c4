"""Who can reach a run's Ray: a run on this machine, and clusters with and without a token."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT
from tests.e2e.workflow import MINI
from tests.listening import Listener, environments, listeners
from tests.servers.ray_cluster import Cluster, ray_cluster

pytestmark = pytest.mark.slow
TOKEN = secrets.token_hex(32)
WITH_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
PRETRAIN = (
    "--file", ROOT / "tests" / "stages" / "pretrain_workflow.yaml", "--set", "pretrain.steps=20",
    "--set", "pretrain.validate_every=0", "--set", "pretrain.snapshot_every=20", "pretrain",
)  # fmt: skip


def start(out: Path, environment: Mapping[str, str], *words: str | Path) -> subprocess.Popen[bytes]:
    """`gpt1`, in an environment that says nothing of Ray but what is given."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    with out.open("wb") as log:
        command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
        return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT)


def gpt1(folder: Path, environment: Mapping[str, str], *words: str | Path) -> tuple[int, str]:
    """Run it and wait: its exit status, and all it has printed."""
    out = folder / "out"
    status = start(out, environment, *words).wait(timeout=600)
    return status, out.read_text()


def files_with(text: str, *folders: Path) -> list[Path]:
    """The files below the folders that hold the text."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


def test_a_local_run_listens_on_loopback_alone_and_refuses_strangers(tmp_path: Path) -> None:
    """With two ranks. torch's store for the ranks to meet has no setting for its interface."""
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="gpt1-ray-", dir="/tmp") as ray_folder:
        environment = {"GPT1_TEST_MARK": mark, "HOME": "/proc/no-home", "RAY_TMPDIR": ray_folder}
        driver = start(tmp_path / "log", environment, "run", *PRETRAIN, "--store", tmp_path / "store")
        seen: set[Listener] = set()
        tokens: set[str] = set()
        stranger: tuple[tuple[int, str], tuple[int, str]] | None = None
        while driver.poll() is None:
            processes = environments("GPT1_TEST_MARK", mark)
            seen |= listeners(processes)
            tokens |= {variables["RAY_AUTH_TOKEN"] for variables in processes.values() if "RAY_AUTH_TOKEN" in variables}
            control = next((listener for listener in seen if "gcs_server" in listener.process), None)
            if stranger is None and control is not None:
                there = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # without it Ray takes the host's address for localhost
                address = f"127.0.0.1:{control.port}"
                strange = ("run", "--file", MINI, "--store", tmp_path / "strange", "--address", address)
                stranger = gpt1(tmp_path, there, *strange), gpt1(tmp_path, {**there, **WITH_TOKEN}, *strange)
            time.sleep(0.1)
        log = (tmp_path / "log").read_text()
        assert driver.returncode == 0, log
        assert stranger is not None
        without, wrong = stranger
        assert (without[0], "asks for a token" in without[1]) == (2, True), without[1]
        assert (wrong[0], "refuses the token" in wrong[1]) == (2, True), wrong[1]
        open_ports = {listener.port for listener in seen if not listener.loopback}
        by_ranks = {listener.port for listener in seen if "RayTrainWorker" in listener.process}
        assert len(open_ports) == 1, f"more than torch's store: {[listener for listener in seen if not listener.loopback]}"
        assert open_ports < by_ranks
        named = [listener.process for listener in seen if listener.process]  # one that has just ended has no command line
        assert {"gcs_server", "raylet"} <= {Path(process.split()[0]).name for process in named}
        [token] = tokens
        assert token
        assert len(token) == 64
        assert token not in log
        assert files_with(token, tmp_path / "store", Path(ray_folder)) == []


@pytest.fixture(params=["token", "open"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """A cluster, and the environment that its users need."""
    environment = WITH_TOKEN if request.param == "token" else {}
    with ray_cluster(tmp_path / "ray.log", environment) as running:
        yield running, environment


def test_a_cluster_with_a_token_takes_those_who_have_it_and_one_without_is_warned_of(
    cluster: tuple[Cluster, dict[str, str]], tmp_path: Path
) -> None:
    running, environment = cluster
    job = ("--address", running.address)
    work = ("--file", MINI, "--store", tmp_path / "store")
    # What Ray would prefer to the address that it is given.
    elsewhere = {**environment, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1"}
    sent = gpt1(tmp_path, elsewhere, "submit", *job, *work, "ingest")
    assert (sent[0], "1 made" in sent[1]) == (0, True), sent[1]
    assert sent[1].count("no authentication") == (0 if environment else 1)
    attached = gpt1(tmp_path, environment, "run", "--address", running.gcs, *work, "clean")
    assert (attached[0], "1 made, 1 taken as they were" in attached[1]) == (0, True), attached[1]
    assert attached[1].count("no authentication") == (0 if environment else 1)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    listed = requests.get(f"{running.address}/api/jobs/", headers=headers, timeout=30).json()
    [name] = [job["submission_id"] for job in listed if job["submission_id"]]
    assert TOKEN not in str(listed)
    assert gpt1(tmp_path, environment, "logs", *job, name)[0] == 0
    assert files_with(TOKEN, tmp_path / "store", running.folder) == []
    if environment:
        for variables in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}):
            for words in (["submit", *job, *work], ["jobs", *job], ["logs", *job, name], ["stop", *job, name]):
                status, said = gpt1(tmp_path, variables, *words)
                assert (status, len(said.splitlines()), "the Ray cluster" in said) == (2, 1, True), said
            status, said = gpt1(tmp_path, variables, "run", "--address", running.gcs, *work, "split")
            assert (status, len(said.splitlines()), "the Ray cluster" in said) == (2, 1, True), said
