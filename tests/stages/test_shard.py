"""The shard stage: what its table says of each book, and a vocabulary that is not the one it was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.corpus.parts import read_books
from gpt1.data.books_table import read_spans
from gpt1.data.shard_file import ids_sha256, open_shard
from gpt1.data.shards import TokenShards
from gpt1.errors import UserError
from gpt1.text.vocabulary import Vocabulary
from pipeline.parts import Outputs
from pipeline.plan import Plan
from stages.contract import Artifact
from stages.shard import encode_part
from tests.pipeline.inline import plan_of, run_inline

WORKFLOW = Path(__file__).parent / "text_workflow.yaml"


def artifact(plan: Plan, stage: str) -> Artifact:
    found = plan.store.artifact(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    plan = plan_of(WORKFLOW, tmp_path_factory.mktemp("store"))
    run_inline(plan)
    return plan


def test_the_table_leads_from_a_book_to_its_ids_and_its_cleaning_record(made: Plan) -> None:
    shard, clean = artifact(made, "shard"), artifact(made, "clean")
    books = {book.id: book for file in clean.under("books/") for book in read_books(file.path)}
    spans = list(read_spans(shard.path("books.parquet")))
    assert len(spans) == len(books) == 10
    for span in spans:
        ids = open_shard(shard.path(f"{span.set}/{span.part}.arrow")).ids[span.start : span.start + span.length]
        assert span.sha256 == ids_sha256(ids)
        assert span.source == books[span.book].source
        assert span.cleaning is not None
        assert f'"{span.book}"' in clean.path(span.cleaning).read_text(encoding="utf-8")


def test_figures(made: Plan) -> None:
    figures = artifact(made, "shard").summary
    tokens = figures["train_tokens"] + figures["held_out_tokens"]
    assert figures["tokens_per_byte"] == pytest.approx(tokens / figures["bytes"])
    assert figures["tokens_per_byte"] * figures["bytes_per_token"] == pytest.approx(1)
    assert figures["unknown_rate"] == pytest.approx(figures["unknown"] / tokens)


def test_shards_of_another_vocabulary_and_of_another_set_are_refused(made: Plan) -> None:
    shard = artifact(made, "shard")
    train, held_out = ([file.path for file in shard.under(f"{chosen}/")] for chosen in ("train", "held_out"))
    with pytest.raises(UserError, match=r"part-\d+\.arrow: made with the vocabulary [0-9a-f]{12}, expected 000000000000"):
        TokenShards.open(train, shard.path("books.parquet"), "train", "0" * 64)
    with pytest.raises(UserError, match=r"part-\d+\.arrow: a shard of the set 'held_out', expected 'train'"):
        TokenShards.open([*train, *held_out], shard.path("books.parquet"), "train")


def test_a_vocabulary_changed_after_its_record_is_refused(tmp_path: Path) -> None:
    other = Vocabulary.from_merges(["a", "b"], [("a", "b")])
    encoder, merges = other.save(tmp_path)
    arguments = {"encoder": str(encoder), "merges": str(merges), "vocabulary": "0" * 64, "name": "part-0000", "rows": []}
    with pytest.raises(UserError, match=rf"encoder_bpe_1\.json: the vocabulary {other.sha256[:12]}, expected 0{{12}}"):
        encode_part(arguments, Outputs(tmp_path / "attempt"))
