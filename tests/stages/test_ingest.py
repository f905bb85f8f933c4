"""The ingest stage: books in every form, hostile files, parts used again, several sources."""

from __future__ import annotations

import csv
from hashlib import sha256
from pathlib import Path

import pytest

from gpt1.errors import UserError
from pipeline.plan import Plan
from stages.contract import Artifact
from tests.gpt1.corpus import forms_of_books as forms
from tests.gpt1.corpus.forms_of_books import BOOKS, packed, parquet_of, tar_of, write, zip_of
from tests.pipeline.inline import plan_of, run_inline
from tests.stages.runs import books, digests, lines, made, parts

LIBRARY = {
    f"author {n % 3}/book_{n}.txt": f"Book {n} has words.\n".encode() * 20 for n in range(24)
}
FILES, ROWS, EMMA = forms.as_files(), forms.as_rows(), BOOKS["Jane Austen/Emma"]
MIXTURE = {
    **{f"loose/{name}": data for name, data in FILES.items()},
    **{f"packed/{name}.gz": packed(data, ".gz") for name, data in FILES.items()},
    "deep/er/books.tar.bz2": packed(tar_of(FILES), ".bz2"),
    **dict.fromkeys(("books.zip", "other.zip"), zip_of(FILES)), "books.parquet": parquet_of(ROWS),
    "books.jsonl.gz": packed(forms.jsonl_of(ROWS), ".gz"),
    "x.epub": forms.epub_of("Emma", "Jane Austen", {"a.xhtml": forms.page(EMMA)}),
    "books.csv": b"left,out",
}
OUTSIDE = "../../out.txt"
HOSTILE = {
    "cut.txt.gz": (packed(b"some words " * 500, ".gz")[:-30], None, "damaged"),
    "bomb.tar.bz2": (packed(tar_of({"b.txt": bytes(40 << 20)}), ".bz2"), "b.txt", "bomb"),
    "way.tar": (tar_of({OUTSIDE: b"words", "in.txt": b"inside"}), OUTSIDE, "unsafe_path"),
    "long.txt": (b"x" * 5000, None, "long_line"),
    "invalid.txt": ("“Ça”".encode()[:-1], None, "invalid_utf8"), "nul.txt": (b"a\0b", None, "nul"),
    "empty.txt": (b"", None, "empty"),
    "train-00002-of-00003.parquet": (parquet_of([{"words": "x"}]), None, "no_text_column"),
    "broken.epub": (b"PK", None, "damaged"),
    "twice.tar": (tar_of({"a.txt": b"1", "a.md": b"2"}), "a.txt", "same_name"),
}  # fmt: skip
"""Files, with the member and the rule of their records."""


def plan_ingest(tmp_path: Path, *assignments: str, store: str = "store") -> Plan:
    file = tmp_path / "workflow.yaml"
    file.write_text("stages:\n  ingest:\n    with: {parts: 8}\n")
    return plan_of(file, tmp_path / store, *(f"ingest.{one}" for one in assignments))


def ingest(tmp_path: Path, *assignments: str, store: str = "store") -> tuple[Artifact, Plan]:
    plan = plan_ingest(tmp_path, *assignments, store=store)
    run_inline(plan)
    return made(plan, "ingest"), plan


def texts(artifact: Artifact) -> dict[str, str]:
    return {name: book.text for name, book in books(artifact).items()}


def test_a_mixture_of_all_forms_gives_each_book_once(tmp_path: Path) -> None:
    source = f"source={write(tmp_path / 'corpus', MIXTURE)}"
    found, _ = ingest(tmp_path, source)
    prefixes = ["loose", "packed", "deep/er/books.tar.bz2"]
    prefixes += ["books.zip", "other.zip", "books.parquet", "books.jsonl.gz"]
    expected = {f"{prefix}/{name}": text for prefix in prefixes for name, text in BOOKS.items()}
    assert texts(found) == expected | {"x": EMMA.strip()}
    counts = [found.summary[name] for name in ("books", "authors", "refused", "encodings")]
    assert counts == [22, 3, {}, {"utf-8": 21, "epub": 1}]
    assert found.path("left_out.txt").read_text() == "books.csv\n"
    records = {row["book"]: row for row in lines(found, "records/")}
    assert records.keys() == texts(found).keys()
    [piece] = records["books.zip/Homer/Iliad"]["files"]
    assert (piece["file"], piece["member"]) == ("books.zip", "Homer/Iliad.txt")
    assert piece["sha256"] == sha256(FILES["Homer/Iliad.txt"]).hexdigest()
    assert digests(ingest(tmp_path, source, store="again")[0]) == digests(found)


def test_everything_hostile_at_once_costs_a_record_each(tmp_path: Path) -> None:
    first = "train-00000-of-00003.parquet"
    files = {name: data for name, (data, _, _) in HOSTILE.items()}
    corpus = write(tmp_path / "corpus", {**LIBRARY, **files, first: parquet_of(ROWS)})
    (corpus / "loop").symlink_to(corpus)
    settings = (f"source={corpus}", "max_line=1000")
    found, _ = ingest(tmp_path, *settings)
    rows = lines(found, "refused/")
    expected = {(name, member, rule) for name, (_, member, rule) in HOSTILE.items()}
    expected |= {("train-00001-of-00003.parquet", None, "missing_shard"), ("loop", None, "loop")}
    assert {(row["file"], row["member"], row["rule"]) for row in rows} == expected
    assert all(row["found"] and row["expected"] and row["do"] for row in rows)
    assert texts(found) == {
        **{name.removesuffix(".txt"): data.decode() for name, data in LIBRARY.items()},
        **{f"{first}/{name}": text for name, text in BOOKS.items()},
        "way.tar/in": "inside", "twice.tar/a": "2",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "store", "workflow.yaml"}
    assert digests(ingest(tmp_path, *settings, store="again")[0]) == digests(found)
    for name in ("loop", first, "train-00002-of-00003.parquet"):
        (corpus / name).unlink()
    with pytest.raises(UserError, match=r"\.(?:gz|txt|bz2|tar|epub).*; expected .* \([a-z_8]+\)$"):
        ingest(tmp_path, *settings, "on_error=stop", store="strict")


def test_nothing_readable_at_all_is_an_error_with_the_files(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"a.txt": b"", "b.zip": b"no zip"})
    with pytest.raises(UserError, match=r"no book could be read; .*b\.zip: .*a\.txt: it is empty"):
        ingest(tmp_path, f"source={corpus}")


def test_one_more_book_makes_one_part_of_books(tmp_path: Path) -> None:
    archives = {"a.tar.gz": packed(tar_of(LIBRARY), ".gz"), "b.zip": zip_of(LIBRARY)}
    corpus = write(tmp_path / "corpus", {**LIBRARY, **archives})
    source = f"source={corpus}"
    assert parts(ingest(tmp_path, source)[1], "ingest") == (10, 0)
    write(corpus, {"one more.txt": b"more words"})
    assert parts(ingest(tmp_path, source)[1], "ingest") == (1, 9)
    write(corpus, {"b.zip": zip_of({**LIBRARY, "new.txt": b"new words"})})
    found, plan = ingest(tmp_path, source)
    assert parts(plan, "ingest") == (2, 8)
    assert len(texts(found)) == 3 * 24 + 2


def test_a_file_that_changes_after_the_plan_is_named(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", LIBRARY)
    plan = plan_ingest(tmp_path, f"source={corpus}")
    assert all(len(file.digest or "") == 64 for file in plan.entries["ingest"].outside)
    write(corpus, {"author 0/book_0.txt": b"changed since the plan"})
    with pytest.raises(UserError, match=r"author 0/book_0\.txt: the file changed"):
        run_inline(plan)


def test_rows_of_sentences_say_what_is_lost(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"this is sentence {n} ."} for n in range(450)]
    files = {f"train-0000{n}-of-00002.parquet": parquet_of(rows, 100) for n in range(2)}
    source = f"source={write(tmp_path / 'corpus', files)}"
    found, _ = ingest(tmp_path, source, "stretch=200")
    assert (found.summary["books"], found.summary["stretches_of_sentences"]) == (6, 6)
    assert "book boundaries" in found.summary["lost"]
    assert {row["form"] for row in lines(found, "records/")} == {"sentences"}
    assert sum(len(text.split("\n")) for text in texts(found).values()) == 900
    assert ingest(tmp_path, source, "rows=documents")[0].summary["books"] == 900


def test_several_sources_and_a_single_file(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.txt": b"first", "two.zip": zip_of({"b.txt": b"second"})})
    both, _ = ingest(tmp_path, f"source=[{tmp_path / 'one'}, {tmp_path / 'two.zip'}]")
    assert texts(both) == {"one/a": "first", "two.zip/b": "second"}
    assert texts(ingest(tmp_path, f"source={tmp_path / 'two.zip'}")[0]) == {"two.zip/b": "second"}


@pytest.mark.slow
def test_every_byte_of_the_shared_books_is_read(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "books"
    found, _ = ingest(tmp_path, f"source={folder}")
    with (folder / "books.csv").open() as file:
        table = list(csv.DictReader(file))
    expected = {(f"{row['shard']}.tar.bz2", row["file"], row["sha256"]) for row in table}
    pieces = [piece for row in lines(found, "records/") for piece in row["files"]]
    assert {(one["file"], one["member"], one["sha256"]) for one in pieces} == expected
    assert (len(expected), found.summary["refused"]) == (1136, {})
