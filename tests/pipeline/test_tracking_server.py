"""Recording with a real MLflow server that goes away for a while, and the pages over a store."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from pipeline.tracking import Tracker
from pipeline.ui import serve
from tests.pipeline.test_tracking import ROOT, _no_server, client, curve, free_port, runs  # noqa: F401


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real `mlflow server`, with artifacts through HTTP, ended with its children."""
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--port", str(port),
        "--workers", "1", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
    try:
        wait_until(lambda: answers(port), (folder / "log").read_text)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def wait_until(condition: Callable[[], bool], why: Callable[[], str] = str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_server_that_hangs_and_one_that_dies_lose_and_double_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    said: list[str] = []
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    (tmp_path / "note").write_text("hello")
    tracker = Tracker(tmp_path / "store", uri, said.append)
    step = 0

    def steps(number: int) -> None:
        """At most a hundred steps a second, and every fifty a job with parameters and an artifact."""
        nonlocal step
        for _ in range(number):
            tracker.metrics("pretrain", step, {"loss": float(step), "lr": 0.1}, time=1000.0 + step)
            if step % 50 == 0:
                uid = f"job{step // 50}"
                tracker.start(uid, uid, "run", time=1000.0 + step)
                tracker.params(uid, {"number": step})
                tracker.artifact(uid, tmp_path / "note")
                tracker.end(uid, "FINISHED", time=1001.0 + step)
            step += 1
            time.sleep(0.01)

    with server(tmp_path / "server", port) as process:
        tracker.start("run", "workflow", time=1.0)
        tracker.start("pretrain", "pretrain", "run", time=2.0)
        steps(300)
        os.killpg(process.pid, signal.SIGSTOP)
        steps(500)  # would take half an hour if every call waited for the server
        wait_until(lambda: tracker.trouble is not None)
        os.killpg(process.pid, signal.SIGCONT)
        steps(300)
        wait_until(lambda: tracker.trouble is None)
    steps(300)  # no server at all
    wait_until(lambda: tracker.trouble is not None)
    with server(tmp_path / "server", port):
        steps(200)
        tracker.end("pretrain", "FINISHED", time=8000.0)
        tracker.end("run", "FINISHED", time=9000.0)
        assert tracker.close(90) == 0, tracker.trouble
        found = runs(uri)
        jobs = [f"job{number}" for number in range((step + 49) // 50)]
        assert sorted(found) == sorted(["run", "pretrain", *jobs])
        assert {run.info.status for run in found.values()} == {"FINISHED"}
        expected = [(number, float(number), 1_000_000 + 1000 * number) for number in range(step)]
        assert curve(uri, found["pretrain"], "loss") == expected
        assert curve(uri, found["pretrain"], "lr") == [(number, 0.1, when) for number, _, when in expected]
        for number, uid in enumerate(jobs):
            run = found[uid]
            assert run.data.tags["mlflow.parentRunId"] == found["run"].info.run_id
            assert (run.data.params, run.info.start_time) == ({"number": str(50 * number)}, 1_000_000 + 50_000 * number)
            assert [f.path for f in client(uri).list_artifacts(run.info.run_id)] == ["note"]
    assert [line.partition(";")[0] for line in said] == ["MLflow takes no records", "MLflow takes records again"] * 2


@contextmanager
def lossy_proxy(server_port: int) -> Iterator[int]:
    """Before a server: loses the answer to the first creation of run `lost`, and delivers that of run `late` after the second."""
    held: list[tuple[str, bytes]] = []
    seen: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            name = json.loads(body)["run_name"] if self.path.endswith("/runs/create") else ""
            first = name not in seen
            seen.add(name)
            if name == "late" and first:
                held.append((self.path, body))
                return  # the connection closes without an answer
            status, answer = forward(self.command, self.path, body)
            if name == "late":
                forward("POST", *held.pop())
            if name == "lost" and first:
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PATCH = handle_any

    def forward(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        with closing(HTTPConnection("127.0.0.1", server_port)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield int(proxy.server_address[1])
    finally:
        proxy.shutdown()
        proxy.server_close()
        assert seen >= {"lost", "late"}
        assert not held


@pytest.mark.slow
def test_a_creation_whose_answer_is_lost_or_that_comes_late_makes_one_run(tmp_path: Path) -> None:
    port = free_port()
    with server(tmp_path / "server", port):
        with lossy_proxy(port) as proxy:
            tracker = Tracker(tmp_path / "store", f"http://127.0.0.1:{proxy}")
            for uid in ("lost", "late"):
                tracker.start(uid, uid, time=1.0)
                tracker.metrics(uid, 1, {"loss": 1.0}, time=2.0)
                tracker.end(uid, "FINISHED", time=3.0)
            assert tracker.close(60) == 0, tracker.trouble
        found = runs(f"http://127.0.0.1:{port}")
        assert {uid: (run.info.status, run.data.metrics) for uid, run in found.items()} == {
            uid: ("FINISHED", {"loss": 1.0}) for uid in ("lost", "late")
        }


def test_nothing_to_show_and_a_port_in_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing has been recorded"):
        serve(tmp_path)
    (tmp_path / "mlflow.db").touch()
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="--port"):
            serve(tmp_path, port=other.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_ui_shows_nested_runs_and_leaves_no_process(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "note.md").write_text("hello")
    tracker = Tracker(tmp_path)
    tracker.start("run", "workflow")
    tracker.start("pretrain", "pretrain", "run")
    tracker.metrics("pretrain", 1, {"loss": 1.0})
    tracker.artifact("pretrain", tmp_path / "note.md")
    assert tracker.close() == 0
    port = free_port()
    code = "import sys; from pathlib import Path; from pipeline.ui import serve\nserve(Path(sys.argv[1]), port=int(sys.argv[2]))"
    command = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(port)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert command.stdout is not None
        assert f"http://127.0.0.1:{port}" in command.stdout.readline().decode()
        uri = f"http://127.0.0.1:{port}"
        found = runs(uri)
        assert found["pretrain"].data.tags["mlflow.parentRunId"] == found["run"].info.run_id
        assert curve(uri, found["pretrain"], "loss")[0][:2] == (1, 1.0)
        address = f"{uri}/get-artifact?path=note.md&run_uuid={found['pretrain'].info.run_id}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.read() == b"hello"
    finally:
        command.send_signal(end)
        status = command.wait(30)
        command.stdout.close()  # type: ignore[union-attr]
    assert status == (-9 if end == signal.SIGKILL else 0)
    wait_until(lambda: not answers(port), seconds=15)
    wait_until(lambda: not processes_with(f"--port {port}"), seconds=15)


def processes_with(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if words in line]
