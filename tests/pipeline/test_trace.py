"""`gpt1 trace` against the books themselves, in the store of the golden run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt1.corpus.document import read_books
from gpt1.corpus.split import read_split
from gpt1.data.sequences import SequenceSampler
from gpt1.data.shards import Shards, read_spans
from gpt1.tokenizer.normalize import fix_text, standardize
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from pipeline.planning.last_run import RunArtifacts
from pipeline.planning.planner import Plan
from pipeline.store.record import ArtifactRecord
from tests.e2e.workflow import MINI
from tests.pipeline.inline import TOY, artifact, output, plan_of
from tests.pipeline.inprocess import gpt1, refused

pytestmark = pytest.mark.slow
Monkey = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def made(golden_run: Path) -> Plan:
    return plan_of(MINI, golden_run)


@pytest.fixture(scope="module")
def encoder(made: Plan) -> Tokenizer:
    [merges] = artifact(made, "vocabulary").under("vocab_")
    return Tokenizer(Vocabulary.load(Path(merges.key).parent))


def traced(made: Plan, *words: object) -> list[dict[str, Any]]:
    return list(gpt1("trace", *words, "--json", "--store", made.store.root).json())


def test_every_kind_of_token_is_found_in_its_book(made: Plan, encoder: Tokenizer) -> None:
    spans = read_spans(output(artifact(made, "shard"), "books.parquet"))
    span = min((span for span in spans if span.set == "train"), key=lambda span: span.length)
    files = artifact(made, "clean").under("books/")
    [book] = [book for file in files for book in read_books(Path(file.key)) if book.id == span.book]
    rows = read_split(output(artifact(made, "split"), "split.parquet"))
    text = book.text[: {row.book: row.tail_start for row in rows}[book.id]]
    ids = encoder.encode(text)
    places = np.random.default_rng(1).integers(0, span.length, 8).tolist()
    for index in [0, span.length - 1, *places]:
        [row] = traced(made, f"train/{span.part}.arrow", span.start + index)
        at, token = row["in_book"], row["token"]["id"]
        found = (row["book"], token, at["token"], at["exact"])
        assert found == (span.book, ids[index], index, True)
        piece = encoder.vocabulary.tokens[token].removesuffix("</w>")
        marked = text[at["character"] : at["to"]]
        plain = standardize(fix_text(marked)).lower()
        assert plain == piece or (piece, "\n" in marked) == ("\n", True)
        # What was before the character gives the ids before the token, but for a word cut there.
        before = encoder.encode(text[: at["character"]])
        assert abs(len(before) - index) < 12
        assert before[: index - 12] == ids[: max(0, index - 12)]


def test_file_name_and_set_lead_to_the_same_place(made: Plan) -> None:
    shard = artifact(made, "shard")
    spans = read_spans(output(shard, "books.parquet"))
    first, second, third, *_ = [span for span in spans if span.set == "train"]
    name, offset = f"train/{third.part}.arrow", third.start + 7
    [row] = traced(made, name, offset)
    assert traced(made, "train", first.length + second.length + 7) == [row]
    # The file is in a store, which need not be named.
    elsewhere = ("--json", "--store", "nowhere")
    assert gpt1("trace", output(shard, name), offset, *elsewhere).json() == [row]
    assert (row["book"], row["in_book"]["token"]) == (third.book, 7)
    records = [Path(file.key).read_text() for file in artifact(made, "clean").under("records/")]
    lines = [json.loads(line) for line in "".join(records).splitlines()]
    assert [row["rules"]] == [line["rules"] for line in lines if line["book"] == third.book]


def test_the_sequences_of_a_step(made: Plan, encoder: Tokenizer) -> None:
    shard = artifact(made, "shard")
    files, table = shard.under("train/"), output(shard, "books.parquet")
    shards = Shards.open([Path(file.key) for file in files], table, "train")
    settings = made.entries["pretrain"].cell.settings.model_dump()
    sampler = SequenceSampler(shards, settings["context"], settings["seed"])
    batch = sampler.batch(2, settings["batch_size"])
    [row] = traced(made, "--step", 3, "--sample", 1)
    assert (row["window"], row["sample"]) == (encoder.decode(batch[1].tolist()), 1)
    assert row["token"]["id"] == batch[1][0]


def test_sequences_of_an_excluded_book_are_marked(made: Plan, monkeypatch: Monkey) -> None:
    """The record of a run that excludes a book, of which the third step has a sequence."""
    choose, book = RunArtifacts.choose, traced(made, "--step", 3, "--sample", 1)[0]["book"]

    def excluding(
        self: RunArtifacts, name: str, stages: tuple[str, ...], how: str
    ) -> ArtifactRecord:
        record = choose(self, name, stages, how)
        settings = {**record.settings, "exclude_books": [book]}
        return record.model_copy(update={"settings": settings})

    monkeypatch.setattr(RunArtifacts, "choose", excluding)
    rows = traced(made, "--step", 3)
    assert [row.get("excluded", False) for row in rows] == [row["book"] == book for row in rows]
    printed = gpt1("trace", "--step", 3, "--sample", 1, "--store", made.store.root).out
    assert "loss    none: pretrain.exclude_books has this book" in printed


@pytest.mark.parametrize(("words", "message"), [
    ("train 1000000000", "offset 1000000000 is out of range; expected 0 to"),
    ("nothing.arrow 0", "nothing.arrow: no such file, set, or shard in "),
    ("books.parquet 0", "set, or shard in"), (f"{TOY} 0", "not in a store"),
    ("train", "expected either a shard and"), ("train 1 --step 2", "or --step"),
    ("--step 121", "pretrain, 1 to 120"), ("--step 1 --sample 16", "batch, 0 to 15"),
])  # fmt: skip
def test_what_cannot_be_traced(words: str, message: str, made: Plan) -> None:
    refused(message, "trace", "--store", made.store.root, *words.split())
