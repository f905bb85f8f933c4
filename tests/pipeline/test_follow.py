"""Following a job whose cluster goes: status 1 and one line, whatever way the connection ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import aiohttp
import pytest
import requests
from ray.job_submission import JobStatus

from pipeline import submit

ADDRESS = "http://head:8265"


class Client:
    """A cluster's job server: the log ends with `log`, the question how the job ended with `answer`. (A real one that goes is in
    tests/cluster; which of these errors it causes is a matter of chance.)"""

    def __init__(self, log: Exception | None = None, answer: Exception | int | None = None) -> None:
        self._log = log
        self._answer = answer

    def get_job_status(self, job: str) -> str:
        del job
        return "RUNNING"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield f"{job} works\n"
        if self._log is not None:
            raise self._log

    def get_job_info(self, job: str) -> SimpleNamespace:
        del job
        if isinstance(self._answer, Exception):
            raise self._answer
        status = JobStatus.RUNNING if self._answer is None else JobStatus.FAILED
        return SimpleNamespace(driver_exit_code=self._answer, status=status)


@pytest.mark.parametrize(
    "client",
    [
        Client(answer=requests.ConnectionError("refused")),
        Client(log=aiohttp.ServerDisconnectedError()),
        Client(log=aiohttp.ClientPayloadError("cut")),
    ],
)
def test_a_cluster_that_is_gone_ends_with_status_1(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit, "connect", lambda _: client)
    assert submit.follow(ADDRESS, "gpt1-job") == 1
    works, said = capsys.readouterr().out.splitlines()
    assert works == "gpt1-job works"
    assert said.startswith(f"{ADDRESS} answers no more for job gpt1-job (")


def test_a_job_that_ended_gives_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "connect", lambda _: Client(answer=3))
    assert submit.follow(ADDRESS, "gpt1-job") == 3


def test_a_log_that_ends_before_its_job_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(submit, "connect", lambda _: Client())
    assert submit.follow(ADDRESS, "gpt1-job") == 1
    assert "and the job goes on; the same command follows it again" in capsys.readouterr().out
