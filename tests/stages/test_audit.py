"""The audit: its table adds up from what came in to what is trained on, its figures are those of the texts, its page is whole."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gpt1.corpus.audit_counts import Counts, count
from gpt1.corpus.book import Book
from gpt1.corpus.parts import read_books
from gpt1.corpus.size import Size
from gpt1.corpus.split_table import read_split
from pipeline.plan import Plan
from tests.stages.corpus_runs import artifact, library, lines, parts, run


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("audit")
    return run(folder / "store", f"ingest.source={library(folder / 'books')}", "ingest.parts=8", "clean.tables=false")


def document(plan: Plan) -> dict[str, Any]:
    return json.loads(artifact(plan, "audit").path("audit.json").read_text())


def steps(plan: Plan) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in document(plan)["steps"]}


def test_each_step_begins_where_the_last_ended(audited: Plan) -> None:
    rows = document(audited)["steps"]
    for before, row in pairwise(rows):
        for measure in ("words", "sentences", "bytes"):
            assert before[measure] + row[f"{measure}_change"] == row[measure], row["name"]
    assert (rows[0]["name"], rows[0]["books"], rows[-1]["name"]) == ("ingest", 16, "train")
    ingested = artifact(audited, "ingest").summary
    assert (rows[0]["words"], rows[0]["bytes"]) == (ingested["words"], ingested["bytes"])


def test_rules_rejections_copies_and_held_out_books_are_steps(audited: Plan) -> None:
    found = steps(audited)
    assert (found["credits"]["kind"], found["credits"]["touched"], found["credits"]["strikes"]) == ("rule", 13, 13)
    assert found["credits"]["words_change"] == -13 * 3
    assert found["tables"]["kind"] == "off"
    assert {name: row["touched"] for name, row in found.items() if row["kind"] == "reject"} == {
        "too_short": 1, "garbled": 1, "not_english": 1,
    }  # fmt: skip
    assert (found["duplicate"]["kind"], found["duplicate"]["touched"], found["duplicate"]["books"]) == ("copy", 1, 12)
    assert found["held_out"]["kind"] == "aside"
    whole = document(audited)
    assert [(row["set"], row["copy_of"]) for row in whole["copies"]] == [("duplicate", "book_00")]
    assert [row["rule"] for row in whole["rejected"]] == ["garbled", "not_english", "too_short"]


def test_what_is_trained_on_is_counted_on_the_texts(audited: Plan) -> None:
    rows = {row.book: row for row in read_split(artifact(audited, "split").path("split.parquet"))}
    books = [book for file in artifact(audited, "clean").under("books/") for book in read_books(file.path)]
    texts = [book.text[: rows[book.id].tail_start] for book in books if rows[book.id].set == "train"]
    found, last = document(audited), steps(audited)["train"]
    total = sum((Size.of(text) for text in texts), Size())
    assert (last["books"], last["words"], last["sentences"], last["bytes"]) == (
        len(texts), total.words, total.sentences, total.bytes,
    )  # fmt: skip
    assert found["sentences"]["number"] == total.sentences == sum(row["sentences"] for row in found["sentences"]["distribution"])
    assert found["sentences"]["mean"] == pytest.approx(total.words / total.sentences, abs=0.5)
    words = Counter(word.strip('",.') for text in texts for word in text.lower().split())
    assert {row["word"]: row["count"] for row in found["words"][:20]}.items() <= words.items()
    assert found["words"][0]["count"] == max(words.values())
    assert found["published"]["words"] == 984_846_357


def test_pages_show_the_table_the_picture_and_the_samples(audited: Plan) -> None:
    made = artifact(audited, "audit")
    page = made.path("audit.html").read_text()
    assert "<svg" in page
    assert "Produced by Somebody" in page
    assert "984,846,357" in page
    for external_files in ("http://", "https://", 'src="', "<script"):
        assert external_files not in page.replace("http://www.w3.org/", ""), external_files
    text = made.path("audit.md").read_text()
    assert "| not\\_english |" in text
    assert "too\\_short" in text or "too_short" in text
    samples = document(audited)["samples"]
    assert Counter(row["rule"] for row in samples)["credits"] == 3
    assert len({row["book"] for row in samples if row["rule"] == "credits"}) == 3


def test_one_added_book_recounts_one_part(audited: Plan, tmp_path: Path) -> None:
    folder = library(tmp_path / "books")
    settings = [f"ingest.source={folder}", "ingest.parts=8", "clean.tables=false"]
    first = run(tmp_path / "store", *settings)
    assert artifact(first, "audit").digest == artifact(audited, "audit").digest
    settings.append("split.held_out=0.27")  # the new book is held out as one more, not in the place of another
    run(tmp_path / "store", *settings)
    (folder / "another.txt").write_text((folder / "book_01.txt").read_text().replace("sea", "hills"))
    assert parts(run(tmp_path / "store", *settings), "audit") == {"made": 1, "reused": 7}


def test_a_set_of_another_name_is_a_removal_of_that_name() -> None:
    from gpt1.corpus.audit import ledger

    records = [
        {"book": name, "rejected": None, "rules": {}, "changes": {}, "evidence": None,
         **{f"{measure}{suffix}": 10 for measure in ("words", "sentences", "bytes") for suffix in ("", "_before")}}
        for name in "abc"
    ]  # fmt: skip
    split = {"a": {"set": "train", "tail_start": 5}, "b": {"set": "near_duplicate"}, "c": {"set": "held_out"}}
    rows = {step.name: step for step in ledger(records, split, Counts(1, Size(4, 4, 4)), {})}
    assert (rows["near_duplicate"].kind, rows["near_duplicate"].books, rows["near_duplicate"].after) == (
        "copy",
        2,
        Size(20, 20, 20),
    )
    assert rows["tails"].change == Size(-6, -6, -6)
    assert rows["train"].books == 1


def test_a_text_that_is_not_the_recorded_one_stops_the_audit() -> None:
    book = Book("a", "a", None, "a", "other text")
    with pytest.raises(RuntimeError, match="a: 10 bytes; the cleaner recorded 9"):
        count([book], {"a": {"set": "train"}}, {"a": 9})


def test_records_and_samples_of_the_embedded_corpus(tmp_path: Path) -> None:
    plan = run(tmp_path / "store")
    assert len(lines(artifact(plan, "clean"), "records")) == artifact(plan, "ingest").summary["books"]
    assert steps(plan)["train"]["words"] == artifact(plan, "audit").summary["words"]
