"""An archive's pieces come back by bucket and in order, whatever was held, and a bucket's digest is of its pieces alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpt1.corpus.spool as module
from gpt1.corpus.book import bucket
from gpt1.corpus.grouping import placed
from gpt1.corpus.sources.piece import Piece
from gpt1.corpus.spool import Index, SpoolWriter, read_runs


def spooled(path: Path, names: list[str], buckets: int = 4) -> Index:
    with path.open("wb") as file:
        writer = SpoolWriter(file, buckets)
        for name in names:
            text = f"the text of {name} " * 40
            writer.add(*placed(Piece(name, name, "a.tar", name, text, "utf-8", "valid UTF-8", len(text), "0"), None))
        return writer.close()


@pytest.mark.parametrize(("held", "batch"), [(48 << 20, 4 << 20), (10_000, 2_000), (1, 1)])
def test_pieces_come_back_by_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, batch: int) -> None:
    monkeypatch.setattr(module, "HELD", held)
    monkeypatch.setattr(module, "BATCH", batch)
    names = [f"book {number * 7 % 50:02d}.txt" for number in range(50)]
    index = spooled(tmp_path / "spool", names)
    found = []
    for number, place in index.items():
        for run in read_runs(tmp_path / "spool", place["runs"]):
            pieces = list(run)
            assert pieces == sorted(pieces, key=lambda item: item[0])
            assert {bucket(str(piece.book), 4) for _, piece in pieces} == {int(number)}
            found += [piece.name for _, piece in pieces]
            assert all(piece.text == f"the text of {piece.name} " * 40 for _, piece in pieces)
    assert sorted(found) == sorted(names)


def test_one_more_book_changes_one_digest(tmp_path: Path) -> None:
    names = [f"book {number:02d}.txt" for number in range(50)]
    before, after = spooled(tmp_path / "a", names), spooled(tmp_path / "b", [*names, "one more.txt"])
    changed = [number for number in after if before[number]["digest"] != after[number]["digest"]]
    assert changed == [str(bucket("one more", 4))]
    assert spooled(tmp_path / "again", names) == before
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a").read_bytes()
