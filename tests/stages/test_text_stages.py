"""The stages from books to shards, run for real on a store in a temporary folder, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt1.corpus.parts import read_books, read_rows
from gpt1.corpus.split_table import read_split
from gpt1.data.books_table import read_spans
from gpt1.data.shards import TokenShards
from gpt1.errors import UserError
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from pipeline.plan import Plan
from stages.contract import Artifact
from tests.pipeline.inline import plan_of, run_inline

WORKFLOW = Path(__file__).parent / "text_workflow.yaml"
STAGES = ["ingest", "clean", "split", "vocabulary", "shard"]


def artifact(plan: Plan, stage: str) -> Artifact:
    found = plan.store.artifact(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


def record(plan: Plan, stage: str) -> dict[str, Any]:
    found = plan.store.record(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


def run(store: Path, *assignments: str) -> Plan:
    plan = plan_of(WORKFLOW, store, *assignments)
    run_inline(plan)
    return plan


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return run(tmp_path_factory.mktemp("store"))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Twelve books of 300 words by three authors, a copy with other line breaks, and a leaflet."""
    folder = tmp_path / "library"
    for number in range(12):
        file = folder / f"author {number % 3}" / f"book_{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n\n".join(f"Paragraph {number} {part} of a book with words enough." for part in range(30)))
    original = (folder / "author 0" / "book_0.txt").read_text()
    (folder / "zz.txt").write_text(original.replace(" of ", "\nof "))
    (folder / "leaflet.txt").write_text("too short")
    return folder


def test_ingest_and_clean(embedded: Plan) -> None:
    ingested, cleaned = artifact(embedded, "ingest"), artifact(embedded, "clean")
    assert (ingested.summary["books"], ingested.summary["files"], ingested.summary["authors"]) == (10, 63, 7)
    before = {book.id: book for file in ingested.under("books/") for book in read_books(file.path)}
    after = {book.id: book for file in cleaned.under("books/") for book in read_books(file.path)}
    assert before.keys() == after.keys()
    assert "\r" in before["brontes/Anne_Bronte_Agnes_Grey"].text
    assert "All true histories contain instruction; though, in some" in after["brontes/Anne_Bronte_Agnes_Grey"].text
    assert "Produced by" not in after["russian_lit/Chekhov_The_Lady_with_the_Dog_and_Other_Stories"].text
    assert cleaned.summary["rules"]["credits"] == 1
    records = [json.loads(line) for file in cleaned.under("records/") for line in file.path.read_text().splitlines()]
    assert {row["book"] for row in records} == before.keys()
    assert sum(row["words"] for row in records) == cleaned.summary["words"]


def test_shards_hold_the_ids_of_the_split_texts(embedded: Plan) -> None:
    folder = artifact(embedded, "vocabulary").under("vocab_")[0].path.parent
    encoder = TextEncoder(Vocabulary.load(folder))
    sharded = artifact(embedded, "shard")
    rows = {row.book: row for row in read_split(artifact(embedded, "split").path("split.parquet"))}
    texts = {book.id: book.text for file in artifact(embedded, "clean").under("books/") for book in read_books(file.path)}
    for chosen in ("train", "held_out"):
        paths = [file.path for file in sharded.under(f"{chosen}/")]
        shards = TokenShards.open(paths, sharded.path("books.parquet"), chosen, encoder.vocabulary.sha256)
        assert {span.book for span in shards.spans} == {row.book for row in rows.values() if row.set == chosen}
        assert shards.tokens == sharded.summary[f"{chosen}_tokens"]
        for index, span in enumerate(shards.spans):
            text = texts[span.book][: rows[span.book].tail_start]
            assert shards.book(index).tolist() == encoder.encode(text)
    assert len(list(read_spans(sharded.path("books.parquet")))) == 10
    assert json.loads(sharded.path("shards.json").read_text()) == sharded.summary


def test_tails_are_a_tenth_of_training_books_only(embedded: Plan) -> None:
    rows = read_split(artifact(embedded, "split").path("split.parquet"))
    for row in rows:
        assert (row.tail_start is not None) == (row.set == "train")
        if row.tail_start is not None:
            assert 0.05 < (row.length - row.tail_start) / row.length <= 0.1


def test_the_bigram_beats_the_unigram(embedded: Plan) -> None:
    figures = artifact(embedded, "shard").summary
    assert (
        10 < figures["bigram_perplexity"] < figures["unigram_perplexity"] < artifact(embedded, "vocabulary").summary["vocabulary"]
    )
    assert figures["unknown_rate"] < 1e-3


def test_held_out_text_shapes_no_vocabulary(tmp_path: Path, library: Path) -> None:
    plan = run(tmp_path / "store", f"ingest.source={library}", "clean.minimum_words=50", "vocabulary.merges=40")
    held_out = [row.book for row in read_split(artifact(plan, "split").path("split.parquet")) if row.set == "held_out"]
    tokens = Vocabulary.load(artifact(plan, "vocabulary").under("vocab_")[0].path.parent).tokens
    file = library / f"{held_out[0]}.txt"
    file.write_text(file.read_text() + " ꙮ" * 50)
    again = run(tmp_path / "store", f"ingest.source={library}", "clean.minimum_words=50", "vocabulary.merges=40")
    assert Vocabulary.load(artifact(again, "vocabulary").under("vocab_")[0].path.parent).tokens == tokens
    assert artifact(again, "shard").summary["unknown"] >= 50


def test_two_runs_give_the_same_bytes(embedded: Plan, tmp_path: Path) -> None:
    again = run(tmp_path / "other store")
    for stage in STAGES:
        first, second = artifact(embedded, stage), artifact(again, stage)
        assert {name: file.sha256 for name, file in first.files.items()} == {
            name: file.sha256 for name, file in second.files.items()
        }
        assert first.summary == second.summary


def test_a_folder_of_books_with_a_copy_and_a_leaflet(library: Path, tmp_path: Path) -> None:
    plan = run(tmp_path / "store", f"ingest.source={library}", "ingest.parts=8", "clean.minimum_words=50")
    cleaned = artifact(plan, "clean")
    assert cleaned.summary["rejected"] == {"too_short": 1}
    [rejected] = [row for file in cleaned.under("rejected/") for row in read_rows(file.path)]
    assert (rejected["id"], rejected["rule"]) == ("leaflet", "too_short")
    assert rejected["evidence"] == "2 words; at least 50 wanted"
    assert rejected["text"] == "too short"
    rows = {row.book: row for row in read_split(artifact(plan, "split").path("split.parquet"))}
    assert (rows["zz"].set, rows["zz"].copy_of) == ("duplicate", "author 0/book_0")
    spans = {span.book: span for span in read_spans(artifact(plan, "shard").path("books.parquet"))}
    assert (spans["author 1/book_1"].title, spans["author 1/book_1"].author) == ("book 1", "author 1")
    assert "zz" not in spans


@pytest.mark.parametrize(("share", "counted", "shards"), [(0.27, 1, 2), (0.3, 3, 9)])
def test_one_added_book_redoes_one_part(share: float, counted: int, shards: int, library: Path, tmp_path: Path) -> None:
    settings = [f"ingest.source={library}", "ingest.parts=8", "clean.minimum_words=50", f"split.held_out={share}"]
    run(tmp_path / "store", *settings)
    (library / "another.txt").write_text("\n\n".join(f"Something else, number {part}, with other words." for part in range(20)))
    plan = run(tmp_path / "store", *settings)
    for stage in ("ingest", "clean", "split"):
        assert record(plan, stage)["parts"] == {"made": 1, "reused": 7}
    # The new book is held out. As a fourth: its part is counted anew, to the same counts, and the merges stay. In the place of
    # another, which trains now: that one's part as well, and the merges are learned again.
    assert record(plan, "vocabulary")["parts"] == {"made": counted, "reused": 9 - counted}
    # One part is encoded, and the baselines are measured again; with other merges all of it.
    assert record(plan, "shard")["parts"] == {"made": shards, "reused": 9 - shards}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["split.tail=0.9"], "tail"),
        (["vocabulary.merges=none"], "merges"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(assignments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(WORKFLOW, tmp_path / "store", *assignments)


def test_what_is_no_text_costs_itself_alone_and_no_book_left_is_an_error(library: Path, tmp_path: Path) -> None:
    (library / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    plan = plan_of(WORKFLOW, tmp_path / "store", f"ingest.source={library}", "clean.minimum_words=100000")
    with pytest.raises(UserError, match=r"every book was rejected \(too_short 14\)"):
        run_inline(plan)
    assert artifact(plan, "ingest").summary["refused"] == {"nul": 1}
