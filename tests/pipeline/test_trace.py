"""`gpt1 trace` against the books themselves, on a store made by the real stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt1.corpus.parts import read_books
from gpt1.corpus.split_table import read_split
from gpt1.data.books_table import read_spans
from gpt1.data.shards import TokenShards
from gpt1.data.windows import Windows
from gpt1.errors import UserError
from gpt1.text.encoder import TextEncoder
from gpt1.text.normalise import fix, standardise
from gpt1.text.vocabulary import Vocabulary
from pipeline.commands.trace import trace
from pipeline.last_run import LAST_RUN, remember
from pipeline.plan import Plan
from pipeline.store import Store
from stages.contract import Artifact
from tests.pipeline.inline import plan_of, run_inline

WORKFLOW = Path(__file__).parents[1] / "stages" / "text_workflow.yaml"
BATCH, CONTEXT, SEED = 3, 16, 5


def artifact(plan: Plan, stage: str) -> Artifact:
    found = plan.store.artifact(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Ten books through all text stages, and the record that a pre-training over them leaves."""
    plan = plan_of(WORKFLOW, tmp_path_factory.mktemp("store"))
    run_inline(plan)
    prints = {kind: [plan.entries[kind].fingerprint] for kind in ("shard", "vocabulary")}
    about = {
        "cell": "pretrain", "identity": {"inputs": prints}, "finished": 1.0,
        "settings": {"steps": 4, "batch": BATCH, "context": CONTEXT, "seed": SEED},
    }  # fmt: skip
    assert plan.store.publish("pretrain", "a" * 40, {}, about)
    add_cells(plan.store, {"pretrain": f"pretrain/{'a' * 40}"})
    return plan


def add_cells(store: Store, cells: dict[str, str]) -> None:
    """As if the last run had had these cells too."""
    asked = store.left(store.root, LAST_RUN)
    assert asked is not None
    store.leave(store.root, LAST_RUN, {**asked, "cells": [*asked["cells"], *cells.items()]})


def traced(capsys: pytest.CaptureFixture[str], made: Plan, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    trace(*arguments, **{"store": made.store.root, "as_json": True, **options})
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def texts(made: Plan) -> dict[str, str]:
    ends = {row.book: row.tail_start for row in read_split(artifact(made, "split").path("split.parquet"))}
    books = [book for file in artifact(made, "clean").under("books/") for book in read_books(file.path)]
    return {book.id: book.text[: ends[book.id]] for book in books}


def test_every_kind_of_token_is_found_in_its_book(made: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = Vocabulary.load(artifact(made, "vocabulary").under("vocab_")[0].path.parent)
    encoder, books = TextEncoder(vocabulary), texts(made)
    spans = [span for span in read_spans(artifact(made, "shard").path("books.parquet")) if span.set == "train"]
    span = min(spans, key=lambda span: span.length)
    text, ids = books[span.book], encoder.encode(books[span.book])
    generator = np.random.default_rng(1)
    for index in [0, span.length - 1, *generator.integers(0, span.length, 10).tolist()]:
        [row] = traced(capsys, made, f"train/{span.part}.arrow", span.start + index)
        at = row["in_book"]
        assert (row["book"], row["token"]["id"], at["token"], at["exact"]) == (span.book, ids[index], index, True)
        piece = vocabulary.tokens[ids[index]].removesuffix("</w>")
        marked = text[at["character"] : at["to"]]
        assert standardise(fix(marked)).lower() == piece if piece != "\n" else marked.isspace() and "\n" in marked, (marked, piece)
        # What was before the character gives the ids before the token, but for a word that is cut there.
        before = encoder.encode(text[: at["character"]])
        assert abs(len(before) - index) < 12
        assert before[: index - 12] == ids[: max(0, index - 12)]
        assert f"⟦{text[at['character'] : at['to']]}⟧" in row["text"]


def test_file_name_and_set_lead_to_the_same_place(made: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    shard = artifact(made, "shard")
    spans = [span for span in read_spans(shard.path("books.parquet")) if span.set == "train"]
    third = spans[2]
    name = f"train/{third.part}.arrow"
    [by_name] = traced(capsys, made, name, third.start + 7)
    # The file lies in a store, which need not be named.
    [by_file] = traced(capsys, made, str(shard.path(name)), third.start + 7, store=Path("nowhere"))
    [by_set] = traced(capsys, made, "train", spans[0].length + spans[1].length + 7)
    assert by_name == by_file == by_set
    assert (by_name["book"], by_name["source"], by_name["in_book"]["token"]) == (third.book, third.source, 7)
    lines = [line for file in artifact(made, "clean").under("records/") for line in file.path.read_text().splitlines()]
    assert by_name["rules"] == next(row["rules"] for row in map(json.loads, lines) if row["book"] == third.book)


def test_the_windows_of_a_step(made: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    shard = artifact(made, "shard")
    shards = TokenShards.open([file.path for file in shard.under("train/")], shard.path("books.parquet"), "train")
    encoder = TextEncoder(Vocabulary.load(artifact(made, "vocabulary").under("vocab_")[0].path.parent))
    batch = Windows(shards, CONTEXT, SEED).batch(2, BATCH)
    [row] = traced(capsys, made, step=3, sample=1)
    assert row["window"] == encoder.decode(batch[1].tolist())
    assert row["token"]["id"] == batch[1][0]
    assert row["sample"] == 1


def test_in_words(made: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    trace("held_out", 100, store=made.store.root)
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:6]] == ["book", "source", "read", "token", "place", "rules"]
    assert "⟦" in printed


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("train", 10**9), {}, "offset 1000000000 is outside; expected one from 0 to"),
        (("train", -1), {}, "offset -1 is outside"),
        (("train/part-0000.arrow", 10**9), {}, r"part-0000\.arrow: offset 1000000000 is outside|no such file"),
        (("nothing.arrow", 0), {}, r"nothing\.arrow: no such file, and no set or shard of .*: train, held_out, "),
        (("books.parquet", 0), {}, "no set or shard"),
        ((str(Path(__file__)), 0), {}, "lies in no store"),
        (("train",), {}, "expected a shard with an offset"),
        (("train", 1), {"step": 2}, "not both"),
        ((), {"step": 5}, "has the updates 1 to 4"),
        ((), {"step": 0}, "has the updates 1 to 4"),
        ((), {"step": 1, "sample": 3}, "the windows 0 to 2"),
        (("train", 1), {"store": Path("/nowhere")}, "there is no store /nowhere"),
    ],
)
def test_what_cannot_be_traced(made: Plan, arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trace(*arguments, **{"store": made.store.root, **options})


def test_a_store_without_a_pre_training(tmp_path: Path) -> None:
    remember(plan_of(WORKFLOW, tmp_path))
    with pytest.raises(UserError, match=r"no cell 'pretrain' in .*expected one of none"):
        trace(step=1, store=tmp_path)
    with pytest.raises(UserError, match=r"shard not made in .*make it with"):
        trace("train", 1, store=tmp_path)


def test_shards_are_those_of_the_last_run_or_of_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = plan_of(WORKFLOW, tmp_path)
    run_inline(first)
    rows = traced(capsys, first, "train", 40)
    other = "vocabulary.merges=20"
    run_inline(plan_of(WORKFLOW, tmp_path, other))
    newest = traced(capsys, first, "train", 40)
    assert newest != rows
    assert traced(capsys, first, "train", 40, file=WORKFLOW) == rows
    remember(first)
    trace("train", 40, store=tmp_path)
    assert capsys.readouterr().err == f"gpt1: using {WORKFLOW} (the store's last run)\n"
    assert traced(capsys, first, "train", 40) == rows
    assert traced(capsys, first, "train", 40, file=WORKFLOW, assignments=[other]) == newest
