"""What a folder of this machine holds, and what stands in a listing for what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpt1.corpus.folder import list_path
from gpt1.corpus.sources.listed import Listed, missing_shards, refusal
from gpt1.corpus.sources.listing import list_sources
from gpt1.corpus.sources.place import opened, read_file
from gpt1.errors import UserError
from tests.gpt1.corpus.forms_of_books import write


def refused(files: list[Listed]) -> dict[str, str]:
    return {file.name: found.rule for file in files if (found := refusal(file.name, file.digest))}


def test_any_depth_without_hidden_files(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(("b.txt", "x/y/a.TXT", "x/.hidden.txt", ".git/c.txt", "x/notes.csv", "x/a.zip", "z.md"), b"w"))
    listing = list_path(tmp_path)
    assert [file.name for file in listing.files] == ["b.txt", "x/a.zip", "x/y/a.TXT", "z.md"]
    assert (listing.left_out, refused(listing.files)) == (["x/notes.csv"], {})


def test_loops_end_and_links_elsewhere_are_followed(tmp_path: Path) -> None:
    top = write(tmp_path / "top", {"a/b/one.txt": b"w", "c/two.txt": b"w"})
    write(tmp_path / "elsewhere", {"deep/three.txt": b"w"})
    (top / "a" / "b" / "up").symlink_to(top)
    (top / "c" / "a").symlink_to(top / "a")
    (top / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(top / "linked")
    files = list_path(top).files
    assert [file.name for file in files if file.digest is None] == ["a/b/one.txt", "c/two.txt", "linked/deep/three.txt"]
    assert refused(files) == {"a/b/up": "loop", "c/a": "loop", "linked/back": "loop"}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"good.txt": b"w", "secret.txt": b"w", "shut/in.txt": b"w"})
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.txt")).write_text("w")
    expected = {"gone.txt": "unreadable", "pipe.txt": "not_a_file", "odd\\xff.txt": "bad_name"}
    if os.geteuid():
        (tmp_path / "secret.txt").chmod(0)
        (tmp_path / "shut").chmod(0)
        expected |= {"secret.txt": "unreadable", "shut": "unreadable_folder"}
    found = refused(list_path(tmp_path).files)
    if os.geteuid():
        (tmp_path / "shut").chmod(0o700)
    assert found == expected


def test_missing_shards_are_counted_from_the_names_of_the_others(tmp_path: Path) -> None:
    present = ["d/train-00000-of-00003.parquet", "d/train-00002-of-00003.parquet", "x.txt"]
    assert missing_shards(present) == ["d/train-00001-of-00003.parquet"]
    write(tmp_path, {"train-00001-of-00002.parquet": b"w", "test-00000-of-00001.parquet": b"w"})
    assert refused(list_sources([str(tmp_path)]).files) == {"train-00000-of-00002.parquet": "missing_shard"}


@pytest.mark.parametrize("make", ["nothing", "empty folder", "other file", "other files"])
def test_a_source_without_books_is_one_clear_error(tmp_path: Path, make: str) -> None:
    source = tmp_path / "source"
    if make == "other file":
        source.write_text("a,b")
    elif make != "nothing":
        write(source, {"a.csv": b"x"} if make == "other files" else {})
        source.mkdir(exist_ok=True)
    with pytest.raises(UserError, match="no such file or folder" if make == "nothing" else "the corpus is empty.*expected books"):
        list_sources([str(source)])


def test_several_sources_stand_beside_one_another(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.txt": b"w", "two/a.txt": b"w", "three/b.zip": b"w", "also/one/a.txt": b"w"})
    sources = [str(tmp_path / name) for name in ("two", "one", "three/b.zip")]
    assert [file.name for file in list_sources(sources).files] == ["b.zip", "one/a.txt", "two/a.txt"]
    assert [file.name for file in list_sources(sources[:1]).files] == ["a.txt"]
    assert list_sources([f"file://{tmp_path}/one"]) == list_sources([str(tmp_path / "one")])
    with pytest.raises(UserError, match=r"both have a file called one/a\.txt"):
        list_sources([str(tmp_path / "one"), str(tmp_path / "also" / "one")])


def _change_while_reading(path: Path) -> None:
    with opened(Listed("a.txt", str(path))) as (stream, _):
        stream.read(2)
        path.write_text("after, and longer")


def test_a_file_that_changes_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    before = "dd08a7a1b39b4b4d8bcc6d34ac5b1cc6b4b27d0b3b0d1d7a3ab0b7a4ef2a6ef0"
    with pytest.raises(UserError, match="changed while it was being read"):
        read_file(Listed("a.txt", str(path), before), 100)
    with pytest.raises(UserError, match="changed while it was being read"):
        _change_while_reading(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_file(Listed("gone.txt", str(tmp_path / "gone.txt")), 100)
