"""The ingest stage, run for real on a store in a temporary folder, in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from gpt1.corpus.parts import read_books
from gpt1.corpus.sources.forms import form_of
from gpt1.errors import UserError
from pipeline.plan import Plan
from stages.contract import Artifact
from tests.gpt1.corpus.forms_of_books import (
    BOOKS,
    as_files,
    as_rows,
    epub_of,
    jsonl_of,
    packed,
    page,
    parquet_of,
    tar_of,
    write,
    zip_of,
)  # fmt: skip
from tests.pipeline.inline import plan_of, run_inline

LIBRARY = {f"author {number % 3}/book_{number}.txt": f"Book {number} has words of its own.\n".encode() * 20 for number in range(24)}


def workflow(tmp_path: Path) -> Path:
    file = tmp_path / "workflow.yaml"
    file.write_text("stages:\n  ingest:\n    with: {parts: 8}\n")
    return file


def ingest(tmp_path: Path, *assignments: str, store: str = "store") -> Artifact:
    plan = plan_of(workflow(tmp_path), tmp_path / store, *assignments)
    run_inline(plan)
    return artifact(plan)


def artifact(plan: Plan) -> Artifact:
    found = plan.store.artifact("ingest", plan.entries["ingest"].fingerprint)
    assert found is not None
    return found


def parts_of(tmp_path: Path, *assignments: str) -> dict[str, int]:
    plan = plan_of(workflow(tmp_path), tmp_path / "store", *assignments)
    run_inline(plan)
    record = plan.store.record("ingest", plan.entries["ingest"].fingerprint)
    assert record is not None
    return dict(record["parts"])


def texts(made: Artifact) -> dict[str, str]:
    return {book.id: book.text for file in made.under("books/") for book in read_books(file.path)}


def lines(made: Artifact, prefix: str) -> list[dict[str, object]]:
    return [json.loads(line) for file in made.under(prefix) for line in file.path.read_text().splitlines()]


def hashes(made: Artifact) -> Mapping[str, str]:
    return {name: file.sha256 for name, file in made.files.items() if not file.volatile}


def test_a_mixture_of_all_forms_gives_each_book_once(tmp_path: Path) -> None:
    files = {
        **{f"loose/{name}": data for name, data in as_files().items()},
        **{f"packed/{name}.gz": packed(data, ".gz") for name, data in as_files().items()},
        "deep/er/books.tar.bz2": packed(tar_of(as_files()), ".bz2"), "books.zip": zip_of(as_files()),
        "other.zip": zip_of(as_files()),
        "books.parquet": parquet_of(as_rows()), "books.jsonl.gz": packed(jsonl_of(as_rows()), ".gz"),
        "x.epub": epub_of("Emma", "Jane Austen", {"a.xhtml": page(BOOKS["Jane Austen/Emma"])}), "books.csv": b"left,out",
    }  # fmt: skip
    made = ingest(tmp_path, f"ingest.source={write(tmp_path / 'corpus', files)}")
    found = texts(made)
    prefixes = ("loose", "packed", "deep/er/books.tar.bz2", "books.zip", "other.zip", "books.parquet", "books.jsonl.gz")
    wanted = {f"{prefix}/{name}": text for prefix in prefixes for name, text in BOOKS.items()}
    assert found == wanted | {"x": BOOKS["Jane Austen/Emma"].strip()}
    assert (made.summary["books"], made.summary["authors"], made.summary["refused"]) == (22, 3, {})
    assert made.summary["encodings"] == {"utf-8": 21, "epub": 1}
    assert made.path("left_out.txt").read_text() == "books.csv\n"
    records = {str(row["book"]): row for row in lines(made, "records/")}
    assert records.keys() == found.keys()
    assert records["books.zip/Homer/Iliad"]["files"] == [{
        "file": "books.zip", "member": "Homer/Iliad.txt", "encoding": "utf-8", "how": "valid UTF-8",
        "bytes": len(BOOKS["Homer/Iliad"]), "sha256": records["loose/Homer/Iliad"]["files"][0]["sha256"],  # type: ignore[index]
    }]  # fmt: skip
    assert hashes(ingest(tmp_path, f"ingest.source={tmp_path / 'corpus'}", store="again")) == hashes(made)


def test_everything_hostile_at_once_costs_a_record_each_and_nothing_else(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {
        **LIBRARY,
        "cut.txt.gz": packed(b"some words " * 500, ".gz")[:-30], "bomb.tar.bz2": packed(tar_of({"b.txt": bytes(40 << 20)}), ".bz2"),
        "way.tar": tar_of({"../../out.txt": b"words", "in.txt": b"inside"}), "long.txt": b"x" * 5000,
        "invalid.txt": "“Ça”".encode()[:-1],
        "nul.txt": b"a\0b", "empty.txt": b"", "train-00000-of-00003.parquet": parquet_of(as_rows()),
        "train-00002-of-00003.parquet": parquet_of([{"words": "x"}]), "broken.epub": b"PK",
        "twice.tar": tar_of({"a.txt": b"1", "a.md": b"2"}),
    })  # fmt: skip
    (corpus / "loop").symlink_to(corpus)
    settings = (f"ingest.source={corpus}", "ingest.max_line=1000")
    made = ingest(tmp_path, *settings)
    rows = lines(made, "refused/")
    assert {(row["file"], row["member"], row["rule"]) for row in rows} == {
        ("cut.txt.gz", None, "damaged"), ("bomb.tar.bz2", "b.txt", "bomb"), ("way.tar", "../../out.txt", "unsafe_path"),
        ("long.txt", None, "long_line"), ("invalid.txt", None, "invalid_utf8"), ("nul.txt", None, "nul"),
        ("empty.txt", None, "empty"),
        ("train-00001-of-00003.parquet", None, "missing_shard"), ("train-00002-of-00003.parquet", None, "no_text_column"),
        ("broken.epub", None, "damaged"), ("twice.tar", "a.txt", "same_name"), ("loop", None, "loop"),
    }  # fmt: skip
    assert all(row["found"] and row["expected"] and row["do"] for row in rows)
    assert sum(made.summary["refused"].values()) == 12
    assert texts(made) == {
        **{name.removesuffix(".txt"): data.decode() for name, data in LIBRARY.items()}, "way.tar/in": "inside", "twice.tar/a": "2",
        **{f"train-00000-of-00003.parquet/{name}": text for name, text in BOOKS.items()},
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "store", "workflow.yaml"]
    assert hashes(ingest(tmp_path, *settings, store="again")) == hashes(made)
    (corpus / "loop").unlink()
    (corpus / "train-00000-of-00003.parquet").rename(corpus / "whole.parquet")
    (corpus / "train-00002-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"\.(?:gz|txt|bz2|tar|epub).*; expected .* \([a-z_8]+\)$"):
        ingest(tmp_path, *settings, "ingest.on_error=stop", store="strict")


def test_nothing_readable_at_all_is_an_error(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"a.txt": b"", "b.zip": b"no zip"})
    with pytest.raises(UserError, match=r"no book could be read; .*b\.zip: cut short or damaged.*a\.txt: it is empty"):
        ingest(tmp_path, f"ingest.source={corpus}")


def test_one_more_book_makes_one_part_of_books(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {**LIBRARY, "a.tar.gz": packed(tar_of(LIBRARY), ".gz"), "b.zip": zip_of(LIBRARY)})
    assert parts_of(tmp_path, f"ingest.source={corpus}") == {"made": 10, "reused": 0}
    write(corpus, {"one more.txt": b"more words"})
    assert parts_of(tmp_path, f"ingest.source={corpus}") == {"made": 1, "reused": 9}
    write(corpus, {"b.zip": zip_of({**LIBRARY, "new.txt": b"new words"})})
    assert parts_of(tmp_path, f"ingest.source={corpus}") == {"made": 2, "reused": 8}
    assert len(texts(artifact(plan_of(workflow(tmp_path), tmp_path / "store", f"ingest.source={corpus}")))) == 3 * 24 + 2


def test_a_moved_folder_is_the_same_corpus_and_a_changed_file_is_named(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", LIBRARY)
    ingest(tmp_path, f"ingest.source={corpus}")
    moved = corpus.rename(tmp_path / "moved")
    write(moved, {"picture.png": b"\x89PNG"})
    assert plan_of(workflow(tmp_path), tmp_path / "store", f"ingest.source={moved}").to_run == []
    write(moved, {"author 1/book_4.txt": b"changed"})
    reasons = plan_of(workflow(tmp_path), tmp_path / "store", f"ingest.source={moved}").entries["ingest"].reasons
    assert reasons == ["file author 1/book_4.txt: changed"]


def test_files_are_hashed_by_the_plan_and_not_again(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", LIBRARY)
    plan = plan_of(workflow(tmp_path), tmp_path / "store", f"ingest.source={corpus}")
    assert all(len(file.digest or "") == 64 for file in plan.entries["ingest"].external_files)
    write(corpus, {"author 0/book_0.txt": b"changed since the plan"})
    with pytest.raises(UserError, match=r"author 0/book_0\.txt: the file changed"):
        run_inline(plan)


def test_rows_of_sentences_say_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [{"text": f"this is sentence {number} ."} for number in range(450)]
    corpus = write(tmp_path / "corpus", {f"train-0000{shard}-of-00002.parquet": parquet_of(rows, 100) for shard in range(2)})
    made = ingest(tmp_path, f"ingest.source={corpus}", "ingest.stretch=200")
    assert (made.summary["books"], made.summary["stretches_of_sentences"]) == (6, 6)
    assert "book boundaries" in made.summary["lost"]
    assert "lost are book boundaries, titles, authors" in capsys.readouterr().err
    assert {row["form"] for row in lines(made, "records/")} == {"sentences"}
    assert sum(len(text.split("\n")) for text in texts(made).values()) == 900
    plain = ingest(tmp_path, f"ingest.source={corpus}", "ingest.rows=documents")
    assert (plain.summary["books"], plain.summary["stretches_of_sentences"]) == (900, 0)


def test_several_sources_and_a_single_file(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.txt": b"first", "two.zip": zip_of({"b.txt": b"second"})})
    made = ingest(tmp_path, f"ingest.source=[{tmp_path / 'one'}, {tmp_path / 'two.zip'}]")
    assert texts(made) == {"one/a": "first", "two.zip/b": "second"}
    assert texts(ingest(tmp_path, f"ingest.source={tmp_path / 'two.zip'}")) == {"two.zip/b": "second"}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["ingest.source=/no/such/folder"], "no such file or folder"),
        (["ingest.source=[embedded, x]"], "the embedded corpus stands alone"),
        (["ingest.chapter_pattern=_ch(\\d+)$"], "chapter_pattern is for a folder"),
        (["ingest.source=x", "ingest.chapter_pattern=("], "no regular expression"),
        (["ingest.source=x", "ingest.chapter_pattern=_ch"], "has 0 groups; expected one"),
        (["ingest.parts=0"], "parts"),
        (["ingest.folders=[brontes, nothing]"], "folders"),
        (["ingest.rows=lines"], "rows"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(assignments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(workflow(tmp_path), tmp_path / "store", *assignments)


@pytest.mark.slow
def test_the_shared_books_are_read_whole(shared: Path, tmp_path: Path) -> None:
    import csv

    made = ingest(tmp_path, f"ingest.source={shared / 'data' / 'books'}")
    with (shared / "data" / "books" / "books.csv").open() as file:
        wanted = {f"{row['shard']}.tar.bz2/{row['file']}": (int(row["bytes"]), row["sha256"]) for row in csv.DictReader(file)}
    found = {
        f"{piece['file']}/{piece['member']}": (piece["bytes"], piece["sha256"])
        for row in lines(made, "records/") for piece in row["files"]  # type: ignore[attr-defined]
    }  # fmt: skip
    assert found == wanted
    assert (len(found), made.summary["refused"]) == (1136, {})
    assert form_of("books.csv") is None
    assert made.path("left_out.txt").read_text() == "books.csv\n"
