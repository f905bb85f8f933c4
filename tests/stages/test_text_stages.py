"""What the stages from books to shards share: the same bytes, parts used again, what is refused."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.execution.worker import StageContext
from pipeline.planning.planner import Plan
from tests.conftest import refuses, write
from tests.stages import runs
from tests.stages.conftest import SHELF
from tests.stages.runs import TEXT_STAGES, WORKFLOW, digests, library, made, parts, run, run_text

Shelf, ALL = tuple[Path, Plan], ("shard", "audit")
Monkey, Capture = pytest.MonkeyPatch, pytest.CaptureFixture[str]


def test_the_same_bytes_in_any_order(shelf: Shelf, tmp_path: Path, monkeypatch: Monkey) -> None:
    """In a folder of another name, written backwards; parts are made in a random order."""
    first = shelf[1]
    in_order = StageContext.map_parts

    def shuffled(context: StageContext, function: Any, wanted: Sequence[Any]) -> Any:
        in_order(context, function, random.Random(7).sample(list(wanted), len(wanted)))
        return in_order(context, function, wanted)

    monkeypatch.setattr(StageContext, "map_parts", shuffled)
    source = f"ingest.source={library(tmp_path / 'moved', backwards=True)}"
    again = run(WORKFLOW, tmp_path / "other store", source, *SHELF, stages=ALL)
    for stage in TEXT_STAGES:
        assert digests(made(again, stage)) == digests(made(first, stage)), stage
        assert made(again, stage).summary == made(first, stage).summary


# The new book is held out: as one more, so the merges stay; or in the place of another, which
# trains now: its part is counted again, and with other merges every part is encoded again.
ONE_MORE = [("0.27", [(1, 8), (2, 7), (1, 7)]), ("0.3", [(3, 6), (9, 0), (2, 6)])]


@pytest.mark.parametrize(("held_out", "expected"), ONE_MORE)
def test_one_added_book_makes_one_part(held_out: str, expected: Any, tmp_path: Path) -> None:
    folder = library(tmp_path / "books")
    settings = (f"ingest.source={folder}", *SHELF, f"split.held_out={held_out}")
    run(WORKFLOW, tmp_path / "store", *settings, stages=ALL)
    text = (folder / "author 1" / "book_1.txt").read_text()
    (folder / "another.txt").write_text(text.replace("sea", "hills"))
    plan = run(WORKFLOW, tmp_path / "store", *settings, stages=ALL)
    assert runs.split_rows(plan)["another"].set == "held_out"
    assert [parts(plan, stage) for stage in TEXT_STAGES] == [(1, 7)] * 3 + expected


def test_held_out_text_shapes_no_vocabulary(shelf: Shelf, tmp_path: Path) -> None:
    assert runs.split_rows(shelf[1])["author 1/book_4"].set == "held_out"
    with (library(tmp_path / "books") / "author 1" / "book_4.txt").open("a") as file:
        file.write(" ꙮ" * 50)
    plan = run_text(tmp_path / "store", tmp_path / "books", *SHELF)
    assert digests(made(plan, "vocabulary")) == digests(made(shelf[1], "vocabulary"))
    unknown = [made(one, "shard").summary["unknown"] for one in (plan, shelf[1])]
    assert unknown[0] >= 50 + unknown[1]


def words(number: int) -> list[str]:
    """A book of thirty paragraphs of thirty invented words."""
    draw = random.Random(number)
    return [" ".join(f"word{draw.randrange(2000)}" for _ in range(30)) for _ in range(30)]


def write_books(folder: Path, texts: dict[str, list[str]]) -> Path:
    return write(folder, {f"{name}.txt": "\n\n".join(text) for name, text in texts.items()})


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Ten books, one of them again without a fifth, one in capitals, and two that share a story."""
    texts = {f"book {number}": words(number) for number in range(10)}
    texts |= {"book 3 abridged": texts["book 3"][:24], "book 4 loud": [" ".join(words(4)).upper()]}
    texts["book 6"] = texts["book 6"] + texts["book 7"][:10]
    return write_books(tmp_path / "copies", texts)


INVENTED = (
    "ingest.num_partitions=8", "clean.minimum_words=50", "clean.garbled=false", "clean.english=0",
)


def test_copies_reach_no_shard_and_no_vocabulary(copies: Path, tmp_path: Path) -> None:
    plan = run_text(tmp_path / "store", copies, *INVENTED)
    split, rows = made(plan, "split"), runs.split_rows(plan)
    near, loud = rows["book 3 abridged"], rows["book 4 loud"]
    assert (near.set, near.copy_of) == ("near_duplicate", "book 3")
    assert (loud.set, loud.copy_of) == ("duplicate", "book 4")
    assert rows["book 6"].group == rows["book 7"].group == "book 6"
    assert rows["book 6"].set == rows["book 7"].set
    names = ("duplicate", "near_duplicate", "tied", "not_compared")
    assert [split.summary[f"{name}_books"] for name in names] == [1, 1, 2, 0]
    for name in ("book 3 abridged", "book 4 loud"):
        (copies / f"{name}.txt").unlink()
    without = run_text(tmp_path / "store", copies, *INVENTED)
    for stage in ("vocabulary", "shard"):
        assert digests(made(plan, stage)) == digests(made(without, stage))
        assert made(plan, stage).summary == made(without, stage).summary


def test_settings_of_the_split(copies: Path, tmp_path: Path, capsys: Capture) -> None:
    """Other thresholds sign no book again."""

    def split(*settings: str) -> Plan:
        return run_text(tmp_path / "store", copies, *INVENTED, *settings, until="split")

    split()
    assert parts(
        split("split.near_duplicate_threshold=1", "split.related_threshold=0.9"), "split"
    ) == (0, 8)
    assert parts(split("split.num_perm=64"), "split") == (8, 0)
    split("split.held_out=0.02")
    assert "warning: 1 of 10 books held out" in capsys.readouterr().err


def test_books_that_cannot_be_split_or_are_all_rejected_are_an_error(tmp_path: Path) -> None:
    cases = [("found 1 book after cleaning", 10, 10), ("found 2 books that all share", 10, 8)]
    for found, *lengths in [*cases, (r"every book was rejected \(too_short 2\)", 1, 1)]:
        texts = {name: words(1)[:length] for name, length in zip("ab", lengths, strict=True)}
        write_books(tmp_path / "few", texts)
        refuses(found, run_text, tmp_path / "store", tmp_path / "few", *INVENTED, until="split")
