"""The vocabulary stage: a tree of counts, published vocabularies, progress."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gpt1.corpus.parts import read_books
from gpt1.corpus.split_table import read_split
from gpt1.errors import UserError
from gpt1.text.learn import learn_merges
from gpt1.text.vocabulary import Vocabulary
from gpt1.text.words import count_words
from pipeline.plan import Plan
from stages.contract import Artifact
from tests.conftest import ROOT
from tests.pipeline.inline import plan_of, run_inline

WORKFLOW = Path(__file__).parent / "text_workflow.yaml"
COMMIT = "bd8f1b4d0a1e8e9c9d6f0a7b6c5d4e3f2a1b0c9d"


# Invented words are no English.
SMALL = ("ingest.parts=20", "clean.minimum_words=50", "clean.garbled=false", "clean.english=0", "vocabulary.merges=60")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Sixty short books by six authors."""
    folder = tmp_path / "library"
    for number in range(60):
        file = folder / f"author {number % 6}" / f"book_{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n\n".join(f"Paragraph {number} {part} of a book with words enough." for part in range(8)))
    return folder


def run(store: Path, library: Path, *assignments: str) -> Plan:
    plan = plan_of(WORKFLOW, store, f"ingest.source={library}", *SMALL, *assignments)
    run_inline(plan)
    return plan


def artifact(plan: Plan, stage: str) -> Artifact:
    found = plan.store.artifact(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


def vocabulary_of(plan: Plan) -> Vocabulary:
    return Vocabulary.load(artifact(plan, "vocabulary").under("vocab_")[0].path.parent)


def parts_made(plan: Plan) -> dict[str, int]:
    record = plan.store.record("vocabulary", plan.entries["vocabulary"].fingerprint)
    assert record is not None
    return dict(record["parts"])


def training_texts(plan: Plan) -> list[str]:
    ends = {row.book: row.tail_start for row in read_split(artifact(plan, "split").path("split.parquet")) if row.set == "train"}
    books = [book for file in artifact(plan, "clean").under("books/") for book in read_books(file.path)]
    return [book.text[: ends[book.id]] for book in books if book.id in ends]


def test_the_tree_counts_what_one_count_counts(library: Path, tmp_path: Path) -> None:
    plan = run(tmp_path / "store", library)
    counts = count_words("\n".join(training_texts(plan)))
    assert vocabulary_of(plan).merges == learn_merges(counts, 60)
    assert artifact(plan, "vocabulary").summary["words"] == counts.total()
    # Twenty parts, three groups of at most eight, the merges.
    assert parts_made(plan) == {"made": 24, "reused": 0}


def test_one_added_book_recounts_one_part_and_merges_one_path(library: Path, tmp_path: Path) -> None:
    plan = run(tmp_path / "store", library)
    rows = {row.book: row for row in read_split(artifact(plan, "split").path("split.parquet"))}
    # One that will train, by the hash that decides it.
    names = [f"added {number}" for number in range(30)]
    for name in names:
        (library / f"{name}.txt").write_text(f"Quite other {name} unseen vocables here, zyzzyva upon zyzzyva. " * 12)
        again = run(tmp_path / "store", library)
        row = {row.book: row for row in read_split(artifact(again, "split").path("split.parquet"))}[name]
        if row.set == "train":
            break
        (library / f"{name}.txt").unlink()
    assert name not in rows
    assert parts_made(again) == {"made": 3, "reused": 21}


def test_progress_is_shown_while_learning(library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, file in enumerate(sorted(library.rglob("*.txt"))):
        words = [f"{chr(97 + (number * 7 + step) % 26)}{chr(97 + step % 26)}{number * step:x}qz" for step in range(300)]
        file.write_text(" ".join(words))
    run(tmp_path / "store", library, "vocabulary.merges=1500", "vocabulary.minimum_frequency=1")
    assert "1500 merges" in "".join(capsys.readouterr()).replace(",", "")


def test_a_published_vocabulary_is_taken_as_it_is(library: Path, shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "published"
    shutil.copytree(shared / "gpt1_bpe", source)
    plan = run(tmp_path / "store", library, f"vocabulary.source={source}")
    taken, published = vocabulary_of(plan), Vocabulary.load(shared / "gpt1_bpe")
    assert (taken.size, taken.sha256) == (40_478, published.sha256)
    assert taken.ids["the</w>"] == 481
    assert parts_made(plan) == {"made": 0, "reused": 0}
    assert artifact(plan, "shard").summary["unknown"] == 0
    # The same files elsewhere, under the hub's names, are the same vocabulary.
    moved = tmp_path / "moved"
    moved.mkdir()
    (source / "encoder_bpe_40000.json").rename(moved / "vocab.json")
    (source / "vocab_40000.bpe").rename(moved / "merges.txt")
    assignments = [f"ingest.source={library}", *SMALL]
    assert plan_of(WORKFLOW, tmp_path / "store", *assignments, f"vocabulary.source={moved}").to_run == []
    learned = plan_of(WORKFLOW, tmp_path / "store", *assignments).entries["vocabulary"]
    assert [reason for reason in learned.reasons if "removed" in reason] == ["file encoder: removed", "file merges: removed"]


def test_a_damaged_published_vocabulary_stops_the_run(library: Path, shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "published"
    shutil.copytree(shared / "gpt1_bpe", source)
    lines = (source / "vocab_40000.bpe").read_text().split("\n")
    (source / "vocab_40000.bpe").write_text("\n".join(lines[:100] + lines[101:]))
    with pytest.raises(UserError, match=r"vocab_40000\.bpe, line \d+: .*a line is missing"):
        run(tmp_path / "store", library, f"vocabulary.source={source}")


def test_a_missing_folder_is_refused_before_anything_starts(library: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run(tmp_path / "store", library, "vocabulary.source=/nowhere")


def _offline(code: Sequence[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """Run Python where the hub is what lies in `cache`: huggingface_hub reads these variables when it is imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *code], env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_from_the_hub(shared: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "models--openai-community--openai-gpt" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    shutil.copyfile(shared / "gpt1_bpe" / "encoder_bpe_40000.json", snapshot / "vocab.json")
    shutil.copyfile(shared / "gpt1_bpe" / "vocab_40000.bpe", snapshot / "merges.txt")
    code = (
        "import json; from stages.vocabulary import STAGE, VocabularySettings; from gpt1.text.vocabulary import Vocabulary\n"
        "files = STAGE.outside(VocabularySettings(source='hf://openai-community/openai-gpt'))\n"
        "print(json.dumps([[f.name for f in files], Vocabulary.read(*(f.path for f in files)).size]))"
    )
    done = _offline(["-c", code], tmp_path / "cache")
    assert json.loads(done.stdout) == [["encoder", "merges"], 40_478], done.stderr
    missing = ["-m", "pipeline.cli", "plan", "-f", str(WORKFLOW), "--store", str(tmp_path / "store")]
    done = _offline([*missing, "--set", "vocabulary.source=hf://openai-community/openai-gpt"], tmp_path / "empty")
    assert done.returncode == 2
    assert "hf://openai-community/openai-gpt: its vocab.json and merges.txt cannot be had" in done.stderr
