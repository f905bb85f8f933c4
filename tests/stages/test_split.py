"""split as a stage: its table, what it says, what is made again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gpt1.corpus.split import SMALL, _draw
from gpt1.corpus.split_table import read_signatures, read_split
from gpt1.errors import UserError
from pipeline.plan import Plan
from tests.pipeline.inline import plan_of, run_inline
from tests.stages.test_text_stages import WORKFLOW, artifact, record

# Invented words are no English.
QUICK = ("ingest.parts=8", "clean.minimum_words=50", "clean.garbled=false", "clean.english=0")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Ten books of 900 invented words, one of them again without a fifth, a copy in capitals, and two that share a story."""
    folder = tmp_path / "library"
    folder.mkdir()
    draw = random.Random(5)
    books = {f"book {number}": [f"word{draw.randrange(2000)}" for _ in range(900)] for number in range(10)}
    books["book 3 abridged"] = books["book 3"][:720]
    books["book 4 loud"] = [word.upper() for word in books["book 4"]]
    books["book 6"] += books["book 7"][:300]
    for name, words in books.items():
        (folder / f"{name}.txt").write_text("\n\n".join(" ".join(words[at : at + 30]) for at in range(0, len(words), 30)))
    return folder


def run(store: Path, library: Path, *assignments: str) -> Plan:
    plan = plan_of(WORKFLOW, store, f"ingest.source={library}", *QUICK, *assignments)
    run_inline(plan)
    return plan


def test_copies_and_near_copies(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = artifact(run(tmp_path / "store", library), "split")
    rows = {row.book: row for row in read_split(split.path("split.parquet"))}
    assert {name: (row.set, row.copy_of) for name, row in rows.items() if row.copy_of} == {
        "book 3 abridged": ("near_duplicate", "book 3"),
        "book 4 loud": ("duplicate", "book 4"),
    }
    near = rows["book 3 abridged"]
    assert (near.share, near.group, near.tail_start) == (1.0, "book 3", None)
    assert near.jaccard == pytest.approx(0.8, abs=0.12)
    assert rows["book 6"].group == rows["book 7"].group == "book 6"
    assert rows["book 6"].set == rows["book 7"].set
    kept = [row for row in rows.values() if row.copy_of is None]
    assert split.summary["train_books"] + split.summary["held_out_books"] == len(kept) == 10
    names = ("duplicate_books", "near_duplicate_books", "tied_books", "not_compared_books")
    assert [split.summary[name] for name in names] == [1, 1, 2, 0]
    assert split.summary["near_duplicate_characters"] == near.length
    said = capsys.readouterr().err
    assert "left out: 1 copy, 1 near copy; books that share text with others of their side: 2" in said
    assert "warning" not in said


def test_a_share_that_is_off_by_more_than_half_is_said(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "store", library, "split.held_out=0.02")
    assert "warning: 1 of 10 books held out, 10.00%; `held_out` asks for 2.00%" in capsys.readouterr().err
    many = tmp_path / "many"
    many.mkdir()
    for number in range(SMALL):
        (many / f"{number}.txt").write_text(" ".join(f"w{number}x{word}" for word in range(60)))
    drawn = {seed: sum(_draw(seed, str(number)) < 0.05 for number in range(SMALL)) for seed in range(200)}
    for seed in (min(drawn, key=drawn.__getitem__), next(seed for seed, books in drawn.items() if books == 10)):
        split = artifact(run(tmp_path / "store", many, "split.held_out=0.05", f"split.seed={seed}"), "split")
        assert split.summary["held_out_books"] == drawn[seed], "each is drawn"
        assert (f"warning: {drawn[seed]} of 200 books" in capsys.readouterr().err) == (drawn[seed] < 5)
    assert min(drawn.values()) < 5


def test_near_copies_reach_no_shard_and_no_vocabulary(library: Path, tmp_path: Path) -> None:
    with_copies = run(tmp_path / "store", library)
    for name in ("book 3 abridged", "book 4 loud"):
        (library / f"{name}.txt").unlink()
    without = run(tmp_path / "store", library)
    for stage in ("vocabulary", "shard"):
        first, second = artifact(with_copies, stage), artifact(without, stage)
        assert first.summary == second.summary
        assert {name: file.sha256 for name, file in first.files.items()} == {n: file.sha256 for n, file in second.files.items()}


def test_the_switch_off_leaves_out_exact_copies_only(library: Path, tmp_path: Path) -> None:
    plan = run(tmp_path / "store", library, "split.near_duplicates=false")
    split = artifact(plan, "split")
    rows = read_split(split.path("split.parquet"))
    assert [row.book for row in rows if row.copy_of] == ["book 4 loud"]
    assert all(row.group == (row.copy_of or row.book) for row in rows)
    signatures = [item for path in plan.store.root.glob("split.parts/*/*/signatures/*.parquet") for item in read_signatures(path)]
    assert len(signatures) == 12
    assert {item.minhash + item.smallest for item in signatures} == {b""}


def test_other_thresholds_sign_no_book_again(library: Path, tmp_path: Path) -> None:
    run(tmp_path / "store", library)
    strict = run(tmp_path / "store", library, "split.near_copy=1", "split.near_tie=0.9", "split.seed=8")
    assert record(strict, "split")["parts"] == {"made": 0, "reused": 8}
    assert artifact(strict, "split").summary["tied_books"] == 0
    more = run(tmp_path / "store", library, "split.near_permutations=64")
    assert record(more, "split")["parts"] == {"made": 8, "reused": 0}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("split.near_copy=0.05", "near_copy"),
        ("split.near_tie=0.8", "near_tie is 0.8 and near_copy 0.6; expected near_tie not above near_copy"),
        ("split.near_permutations=8", "near_permutations"),
    ],
)
def test_bad_settings_are_refused(assignment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(WORKFLOW, tmp_path / "store", assignment)


@pytest.mark.parametrize(("words", "found"), [(300, "found 1 book after cleaning"), (250, "found 2 books that all share text")])
def test_copies_of_one_book_are_too_few(words: int, found: str, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    book = [f"word{number * number}" for number in range(300)]
    (folder / "a.txt").write_text(" ".join(book))
    (folder / "b.txt").write_text(" ".join(book[:words]))
    with pytest.raises(UserError, match=found):
        run(tmp_path / "store", folder)
