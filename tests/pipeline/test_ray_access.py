"""Wrong addresses, tokens and folders: one line and exit status 2, before Ray's client has begun to wait."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from gpt1.errors import UserError
from pipeline import ray_access
from pipeline.ray_access import check_job_server, prepare, temporary_folder
from pipeline.ray_auth import auth_mode, user_token
from pipeline.submit import jobs
from tests.conftest import ROOT
from tests.e2e.workflow import MINI
from tests.servers.process import free_port

TOKEN = "t" * 32
VARIABLES = (
    "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "TMPDIR",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of Ray, and a home without a token."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test changes is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_access, "PATIENCE", 1.0)


@contextmanager
def http_server(status: int = 200, body: bytes = b"hello", token: str | None = None) -> Iterator[str]:
    """A server that gives every question one answer; with `token` only to those who send it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization")
            self.send_response(status if token in (None, (sent or "").removeprefix("Bearer ")) else 403 if sent else 401)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def mute_server() -> Iterator[str]:
    """What accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "address", ["", " ", "nosuch", "nosuch:", ":6379", "http://127.0.0.1:8265", "ray://127.0.0.1:10001", "a b:1", "me:pw@host:1"]
)
def test_what_is_no_address_of_a_cluster_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"expected HOST:PORT of a Ray cluster"):
        prepare(address)


@pytest.mark.parametrize("address", ["nosuch.invalid:1", "127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_an_address_where_nothing_listens_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at \S+:\d+ \(.+\); start one"):
        prepare(address)


def test_an_address_where_something_else_than_ray_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)  # read at import; localhost stays localhost
    grpc_server = grpc.server(ThreadPoolExecutor(1))
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    with http_server() as http, mute_server() as mute:
        for address in (http.removeprefix("http://"), mute, f"127.0.0.1:{port}"):
            with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1") as caught:
                prepare(address)
            assert str(caught.value).isprintable()
    grpc_server.stop(None)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "auto",
        "127.0.0.1:8265",
        "head",
        "http://",
        "http://[::1",
        "http://h:99999",
        "ray://h:1",
        "ftp://h:1",
        "nosuchmodule://h",
    ],
)
def test_what_is_no_address_of_a_job_server_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="expected the address of a cluster's job server"):
        check_job_server(address)


def test_a_job_server_that_does_not_answer_is_refused() -> None:
    with mute_server() as mute:
        for address in (f"http://{mute}", "http://127.0.0.1:1", "http://nosuch.invalid:8265"):
            with pytest.raises(UserError, match=r"no Ray cluster answers \(.+\)"):
                check_job_server(address)


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_server_that_answers_a_byte_at_a_time_is_not_waited_for(first: bytes) -> None:
    def tell(server: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            connection.sendall(first)
            while True:
                time.sleep(0.2)
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=tell, args=[server], daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(UserError, match="no Ray cluster answers"):
            check_job_server(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert time.monotonic() - begun < 10


def test_a_cluster_that_does_not_list_its_jobs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # so that what `connect` sets is undone
    with http_server(body=b'{"version": "4", "ray_version": "2.60.0"}') as address, pytest.raises(UserError, match="does not list"):
        jobs(address)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"{}"), (200, b"\x1b[2J\xff" * 10000), (404, b""), (500, b'{"ray_version": "2"}')]
)
def test_a_server_that_is_not_rays_is_refused(status: int, body: bytes) -> None:
    with http_server(status, body) as address, pytest.raises(UserError, match=f"something else .HTTP status {status}"):
        check_job_server(address)


def test_a_token_is_sent_where_one_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = b'{"version": "4", "ray_version": "2.60.0"}'
    with http_server(body=ray) as address:
        assert check_job_server(address) is False
    with http_server(body=ray, token=TOKEN) as address:
        with pytest.raises(UserError, match="asks for a token, and none was sent"):
            check_job_server(address)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        with pytest.raises(UserError, match="there is no token"):
            check_job_server(address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
        with pytest.raises(UserError, match="refuses the token that was sent"):
            check_job_server(address)
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        assert check_job_server(address) is True


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(UserError) as caught:
        check_job_server("http://me:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)


def test_a_local_run_has_a_token_of_its_own(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home folder")
    tokens = set()
    for _ in range(2):
        os.environ.pop("RAY_AUTH_MODE", None)
        os.environ.pop("RAY_AUTH_TOKEN", None)
        assert prepare(None) is None
        assert os.environ["RAY_AUTH_MODE"] == "token"
        tokens.add(os.environ["RAY_AUTH_TOKEN"])
    assert [len(token) for token in tokens] == [64, 64]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": None}),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}),
        ({"RAY_AUTH_TOKEN": TOKEN}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}),
        ({"RAY_AUTH_TOKEN_PATH": "{home}/mine"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None}),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, {"RAY_ADDRESS": None}),
    ],
)
def test_a_local_run_obeys_the_users_mode_and_token(
    given: dict[str, str], expected: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text(TOKEN)
    for name, value in given.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    prepare("local")
    assert {name: os.environ.get(name) for name in expected} == expected


def test_token_mode_without_a_token_makes_one_and_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    prepare(None)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_mode_or_token_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "tokens")
    with pytest.raises(UserError, match="RAY_AUTH_MODE=tokens: expected token or disabled"):
        auth_mode()
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "lines").write_text("one-secret\ntwo-secret\n")
    for name in ("empty", "bytes", "lines", "missing", "."):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / name))
        with pytest.raises(UserError, match="RAY_AUTH_TOKEN_PATH=") as refused:
            user_token()
        assert "secret" not in str(refused.value)
    for token in ("one-secret\ntwo", "secret-€", "secret-\udcff"):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(UserError, match="RAY_AUTH_TOKEN holds no token") as refused:
            user_token()
        assert "secret" not in str(refused.value)


def test_a_users_module_may_import_ray(tmp_path: Path) -> None:
    """Ray reads its environment while it is imported, which `plan` and `run` do to the user's modules before anything else."""
    (tmp_path / "my").mkdir()
    lines = (
        "import os", "import ray._private.ray_constants as constants", "from gpt1.errors import UserError",
        "raise UserError(f'{constants.ENABLE_RAY_CLUSTER} {os.environ.get(\"RAY_AUTH_MODE\")}')",
    )  # fmt: skip
    (tmp_path / "my" / "one.py").write_text("\n".join(lines))
    (tmp_path / "workflow.yaml").write_text("stages: {one: {uses: my.one}}")
    for words, said in ((["run"], "False token"), (["run", "--dry-run"], "True None"), (["run", "--address", "h:1"], "True None")):
        line = [sys.executable, "-m", "pipeline.cli", *words, "--store", str(tmp_path / "store")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stderr.endswith(f": {said}\n")) == (2, True), ended.stderr


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_in_which_ray_cannot_work_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in ("relative", f"/tmp/{'x' * 60}", str(tmp_path / "file"), "/proc/nosuch"):
        monkeypatch.setenv(name, folder)
        with pytest.raises(UserError, match="Ray's temporary folder"):
            prepare(None)
    monkeypatch.setenv(name, f"/tmp/gpt1-{os.getpid()}/not-yet")
    assert temporary_folder()[1] == ""


@pytest.mark.parametrize("command", [["jobs"], ["logs", "a-job"], ["stop", "a-job"], ["submit"], ["run"]])
def test_each_command_ends_with_one_line_and_status_2(command: list[str], tmp_path: Path) -> None:
    work = ["--file", str(MINI), "--store", str(tmp_path / "store")] if command[0] in ("submit", "run") else []
    given = {"RAY_ADDRESS": "http://127.0.0.1:1", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{free_port()}"}
    for words in ([], ["--address", ""], ["--address", "nosuch.invalid:1"]):
        line = [sys.executable, "-m", "pipeline.cli", *command, *work, *words]
        environment = {**os.environ, **given, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
        assert [text[:15] for text in ended.stderr.splitlines()] == ["gpt1: --address"]
