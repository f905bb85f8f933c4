"""URLs through fsspec, and the hub: from its cache on this machine, and from a server that speaks its protocol."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from gpt1.corpus.sources.hub import HubPlace, parse_hub
from gpt1.corpus.sources.listed import refusal
from gpt1.corpus.sources.listing import list_sources
from gpt1.corpus.sources.place import opened, read_file
from gpt1.errors import UserError
from tests.gpt1.corpus.forms_of_books import as_files, as_rows, parquet_of, tar_of, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARD = parquet_of(as_rows())
NOTES = b"some notes\n"


@contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def memory() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for name, data in {**as_files(), "tars/b.tar": tar_of(as_files()), "notes.csv": b"a"}.items():
        system.pipe(f"/corpus/{name}", data)
    yield "memory://corpus"
    system.rm("/corpus", recursive=True)


def test_a_folder_behind_a_url(memory: str) -> None:
    listing = list_sources([memory])
    assert [file.name for file in listing.files] == sorted([*as_files(), "tars/b.tar"])
    assert listing.left_out == ["notes.csv"]
    texts = {file.name: read_file(file, 1 << 20) for file in listing.files}
    assert {name: texts[name] for name in as_files()} == as_files()
    with opened(listing.files[-1]) as (stream, size):
        assert size == len(stream.read()) == len(tar_of(as_files()))
    fsspec.filesystem("memory").pipe("/corpus/Homer/Iliad.txt", b"other words")
    with pytest.raises(UserError, match=r"Homer/Iliad\.txt: the file changed"):
        read_file(listing.files[1], 1 << 20)
    assert list_sources([memory]).files[1].digest != listing.files[1].digest


def test_one_file_and_a_server_that_ends(tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    write(tmp_path, {"Emma.txt": b"Emma Woodhouse"})
    with serving(functools.partial(Quiet, directory=str(tmp_path))) as url:
        [file] = list_sources([f"{url}/Emma.txt"]).files
        assert (file.name, read_file(file, 100)) == ("Emma.txt", b"Emma Woodhouse")
    with pytest.raises(UserError, match=r"Emma\.txt"):
        read_file(file, 100)


def test_what_cannot_be_opened_names_what_is_missing() -> None:
    if __import__("importlib.util").util.find_spec("s3fs") is None:
        with pytest.raises(UserError, match=r"s3:// cannot be opened \(.*s3fs"):
            list_sources(["s3://bucket/books"])
    with pytest.raises(UserError, match=r"nope:// cannot be opened"):
        list_sources(["nope://who:secret@host/books"])
    with pytest.raises(UserError, match="nope://host") as caught:
        list_sources(["nope://who:secret@host/books"])
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="memory://none: "):
        list_sources(["memory://none"])


def test_places_on_the_hub() -> None:
    assert parse_hub("hf://datasets/owner/name@v1/a/b.txt") == HubPlace("dataset", "owner/name", "v1", "a/b.txt")
    assert parse_hub("hf://datasets/bookcorpus") == HubPlace("dataset", "bookcorpus", "main", "")
    converted = parse_hub("hf://datasets/bookcorpus@refs%2Fconvert%2Fparquet")
    assert converted == HubPlace("dataset", "bookcorpus", "refs/convert/parquet", "")
    assert parse_hub("hf://owner/name") == HubPlace("model", "owner/name", "main", "")
    for source in ("hf://datasets/owner/name@v1/a/b.txt", "hf://datasets/bookcorpus@refs%2Fpr%2F1"):
        assert parse_hub(parse_hub(source).url) == parse_hub(source)
    with pytest.raises(UserError, match="no repository of the hub"):
        parse_hub("hf://")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache layout: blobs by digest, a snapshot of links, a reference; shard 1 of 2 was never fetched."""
    from huggingface_hub import constants

    repository = tmp_path / "datasets--owner--books"
    snapshot = repository / "snapshots" / COMMIT
    large = hashlib.sha256(SHARD).hexdigest()
    files = {"data/train-00000-of-00002.parquet": (SHARD, large), "notes.md": (NOTES, git(NOTES))}
    for name, (data, digest) in files.items():
        write(repository / "blobs", {digest: data})
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(repository / "blobs" / digest, (snapshot / name).parent))
    write(repository / "refs", {"main": COMMIT.encode()})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository


def test_the_hub_offline_is_its_cache(cache: Path) -> None:
    files = list_sources(["hf://datasets/owner/books"]).files
    assert [(file.name, found.rule if (found := refusal(file.name, file.digest)) else None) for file in files] == [
        ("data/train-00000-of-00002.parquet", None), ("data/train-00001-of-00002.parquet", "missing_shard"), ("notes.md", None),
    ]  # fmt: skip
    assert (files[0].digest, files[2].digest) == (hashlib.sha256(SHARD).hexdigest(), f"git:{git(NOTES)}")
    assert files[0].where == f"hf://datasets/owner/books@{COMMIT}/data/train-00000-of-00002.parquet"
    assert (read_file(files[0], 1 << 20), read_file(files[2], 100)) == (SHARD, NOTES)
    assert [file.name for file in list_sources([f"hf://datasets/owner/books@{COMMIT}/notes.md"]).files] == ["notes.md"]
    with pytest.raises(UserError, match="the cache on this machine has no revision 'v2'"):
        list_sources(["hf://datasets/owner/books@v2"])
    (cache / "blobs" / git(NOTES)).write_bytes(b"other notes")
    with pytest.raises(UserError, match=r"notes\.md: the file changed"):
        read_file(files[2], 100)


class Hub(http.server.BaseHTTPRequestHandler):
    """The two answers of the hub that a reader needs: what a revision holds, and a file of it."""

    files: ClassVar = {"data/train-00000-of-00001.parquet": SHARD, "notes.md": NOTES}
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        headers = {"X-Repo-Commit": COMMIT}
        if path == "/api/datasets/owner/books/revision/main":
            large = {"lfs": {"sha256": hashlib.sha256(SHARD).hexdigest(), "size": len(SHARD), "pointerSize": 9}}
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": git(data)} | (large if data is SHARD else {})
                for name, data in self.files.items()
            ]
            body = json.dumps({"id": "owner/books", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}).encode()
        elif path.startswith(f"/datasets/owner/books/resolve/{COMMIT}/"):
            body = self.files[path.split(COMMIT + "/")[1]]
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest() if body is SHARD else git(body)}"'
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def test_the_hub_online_is_listed_without_a_download_and_pinned(tmp_path: Path) -> None:
    code = (
        "from gpt1.corpus.sources.listing import list_sources\nfrom gpt1.corpus.sources.place import read_file\n"
        "files = list_sources(['hf://datasets/owner/books']).files\nprint([(f.name, f.where, f.digest) for f in files])\n"
        "import sys\nprint('listed', file=sys.stderr)\nprint([len(read_file(f, 1 << 20)) for f in files])"
    )
    with serving(Hub) as url:
        about = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        ended, bad = (
            subprocess.run([sys.executable, "-c", words], env=os.environ | about, capture_output=True, text=True, timeout=120)
            for words in (code, code.replace("owner/books", "owner/none"))
        )
    assert ended.returncode == 0, ended.stderr
    listed, sizes = ended.stdout.splitlines()
    where = f"hf://datasets/owner/books@{COMMIT}"
    assert listed == repr([
        (name, f"{where}/{name}", digest) for name, digest in
        (("data/train-00000-of-00001.parquet", hashlib.sha256(SHARD).hexdigest()), ("notes.md", f"git:{git(NOTES)}"))
    ])  # fmt: skip
    assert sizes == str([len(SHARD), len(NOTES)])
    assert Hub.asked[0].startswith("GET /api/")
    assert all("/resolve/" in asked for asked in Hub.asked[1:4])
    assert "gpt1.errors.UserError: hf://owner/none@main: the hub refuses it" in bad.stderr
