"""`gpt1 data get books`, as a person runs it, from servers of our own that misbehave."""

import csv
import json
import signal
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import install_opener

import pytest

from gpt1.corpus import public_books
from gpt1.corpus.discover import is_hidden, list_sources
from gpt1.corpus.public_books import PublicBook, list_books
from gpt1.paths import leads_out
from pipeline.cli import books as command
from tests.conftest import ROOT
from tests.pipeline.inprocess import gpt1, refused, said
from tests.servers.process import free_port, wait_until

GET = ("data", "get", "books")
TEXTS = {f"Jane Doe/{title}.txt": f"{title}\n".encode() * 5000 for title in ("One", "Two", "É #3?")}
BOOKS = [
    PublicBook(f"owner/name/{'c' * 40}/{name}", len(text), sha256(text).hexdigest(), name)
    for name, text in TEXTS.items()
]


class Server(ThreadingHTTPServer):
    """Serves files by their paths; `faults` are what it does first to requests for a title.

    A status (with Retry-After where it is 503), "cut", "wrong", or "hang": half a body, and then
    nothing until the end. As a proxy it answers for any host.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults = files, dict[str, list[object]]()
        self.asked, self.hosts = Counter[str](), set[str]()
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).lstrip("/")
        title, body = Path(path).stem, self.server.files.get(path, b"")
        self.server.asked[title] += 1
        self.server.hosts.add(url.netloc)
        faults = self.server.faults.get(title)
        fault = faults.pop(0) if faults else 200 if body else 404
        self.send_response(fault if isinstance(fault, int) else 200)
        self.send_header("Content-Length", str(len(body)))
        if fault == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        if fault in ("cut", "hang"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "hang":
                self.server.ended.wait()
            self.connection.close()
        else:
            self.wfile.write(body[:-1] + b"!" if fault == "wrong" else body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of three books, of which alone the command knows."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(command, "list_books", lambda: list(BOOKS))
    monkeypatch.setattr(public_books, "PAUSES", (0.01, 0.01))
    with Server({book.path: TEXTS[book.name] for book in BOOKS}) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        install_opener(None)  # which has the proxies of its first use
        yield found
        install_opener(None)
        found.ended.set()
        found.shutdown()
        thread.join()


def read(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_what_may_pass_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.faults = {"One": ["cut", "wrong"], "Two": [503, 429], "É #3?": [500]}
    ended = gpt1(*GET, "--to", tmp_path / "b", "--mirror", server.url)
    assert (ended.status, read(tmp_path / "b")) == (0, TEXTS), ended
    assert ended.out == f"books: 3 books in {tmp_path / 'b'}\n"
    assert "the server asks to wait 1 s (HTTP status 503)" in ended.err
    assert server.asked == {"One": 3, "Two": 3, "É #3?": 2}


def test_what_is_there_is_kept_and_what_is_damaged_is_fetched_again(
    server: Server, tmp_path: Path
) -> None:
    to = ("--to", tmp_path, "--mirror", f"{server.url}/")
    said(*GET, "--limit", 2, *to)
    assert set(read(tmp_path)) == {book.name for book in BOOKS[:2]}
    (tmp_path / BOOKS[0].name).write_bytes(b"another")
    said(*GET, *to)
    assert (read(tmp_path), server.asked) == (TEXTS, {"One": 2, "Two": 1, "É #3?": 1})


def test_wrong_bytes_and_missing_files_are_listed(server: Server, tmp_path: Path) -> None:
    server.faults = {"One": ["wrong", "wrong"], "Two": [404]}
    ended = gpt1(*GET, "--to", tmp_path, "--mirror", server.url)
    wrong = sha256(TEXTS[BOOKS[0].name][:-1] + b"!").hexdigest()
    assert ended.err.splitlines()[-2:] == [
        f"{tmp_path / BOOKS[0].name}: {BOOKS[0].path} has the sha256 {wrong};"
        f" expected {BOOKS[0].sha256}",
        f"{tmp_path / BOOKS[1].name}: the server has no {BOOKS[1].path}",
    ]
    said_last = f"books: 1 book in {tmp_path}; 2 missing, listed above\n"
    assert (ended.status, ended.out) == (1, said_last)
    assert list(read(tmp_path)) == [BOOKS[2].name]


def test_a_killed_download_is_continued(server: Server, tmp_path: Path) -> None:
    server.faults = {"Two": ["hang"]}
    code = (
        "import json, sys; from pathlib import Path; from gpt1.corpus.public_books import *\n"
        "books = [PublicBook(*book) for book in json.loads(sys.argv[1])]\n"
        "fetch_books(books, Path(sys.argv[2]), sys.argv[3], print, print)"
    )
    words = [sys.executable, "-c", code, json.dumps(BOOKS), str(tmp_path), server.url]
    process = subprocess.Popen(words, cwd=ROOT)
    wait_until(lambda: len(read(tmp_path)) == 2 and server.asked["Two"], "two books", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read(tmp_path) == {name: TEXTS[name] for name in TEXTS if "Two" not in name}
    said(*GET, "--to", tmp_path, "--mirror", server.url)
    assert (read(tmp_path), server.asked) == (TEXTS, {"One": 1, "Two": 2, "É #3?": 1})


def test_a_folder_and_a_proxy(server: Server, tmp_path: Path) -> None:
    mirror = tmp_path / "a mirror"
    for book in BOOKS[:2]:
        (mirror / book.path).parent.mkdir(parents=True, exist_ok=True)
        (mirror / book.path).write_bytes(TEXTS[book.name])
    ended = gpt1(*GET, "--to", tmp_path / "one", "--mirror", mirror.as_uri())
    assert (ended.status, f"the server has no {BOOKS[2].path}" in ended.err) == (1, True), ended
    install_opener(None)
    proxy = {"http_proxy": server.url, "no_proxy": ""}
    said(*GET, "--to", tmp_path / "two", "--mirror", "http://books.invalid", **proxy)
    assert (read(tmp_path / "two"), server.hosts) == (TEXTS, {"books.invalid"})


@pytest.mark.parametrize(("words", "message"), [
    (("--mirror", f"http://127.0.0.1:{free_port()}"), r"cannot be fetched \(.*refused\); check"),
    (("--mirror", "ftp://127.0.0.1"), "ftp://127.0.0.1: expected https://, http:// or file:///"),
    (("--mirror", "http://me:pass@127.0.0.1"), "gpt1: http://127.0.0.1: expected .*, no password"),
    (("--limit", 0), "--limit 0: expected 1 or more"), (("cola",), "books are downloaded alone"),
])  # fmt: skip
@pytest.mark.usefixtures("server")
def test_one_line_says_what_to_do(
    words: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    line = refused(message, *GET, "--to", tmp_path, *words).splitlines()[-1]
    assert line.startswith("gpt1: ")
    assert read(tmp_path) == {}


@pytest.mark.parametrize("profile", ["one-gpu", "paper"])
def test_a_profile_without_books_names_the_command(profile: str, tmp_path: Path) -> None:
    words = ("run", "--file", ROOT / "workflow.yaml", "--profile", profile, "--dry-run")
    line = refused("Get .* with `gpt1 data get books`, or .*ingest.source=", *words, cwd=tmp_path)
    assert line.count("\n") == 1


def test_the_list_is_safe_and_ingest_reads_every_name(tmp_path: Path) -> None:
    books = list_books()
    assert len({book.name.casefold() for book in books}) == len(books) == 1069
    assert len({book.sha256 for book in books}) == len(books)
    assert not [book for book in books if leads_out(book.name) or leads_out(book.path)]
    assert not [book for book in books if book.name.count("/") != 1 or is_hidden(book.name)]
    for book in books:
        (tmp_path / book.name).parent.mkdir(exist_ok=True)
        (tmp_path / book.name).touch()
    listing = list_sources([str(tmp_path)])
    assert {file.name for file in listing.files} == {book.name for book in books}
    assert not listing.left_out + [file for file in listing.files if file.digest]


@pytest.mark.slow
def test_real_books_have_the_digests_of_the_list(
    shared: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose copy in the folder of real data is the publisher's file, unchanged."""
    folder = shared / "data" / "books"
    with (folder / "books.csv").open(newline="") as file:
        copies = {row["sha256"]: row["file"] for row in csv.DictReader(file)}
    books = [book for book in list_books() if book.sha256 in copies]
    paths = {copies[book.sha256]: book.path for book in books}
    assert len(paths) == 40
    for shard in sorted(folder.glob("*.tar.bz2")):
        with tarfile.open(shard, "r|bz2") as archive:
            for member in archive:
                if member.name in paths and (text := archive.extractfile(member)):
                    server.files[paths[member.name]] = text.read()
    monkeypatch.setattr(command, "list_books", partial(list, books))
    said(*GET, "--to", tmp_path, "--mirror", server.url)
    found = {name: sha256(text).hexdigest() for name, text in read(tmp_path).items()}
    assert found == {book.name: book.sha256 for book in books}
