"""The ingest stage: books in every form, hostile files, parts used again, several sources."""

import csv
from hashlib import sha256
from pathlib import Path

import pytest

from gpt1.errors import UserError
from pipeline.planning.planner import Plan
from stages.contract import Artifact
from tests.conftest import refuses, write
from tests.gpt1.corpus import forms_of_books as forms
from tests.gpt1.corpus.forms_of_books import BOOKS, packed, parquet_of, tar_of, zip_of
from tests.pipeline.inline import output, plan_of, run_inline
from tests.stages.runs import books, digests, lines, made, parts

BOOK = "author {}/book_{}.txt"
LIBRARY = {BOOK.format(n % 3, n): f"Book {n} has words.\n".encode() * 20 for n in range(24)}
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
    "way.tar": (tar_of({OUTSIDE: b"words", "in.txt": b"inside"}), OUTSIDE, "unsafe_path"),
    "long.txt": (b"x" * 5000, None, "long_line"),
    "nul.txt": (b"a\0b", None, "nul"), "empty.txt": (b"", None, "empty"),
    "train-00002-of-00003.parquet": (parquet_of([{"words": "x"}]), None, "no_text_column"),
    "broken.epub": (b"PK", None, "damaged"),
    "twice.tar": (tar_of({"a.txt": b"1", "a.md": b"2"}), "a.txt", "same_name"),
}  # fmt: skip
"""Files, with the member and the rule of their records."""


def plan_ingest(tmp_path: Path, *assignments: str, store: str = "store") -> Plan:
    (tmp_path / "workflow.yaml").write_text("stages: {ingest: {with: {num_partitions: 8}}}")
    settings = [f"ingest.{one}" for one in assignments]
    return plan_of(tmp_path / "workflow.yaml", tmp_path / store, *settings)


def ingest(tmp_path: Path, *assignments: str, store: str = "store") -> tuple[Artifact, Plan]:
    plan = plan_ingest(tmp_path, *assignments, store=store)
    run_inline(plan)
    return made(plan, "ingest"), plan


def texts(artifact: Artifact) -> dict[str, str]:
    return {name: book.text for name, book in books(artifact).items()}


def test_a_mixture_of_all_forms_gives_each_book_once(tmp_path: Path) -> None:
    source = f"source={write(tmp_path / 'corpus', MIXTURE)}"
    found, _ = ingest(tmp_path, source)
    prefixes = "loose packed deep/er/books.tar.bz2 books.zip other.zip books.parquet books.jsonl.gz"
    expected = {f"{one}/{name}": text for one in prefixes.split() for name, text in BOOKS.items()}
    assert texts(found) == expected | {"x": EMMA.strip()}
    counts = [found.summary[name] for name in ("books", "authors", "refused", "encodings")]
    assert counts == [22, 3, {}, {"utf-8": 21, "epub": 1}]
    assert output(found, "left_out.txt").read_text() == "books.csv\n"
    records = {row["book"]: row for row in lines(found, "records/")}
    assert records.keys() == texts(found).keys()
    [piece] = records["books.zip/Homer/Iliad"]["files"]
    expected = ["books.zip", "Homer/Iliad.txt", sha256(FILES["Homer/Iliad.txt"]).hexdigest()]
    assert [piece[name] for name in ("file", "member", "sha256")] == expected
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
    assert len([*tmp_path.iterdir()]) == 3  # nothing out of the corpus and the store
    assert digests(ingest(tmp_path, *settings, store="again")[0]) == digests(found)
    for file in (corpus / "loop", *corpus.glob("*.parquet")):
        file.unlink()
    with pytest.raises(UserError, match=r"\.(?:gz|txt|bz2|tar|epub).*; expected .* \([a-z_8]+\)$"):
        ingest(tmp_path, *settings, "on_error=stop", store="strict")


def test_nothing_readable_at_all_is_an_error_with_the_files(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", {"a.txt": b"", "b.zip": b"no zip"})
    with pytest.raises(UserError, match=r"no book could be read; .*b\.zip: .*a\.txt: it is empty"):
        ingest(tmp_path, f"source={corpus}")


def test_a_list_of_sources_and_sentences_say_what_is_lost(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"this is sentence {n} ."} for n in range(450)]
    write(tmp_path, {"s/x.parquet": parquet_of(rows, 100), "two.zip": zip_of({"b.txt": b"second"})})
    source = f"source=[{tmp_path / 's'}, {tmp_path / 'two.zip'}]"
    found, _ = ingest(tmp_path, source, "sentences_per_document=200")
    assert (found.summary["books"], found.summary["stretches_of_sentences"]) == (4, 3)
    assert "book boundaries" in found.summary["lost"]
    assert sum(len(text.split("\n")) for text in texts(found).values()) == 451


def test_one_more_book_makes_one_part_of_books(tmp_path: Path) -> None:
    archives = {"a.tar.gz": packed(tar_of(LIBRARY), ".gz"), "b.zip": zip_of(LIBRARY)}
    corpus = write(tmp_path / "corpus", {**LIBRARY, **archives})
    changes = [{}, {"one.txt": b"more"}, {"b.zip": zip_of({**LIBRARY, "new.txt": b"words"})}]
    for change, expected in zip(changes, [(10, 0), (1, 9), (2, 8)], strict=True):
        write(corpus, change)
        found, plan = ingest(tmp_path, f"source={corpus}")
        assert parts(plan, "ingest") == expected
    assert len(texts(found)) == 3 * 24 + 2


def test_a_file_that_changes_after_the_plan_is_named(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", LIBRARY)
    plan = plan_ingest(tmp_path, f"source={corpus}")
    write(corpus, {"author 0/book_0.txt": b"changed since the plan"})
    refuses(r"author 0/book_0\.txt: the file changed", run_inline, plan)


@pytest.mark.slow
def test_every_byte_of_the_shared_books_is_read(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "books"
    found, _ = ingest(tmp_path, f"source={folder}")
    table = csv.DictReader((folder / "books.csv").read_text().splitlines())
    expected = {(f"{row['shard']}.tar.bz2", row["file"], row["sha256"]) for row in table}
    pieces = [piece for row in lines(found, "records/") for piece in row["files"]]
    assert {(one["file"], one["member"], one["sha256"]) for one in pieces} == expected
    assert (len(expected), found.summary["refused"]) == (1136, {})
