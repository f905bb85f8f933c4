"""Wrong addresses, tokens and folders: one line and exit status 2, before Ray's client waits."""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any
from unittest.mock import patch

import grpc
import pytest

from pipeline.execution import ray_access
from pipeline.execution.jobs import jobs
from pipeline.execution.ray_access import (
    auth_mode,
    check_job_server,
    prepare,
    temporary_folder,
    user_token,
    without_password,
)
from tests.conftest import refuses, write
from tests.e2e.workflow import MINI
from tests.e2e.workflow import gpt1 as alone
from tests.pipeline.conftest import Patch
from tests.pipeline.inprocess import gpt1
from tests.servers.process import serving

TOKEN = "t" * 32
MODE, VALUE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
VERSION = b'{"version": "4", "ray_version": "2.60.0"}'


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: Patch) -> Iterator[None]:
    """An environment that says nothing of Ray, and a home without a token."""
    monkeypatch.setattr(ray_access, "PATIENCE", 1.0)
    with patch.dict(os.environ, HOME=str(tmp_path)):
        for name in [name for name in os.environ if name.startswith(("RAY_", "TMPDIR"))]:
            del os.environ[name]
        yield


@contextmanager
def http_server(status: int = 200, body: bytes = VERSION, token: str = "") -> Iterator[str]:
    """A server that gives every question one answer; with `token` only to those who send it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            self.send_response(status if token in ("", sent) else 403 if sent else 401)
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as there:
        yield f"http://{there}"


def slow_server(first: bytes = b"", then: bytes = b"") -> AbstractContextManager[str]:
    """What accepts a connection, says `first`, and then `then` again and again."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.sendall(first)
                while True:
                    time.sleep(0.2)
                    self.request.sendall(then)

    return serving(Handler)


# Clusters and job servers

REFUSED = [
    (prepare, "expected HOST:PORT", [
        "", " ", "a b:1", "nosuch", "nosuch:", ":6379", "http://h:8265", "ray://h:1", "me:pw@h:1"]),
    (prepare, r"answers at \S+:\d+ \(.+\)", [
        "nosuch.invalid:1", "127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"]),
    (check_job_server, "expected the address of a cluster's job server", [
        "", "auto", "127.0.0.1:8265", "head", "http://", "http://[::1", "http://h:99999",
        "ray://h:1", "ftp://h:1", "nosuchmodule://h"]),
    (check_job_server, "answers", [
        "http://127.0.0.1:1", "http://nosuch.invalid:8265", "http://me:secret@127.0.0.1:1"]),
]  # fmt: skip


@pytest.mark.parametrize(("check", "message", "addresses"), REFUSED)
def test_a_wrong_address_is_refused(check: Any, message: str, addresses: list[str]) -> None:
    for address in addresses:
        assert "secret" not in refuses(message, check, address)


def test_an_address_where_something_else_than_ray_answers_is_refused(monkeypatch: Patch) -> None:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Ray reads it at import; localhost is to stay localhost.
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    grpc_server = grpc.server(ThreadPoolExecutor(1))
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    with http_server() as http, slow_server() as mute:
        for address in (http.removeprefix("http://"), mute, f"127.0.0.1:{port}"):
            assert refuses(r"answers at 127\.0\.0\.1", prepare, address).isprintable()
    grpc_server.stop(None)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_a_server_that_answers_slowly_is_not_waited_for(first: bytes) -> None:
    with slow_server(first, b"x" if first else b"") as slow:
        refuses("no Ray cluster answers", check_job_server, f"http://{slow}")


def test_a_server_that_is_not_rays_is_refused() -> None:
    for status, body in (
        (200, b"{}"), (200, b"\x1b[2J\xff" * 10000), (404, b""), (500, b'{"ray_version": "2"}'),
    ):  # fmt: skip
        with http_server(status, body) as address:
            refuses(f"status {status}", check_job_server, address)
    with http_server() as address:
        refuses("cannot list", jobs, address)


def test_a_token_is_sent_where_one_is_asked_for(tmp_path: Path) -> None:
    with http_server() as address:
        assert check_job_server(address) is False
    with http_server(token=TOKEN) as address:
        for name, value, message in (
            ("TMPDIR", "", "requires a token, but none was sent"),
            (MODE, "token", "no token was found"),
            (VALUE, "another", "rejected the token"),
        ):
            os.environ[name] = value
            refuses(message, check_job_server, address)
        del os.environ[VALUE]
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
        assert check_job_server(address) is True


# Tokens and folders of a local run


def test_a_local_run_has_a_token_of_its_own_and_writes_none(tmp_path: Path) -> None:
    write(tmp_path, {".ray/auth_token": "of the home folder"})
    tokens = set()
    for wish in ("", "", "token"):  # the last is a user's, and none is there
        os.environ.update({MODE: wish, VALUE: ""})
        if wish:
            (tmp_path / ".ray" / "auth_token").unlink()
        assert prepare(None) is None
        assert os.environ[MODE] == "token"
        tokens.add(os.environ[VALUE])
    assert [len(token) for token in tokens] == [64] * 3
    assert list(tmp_path.rglob("*")) == [tmp_path / ".ray"]


def test_a_local_run_obeys_the_users_mode_and_token(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(TOKEN)
    mine, before = str(tmp_path / "mine"), dict(os.environ)
    rows: list[tuple[dict[str, str], dict[str, str | None]]] = [
        ({MODE: "disabled"}, {MODE: "disabled", VALUE: None}),
        ({MODE: "token", VALUE: TOKEN}, {MODE: "token", VALUE: TOKEN}),
        ({VALUE: TOKEN}, {MODE: "token", VALUE: TOKEN}),
        ({"RAY_AUTH_TOKEN_PATH": mine}, {MODE: "token", VALUE: None}),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, {"RAY_ADDRESS": None}),
    ]
    for given, expected in rows:
        with patch.dict(os.environ, {**before, **given}, clear=True):
            prepare("local")
            assert {name: os.environ.get(name) for name in expected} == expected


def test_a_wrong_mode_or_token_is_refused_and_not_shown(tmp_path: Path) -> None:
    os.environ[MODE] = "tokens"
    refuses("RAY_AUTH_MODE=tokens: expected token or disabled", auth_mode)
    wrong = {"empty": b"", "bytes": b"\xff\xfe", "lines": b"one-secret\ntwo-secret\n"}
    files = [str(write(tmp_path, wrong) / name) for name in (*wrong, "missing", ".")]
    tokens = ["one-secret\ntwo", "secret-€", "secret-\udcff"]
    for value in (*files, *tokens):
        name = VALUE if value in tokens else "RAY_AUTH_TOKEN_PATH"
        os.environ[name] = value
        assert "secret" not in refuses(name, user_token)
    assert without_password("http://me:secret@[::1") == "http://[::1", "what is no address"


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_in_which_ray_cannot_work_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("relative", f"/tmp/{'x' * 60}", str(tmp_path / "file"), "/proc/nosuch"):
        os.environ[name] = folder
        refuses("Ray's temporary folder", prepare, None)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.environ[name] = f"{folder}/not-yet"
        assert temporary_folder()[1] == ""


def test_ray_keeps_its_files_where_no_other_user_reads_them(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.environ["TMPDIR"] = folder
        prepare(None)
        own = Path(os.environ["RAY_TMPDIR"])
        assert (own.parent, own.stat().st_mode & 0o777) == (Path(folder), 0o700)
        del os.environ["RAY_TMPDIR"]
        own.chmod(0o755)
        refuses("belongs to another user, or lets others in", prepare, None)
        own.rmdir()
        own.symlink_to(tmp_path)
        refuses("belongs to another user, or lets others in", prepare, None)


# The command line


def test_a_users_module_may_import_ray(tmp_path: Path) -> None:
    """Ray reads its environment at import, which `run` does to the user's modules first of all."""
    look = '{constants.ENABLE_RAY_CLUSTER} {os.environ.get("RAY_AUTH_MODE")}'
    module = "import os; import ray._private.ray_constants as constants\n"
    module += f"from gpt1.errors import UserError; raise UserError(f'{look}')"
    write(tmp_path, {"my/one.py": module, "workflow.yaml": "stages: {one: {uses: my.one}}"})
    for words, said in ((["run"], "False token"), (["run", "--address", "h:1"], "True None")):
        ended = alone(*words, "--store", "store", cwd=tmp_path)
        assert (ended.returncode, ended.stderr.endswith(f": {said}\n")) == (2, True), ended.stderr


def test_each_command_ends_with_one_line_and_status_2(tmp_path: Path) -> None:
    work = ["--file", MINI, "--store", tmp_path / "store"]
    there = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_ADDRESS": "http://127.0.0.1:1"}
    for command in (["jobs"], ["logs", "a"], ["stop", "a"], ["submit", *work], ["run", *work]):
        for wrong in ([], ["--address", ""], ["--address", "nosuch.invalid:1"]):
            status, out, err = gpt1(*command, *wrong, **there)
            lines = [line[:15] for line in err.splitlines()]
            assert (status, out, lines) == (2, "", ["gpt1: --address"]), (command, wrong, err)
