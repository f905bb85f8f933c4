"""Who can reach a run's Ray: a run on this machine, and clusters with and without a token."""

import ipaddress
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import requests

from tests.e2e.workflow import MINI, begin, copy_without
from tests.e2e.workflow import gpt1 as alone
from tests.servers.ray_cluster import Cluster, ray_cluster

pytestmark = pytest.mark.slow
TOKEN = secrets.token_hex(32)
WITH_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
WRONG_TOKEN = {**WITH_TOKEN, "RAY_AUTH_TOKEN": "wrong"}


@pytest.fixture(autouse=True)
def nothing_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing of Ray but what a command is given."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def gpt1(about: Mapping[str, str], *words: str | Path) -> tuple[int, str]:
    """Run it and wait: its exit status, and all it has printed."""
    ended = alone(*words, timeout=600, **about)
    return ended.returncode, ended.stdout + ended.stderr


class Listener(NamedTuple):
    """A listening TCP socket: of which process, and whether on this machine's loopback alone."""

    process: str
    port: int
    loopback: bool


def look_at_run(mark: str, seen: set[Listener], tokens: set[str]) -> None:
    """Add where the processes listen that were started with this mark, and their tokens."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (variables := process.environ()).get("GPT1_TEST_MARK") != mark:
                continue
            tokens |= {variables.get("RAY_AUTH_TOKEN", "")} - {""}
            name = " ".join(process.cmdline())
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    address = ipaddress.ip_address(connection.laddr.ip)
                    mapped = getattr(address, "ipv4_mapped", None) or address
                    seen.add(Listener(name, connection.laddr.port, mapped.is_loopback))


def files_with(text: str, *folders: Path) -> list[Path]:
    """The files below the folders that hold the text."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


def test_a_local_run_refuses_strangers(golden_run: Path, tmp_path: Path) -> None:
    """It listens on loopback alone.

    With two ranks. torch's store for the ranks to meet has no setting for its interface.
    """
    mark, seen, tokens = secrets.token_hex(8), set[Listener](), set[str]()
    store = copy_without(golden_run, tmp_path / "store", "pretrain")
    strangers: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory(prefix="gpt1-ray-", dir="/tmp") as ray:
        about = {"GPT1_TEST_MARK": mark, "HOME": "/proc/no-home", "RAY_TMPDIR": ray}
        words = ("run", "--file", MINI, "--store")
        driver = begin(tmp_path / "log", *words, store, "pretrain", **about)
        while driver.poll() is None:
            look_at_run(mark, seen, tokens)
            ports = [one.port for one in seen if "gcs_server" in one.process]
            if ports and not strangers:
                # Without the variable Ray takes the host's address for localhost.
                there = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
                strange = (*words, tmp_path / "strange", "--address", f"127.0.0.1:{ports[0]}")
                strangers = [gpt1(there | token, *strange) for token in ({}, WITH_TOKEN)]
            time.sleep(0.1)
        log = (tmp_path / "log").read_text()
        assert driver.returncode == 0, log
        assert [status for status, _ in strangers] == [2, 2]
        assert "requires a token" in strangers[0][1]
        assert "rejected the token" in strangers[1][1]
        [port] = {one.port for one in seen if not one.loopback}  # torch's store
        assert port in {one.port for one in seen if "RayTrainWorker" in one.process}
        named = {Path(one.process.split()[0]).name for one in seen if one.process}
        assert {"gcs_server", "raylet"} <= named
        [token] = tokens
        assert (len(token), token in log) == (64, False)
        assert files_with(token, store, Path(ray)) == []


def test_a_cluster_without_a_token_is_warned_of(ray_head: Cluster, tmp_path: Path) -> None:
    work = ("--file", MINI, "--store", tmp_path / "store", "ingest")
    status, said = gpt1({}, "run", "--address", ray_head.gcs, *work)
    assert (status, said.count("no authentication")) == (0, 1), said
    # Ray would prefer these to the address that it is given.
    elsewhere = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1"}
    status, said = gpt1(elsewhere, "submit", "--address", ray_head.address, *work)
    assert (status, said.count("no authentication")) == (0, 1), said


def test_a_cluster_with_a_token_takes_those_who_have_it(tmp_path: Path) -> None:
    work = ("--file", MINI, "--store", tmp_path / "store")
    with ray_cluster(tmp_path / "ray.log", WITH_TOKEN) as cluster:
        job, attach = ("--address", cluster.address), ("--address", cluster.gcs)
        for words in (("submit", *job, *work, "ingest"), ("run", *attach, *work, "clean")):
            status, said = gpt1(WITH_TOKEN, *words)
            assert (status, said.count("no authentication")) == (0, 0), said
        headers = {"Authorization": f"Bearer {TOKEN}"}
        listed = requests.get(f"{cluster.address}/api/jobs/", headers=headers, timeout=30).json()
        assert TOKEN not in str(listed)
        [name] = [found["submission_id"] for found in listed if found["submission_id"]]
        assert gpt1(WITH_TOKEN, "logs", *job, name)[0] == 0
        assert files_with(TOKEN, tmp_path / "store", cluster.folder) == []
        commands = [
            ("submit", *job, *work), ("jobs", *job), ("logs", *job, name), ("stop", *job, name),
            ("run", *attach, *work, "split"),
        ]  # fmt: skip
        tries = [(about, words) for about in ({}, WRONG_TOKEN) for words in commands]
        outs = [tmp_path / f"out{number}" for number in range(len(tries))]
        begun = [begin(out, *words, **how) for out, (how, words) in zip(outs, tries, strict=True)]
        assert [process.wait(timeout=600) for process in begun] == [2] * len(tries)
        for out in outs:
            [line] = out.read_text().splitlines()
            assert "the Ray cluster" in line
