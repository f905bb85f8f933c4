"""Folders, URLs and the hub: what is listed, what is read, and what is refused."""

import hashlib
import json
import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from huggingface_hub import constants

from gpt1.corpus.discover import list_sources, open_source, skipped_when_listed
from gpt1.corpus.document import SourceFile
from gpt1.corpus.hub import HubPlace, parse_hub
from gpt1.errors import UserError
from tests.conftest import refuses, write
from tests.gpt1.corpus.forms_of_books import as_files, as_rows, parquet_of, tar_of
from tests.servers.process import serving

Patch = pytest.MonkeyPatch
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARD, NOTES = parquet_of(as_rows()), b"some notes\n"
CHANGED = "the file changed since it was listed"


def names(*sources: object) -> list[str]:
    return [file.name for file in list_sources([str(source) for source in sources]).files]


def refused(source: object) -> dict[str, str]:
    files = list_sources([str(source)]).files
    return {file.name: found.rule for file in files if (found := skipped_when_listed(file))}


def read(file: SourceFile) -> bytes:
    with open_source(file) as (stream, _):
        return stream.read()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_any_depth_without_hidden_files_and_other_forms(tmp_path: Path) -> None:
    books = ["a.tar.xz", "a.tzst", "b.TXT.GZ", "b.txt", "x/a.jsonl.bz2", "x/a.zip", "x/y/a.TXT"]
    others = ["a", "a.gz", "a.zip.gz", "x/notes.csv"]
    hidden = ["x/.hidden.txt", ".git/c.txt", "__MACOSX/a.txt"]
    write(tmp_path, dict.fromkeys(books + others + hidden, b"w"))
    assert names(tmp_path) == books
    assert list_sources([str(tmp_path)]).left_out == others


def test_loops_end_and_links_elsewhere_are_followed(tmp_path: Path) -> None:
    top = write(tmp_path / "top", {"a/b/one.txt": b"w", "c/two.txt": b"w"})
    write(tmp_path / "elsewhere", {"deep/three.txt": b"w"})
    links = {"a/b/up": top, "c/a": top / "a", "linked": tmp_path / "elsewhere"}
    for link, to in {**links, "../elsewhere/back": top / "linked"}.items():
        (top / link).symlink_to(to)
    loops = {"a/b/up": "loop", "c/a": "loop", "linked/back": "loop"}
    assert refused(top) == loops
    assert set(names(top)) - loops.keys() == {"a/b/one.txt", "c/two.txt", "linked/deep/three.txt"}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"good.txt": b"w", "secret.txt": b"w", "shut/in.txt": b"w"})
    write(tmp_path, dict.fromkeys(("d-00000-of-00003.parquet", "d-00002-of-00003.parquet"), b"w"))
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.txt")).write_text("w")
    expected = {"gone.txt": "unreadable", "pipe.txt": "not_a_file", "odd\\xff.txt": "bad_name"}
    expected["d-00001-of-00003.parquet"] = "missing_shard"
    write(tmp_path, dict.fromkeys(("e-00003-of-99999.jsonl", "e-00004-of-00004.txt"), b"w"))
    first, last = "e-00000-of-99999.jsonl to e-00002-of", "e-00004-of-99999.jsonl to e-99998-of"
    expected |= {f"{ends}-99999.jsonl": "missing_shard" for ends in (first, last)}
    expected["e-00000-of-00004.txt to e-00003-of-00004.txt"] = "missing_shard"
    if os.geteuid():  # root reads everything
        expected |= {"secret.txt": "unreadable", "shut": "unreadable_folder"}
        (tmp_path / "secret.txt").chmod(0)
        (tmp_path / "shut").chmod(0)
    found = refused(tmp_path)
    (tmp_path / "shut").chmod(0o700)
    assert found == expected


def test_several_sources_stay_apart(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(("one/a.txt", "two/a.txt", "also/one/a.txt"), b"w"))
    one, two, also = (tmp_path / name for name in ("one", "two", "also/one"))
    assert names(two, f"file://{one}") == ["one/a.txt", "two/a.txt"]
    refuses(r"both have a file called one/a\.txt", names, one, also)


NOWHERE = [
    "hf://datasets/../../etc", "ftp://127.0.0.1:1/x", "http://127.0.0.1:1/x", "reference://x",
    "zip://::/etc/hostname", "zip://..::file:///no/such", "ftp://", "tar://", "github://",
    "local:///no",
]  # fmt: skip
NO_SOURCES = [
    ("/no/such/place", "no such file or folder: /no/such/place"), ("hf://", "not a repository on"),
    ("memory://none", "memory://none: "), ("empty", "no books in it; expected"),
    ("other", r"no books in it \(not books: a.csv.*expected"),
    ("nope://who:secret@host/books", r"^(?!.*secret).*nope://host.* cannot be opened"),
    *((source, source[:5]) for source in NOWHERE),
]  # fmt: skip


@pytest.mark.parametrize(("source", "message"), NO_SOURCES)
def test_what_cannot_be_had(source: str, message: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(write(tmp_path, {"other/a.csv": b"x"}))
    (tmp_path / "empty").mkdir()
    refuses(message, names, source)


def test_a_file_that_changes_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    refuses(CHANGED, read, SourceFile("a.txt", str(path), sha256(b"other")))
    listed = SourceFile("a", str(path))
    with pytest.raises(UserError, match=CHANGED), open_source(listed) as (stream, _):
        path.write_text(f"after, and longer than {stream.read(2)!r}")
    refuses("cannot be read", read, SourceFile("gone.txt", str(tmp_path / "gone.txt")))


def test_a_folder_behind_a_url() -> None:
    system, books = fsspec.filesystem("memory"), {**as_files(), "tars/b.tar": tar_of(as_files())}
    for name, data in {**books, "notes.csv": b"a"}.items():
        system.pipe(f"/corpus/{name}", data)
    listing = list_sources(["memory://corpus"])
    assert [file.name for file in listing.files] == sorted(books)
    assert listing.left_out == ["notes.csv"]
    assert {file.name: read(file) for file in listing.files} == books
    system.pipe("/corpus/Homer/Iliad.txt", b"other words")
    refuses(rf"Homer/Iliad\.txt: {CHANGED}", read, listing.files[1])
    assert list_sources(["memory://corpus"]).files[1].digest != listing.files[1].digest
    system.rm("/corpus", recursive=True)


def test_places_on_the_hub() -> None:
    for source, place in {
        "datasets/owner/name@v1/a/b.txt": HubPlace("dataset", "owner/name", "v1", "a/b.txt"),
        "datasets/name@refs%2Fpr%2F1": HubPlace("dataset", "name", "refs/pr/1", ""),
        "owner/name": HubPlace("model", "owner/name", "main", ""),
    }.items():
        assert parse_hub(f"hf://{source}") == place == parse_hub(place.url)


FILES = {"data/train-00000-of-00002.parquet": SHARD, "notes.md": NOTES}
LARGE = {"lfs": {"sha256": sha256(SHARD), "size": len(SHARD), "pointerSize": 9}}
SIBLINGS = [
    {"rfilename": name, "size": len(data), "blobId": git(data)} | (LARGE if data is SHARD else {})
    for name, data in FILES.items()
]
ABOUT = {"id": "owner/books", "sha": COMMIT, "private": False, "tags": [], "siblings": SIBLINGS}
LISTING = "/api/datasets/owner/books/revision/main"
BODIES = {LISTING: json.dumps(ABOUT).encode(), "/Emma.txt": b"Emma Woodhouse"}
BODIES |= {f"/datasets/owner/books/resolve/{COMMIT}/{name}": data for name, data in FILES.items()}


class Hub(BaseHTTPRequestHandler):
    """What a reader needs of the hub, the list of a revision's files and each file; and a file."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked += [path] if "/owner/" in path else []
        body = BODIES.get(path, b"")
        self.send_response(200 if body else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{sha256(body) if body is SHARD else git(body)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    do_HEAD = do_GET


def test_one_file_and_a_server_that_ends() -> None:
    with serving(Hub) as there:
        [file] = list_sources([f"http://{there}/Emma.txt"]).files
        assert (file.name, read(file)) == ("Emma.txt", b"Emma Woodhouse")
    refuses(r"Emma\.txt", read, file)


def test_the_hub_is_listed_pinned_and_offline_its_cache(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    name, where = "data/train-0000{}-of-00002.parquet", f"hf://datasets/owner/books@{COMMIT}"
    with serving(Hub) as there:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://{there}")
        template = f"http://{there}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        shard, _, notes = files = list_sources(["hf://datasets/owner/books"]).files
        assert Hub.asked == [LISTING]
        assert (read(shard), read(notes)) == (SHARD, NOTES)
        assert all("/resolve/" in asked for asked in Hub.asked[1:])
        refuses("owner/none@main: the hub refused access", names, "hf://datasets/owner/none")
    assert shard == SourceFile(name.format(0), f"{where}/{name.format(0)}", sha256(SHARD))
    assert notes == SourceFile("notes.md", f"{where}/notes.md", f"git:{git(NOTES)}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuses("the local cache has no revision 'main'", names, "hf://datasets/owner/books")
    write(tmp_path / "datasets--owner--books", {"refs/main": COMMIT.encode()})  # by `hf download`
    assert list_sources(["hf://datasets/owner/books"]).files == files
    assert refused("hf://datasets/owner/books") == {name.format(1): "missing_shard"}
    assert (read(shard), names(f"{where}/notes.md")) == (SHARD, ["notes.md"])
    next(tmp_path.rglob(f"blobs/{git(NOTES)}")).write_bytes(b"other notes")
    refuses(rf"notes\.md: {CHANGED}", read, notes)
