"""The clean stage, run for real: what it keeps, rejects, records and shows; one added book costs one part."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.corpus.parts import read_books, read_rows
from gpt1.corpus.rules.registry import BOOK_RULES, TEXT_RULES
from gpt1.errors import UserError
from stages.clean import SAMPLES, STAGE
from stages.contract import Artifact
from tests.pipeline.inline import plan_of
from tests.stages.corpus_runs import WORKFLOW, artifact, library, lines, parts, run


def clean_of(folder: Path, store: Path, *assignments: str) -> Artifact:
    return artifact(run(store, f"ingest.source={folder}", "clean.tables=false", *assignments), "clean")


def test_what_is_rejected_is_kept_whole_with_rule_and_evidence(tmp_path: Path) -> None:
    folder = library(tmp_path / "books")
    made = clean_of(folder, tmp_path / "store")
    assert made.summary["rejected"] == {"garbled": 1, "not_english": 1, "too_short": 1}
    assert made.summary["books"] == 13
    rows = {row["id"]: row for file in made.under("rejected/") for row in read_rows(file.path)}
    assert {name: row["rule"] for name, row in rows.items()} == {
        "leaflet": "too_short", "french": "not_english", "figures": "garbled",
    }  # fmt: skip
    assert rows["leaflet"]["evidence"] == "2 words; at least 200 wanted"
    assert "French" in rows["french"]["evidence"]
    assert rows["figures"]["text"] == (folder / "figures.txt").read_text()


def test_records_name_the_rules_that_touched_each_book(tmp_path: Path) -> None:
    made = clean_of(library(tmp_path / "books"), tmp_path / "store")
    records = {row["book"]: row for row in lines(made, "records")}
    assert len(records) == 16
    assert records["book_03"]["rules"] == {"credits": 1, "emphasis": 1, "join_lines": 0}
    assert records["copy"]["rules"] == {"ftfy": 1, "credits": 1, "join_lines": 0}
    for row in records.values():
        for measure in ("words", "sentences", "bytes"):
            assert row[f"{measure}_before"] + sum(change[measure] for change in row["changes"].values()) == row[measure]
    kept = [row for row in records.values() if not row["rejected"]]
    assert sum(row["words"] for row in kept) == made.summary["words"]
    assert sum(row["words_before"] for row in records.values()) == made.summary["words_in"]
    texts = {book.id: book.text for file in made.under("books/") for book in read_books(file.path)}
    assert {row["book"]: row["bytes"] for row in kept} == {name: len(text.encode()) for name, text in texts.items()}


def test_samples_are_few_short_and_of_several_books(tmp_path: Path) -> None:
    made = clean_of(library(tmp_path / "books"), tmp_path / "store", "ingest.parts=2")
    samples = lines(made, "samples")
    of_credits = [row for row in samples if row["rule"] == "credits"]
    assert 2 <= len(of_credits) <= 2 * SAMPLES
    assert len({row["book"] for row in of_credits}) == len(of_credits)
    assert all("Produced by Somebody" in row["before"] and "Produced" not in row["after"] for row in of_credits)
    assert all(len(row["before"]) < 300 and len(row["after"]) < 300 for row in samples)


def test_all_switches_off_keep_every_text_as_it_came(tmp_path: Path) -> None:
    folder = library(tmp_path / "books")
    off = [f"clean.{rule.name}=false" for rule in TEXT_RULES]
    off += [f"clean.{rule.setting}={'false' if rule.default is True else 0}" for rule in BOOK_RULES]
    made = clean_of(folder, tmp_path / "store", *off)
    assert (made.summary["rules"], made.summary["rejected"], made.summary["books"]) == ({}, {}, 16)
    for file in made.under("books/"):
        for book in read_books(file.path):
            assert book.text == (folder / f"{book.id}.txt").read_text()


def test_one_added_book_redoes_one_part_and_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    folder = library(tmp_path / "books")
    plan = run(tmp_path / "store", f"ingest.source={folder}", "ingest.parts=8")
    other = run(tmp_path / "other", f"ingest.source={folder}", "ingest.parts=8")
    assert artifact(plan, "clean").digest == artifact(other, "clean").digest
    (folder / "another.txt").write_text((folder / "book_01.txt").read_text().replace("sea", "hills"))
    plan = run(tmp_path / "store", f"ingest.source={folder}", "ingest.parts=8")
    assert parts(plan, "clean") == {"made": 1, "reused": 7}


def test_every_book_rejected_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"every book was rejected \(too_short 16\)"):
        run(tmp_path / "store", f"ingest.source={library(tmp_path / 'books')}", "clean.minimum_words=100000")


@pytest.mark.parametrize("wrong", ["clean.english=2", "clean.minimum_words=-1", "clean.emphasis=perhaps", "clean.boilerplate=true"])
def test_wrong_switches_are_refused_before_anything_starts(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=wrong.partition("=")[0].partition(".")[2]):
        plan_of(WORKFLOW, tmp_path / "store", wrong)


def test_the_settings_are_the_registrys_switches() -> None:
    wanted = {rule.name for rule in TEXT_RULES} | {rule.setting for rule in BOOK_RULES}
    assert set(STAGE.settings_model.model_fields) == wanted
