"""`gpt1 trace`: from a token back to its book, its file, its place in the text, and the rules
that cleaned it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpt1.errors import UserError
from pipeline.cli.lineage import Origin, input_record, record_of_book, record_with, store_of
from pipeline.cli.options import (
    Assignments,
    FileToRead,
    Json,
    Profile,
    StoreOption,
    read_artifacts,
)
from pipeline.planning.last_run import RunArtifacts
from pipeline.store.base import Store

if TYPE_CHECKING:
    from gpt1.data.sequences import SequenceSampler
    from gpt1.data.shards import DocumentSpan

_WIDTH = 200


@dataclass(frozen=True)
class TracedTokens:
    """One id to be traced: the book it is in, its index there, how many ids are asked for (a
    sequence, or one), and whether the sequence is of a book excluded from the loss.
    """

    span: DocumentSpan
    index: int
    length: int = 1
    sample: int | None = None
    excluded: bool = False


def trace(
    shard: Annotated[
        str | None,
        typer.Argument(help="Shard file or name (train/part-0003.arrow), or set (train)."),
    ] = None,
    offset: Annotated[
        int | None, typer.Argument(help="Position of the token in the shard or set, from 0.")
    ] = None,
    step: Annotated[
        int | None,
        typer.Option("--step", help="Trace the batch of this pre-training step, from 1."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", help="Only this sequence of the batch, from 0.")
    ] = None,
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    as_json: Json = False,
) -> None:
    """Trace a token or a training batch back to its source: book, file, offset, text, cleaning
    rules.
    """
    artifacts = partial(read_artifacts, file, profile, assignments, store)
    if step is not None and shard is None:
        rows = _trace_step(artifacts(), step, sample)
    elif step is None and shard is not None and offset is not None:
        rows = [_trace_offset(artifacts, shard, offset)]
    else:
        raise UserError(
            "trace: expected either a shard and an offset, such as `train/part-0003.arrow 1200`, or"
            " --step"
        )
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    print("\n\n".join(_lines(row) for row in rows))


def _trace_offset(artifacts: Callable[[], RunArtifacts], shard: str, offset: int) -> dict[str, Any]:
    from gpt1.data.provenance import book_at, book_of_set
    from gpt1.data.shards import open_shard

    file = Path(shard)
    if file.is_file():
        store = Store.existing(store_of(file))
        record, name = record_with(store, file)
    else:
        found, name = artifacts(), shard
        store, record = found.store, found.choose("shard", ("shard",))
    origin = Origin.of(store, record)
    if spans := _spans(origin, name):
        return _Tracer(origin).row(TracedTokens(*book_of_set(spans, offset, name)))
    if name not in origin.shard.files or not name.endswith(".arrow"):
        known = sorted(
            file.name for file in origin.shard.files.values() if file.name.endswith(".arrow")
        )
        raise UserError(
            f"{shard}: no such file, set, or shard in {store.where}; expected one of: train,"
            f" held_out, {', '.join(known[:6])} …"
        )
    opened = open_shard(origin.store.fetch(origin.shard.file(name)))
    spans = [span for span in _spans(origin, opened.set) if span.part == opened.part]
    return _Tracer(origin).row(TracedTokens(*book_at(spans, offset, name)))


def _spans(origin: Origin, chosen: str) -> list[DocumentSpan]:
    from gpt1.data.shards import read_spans

    file = origin.store.fetch(origin.shard.file("books.parquet"))
    return [span for span in read_spans(file) if span.set == chosen]


def _trace_step(found: RunArtifacts, step: int, sample: int | None) -> list[dict[str, Any]]:
    record = found.choose("pretrain", ("pretrain",))
    settings: Mapping[str, Any] = record.settings
    if not 1 <= step <= settings["max_steps"]:
        raise UserError(
            f"--step {step}: expected a step of {record.cell}, 1 to {settings['max_steps']}"
        )
    batch = int(settings["batch_size"])
    if sample is not None and not 0 <= sample < batch:
        raise UserError(
            f"--sample {sample}: expected a sequence of {record.cell}'s batch, 0 to {batch - 1}"
        )
    origin = Origin.of(found.store, input_record(found.store, record, "shard"))
    sampler, tracer = _sampler(origin, settings), _Tracer(origin)
    kept, rows = sampler.kept(step - 1, batch), []
    for number in range(batch) if sample is None else [sample]:
        book, start = sampler.locate((step - 1) * batch + number)
        tokens = TracedTokens(
            sampler.shards.spans[book], start, sampler.length + 1, number, not kept[number]
        )
        rows.append(tracer.row(tokens))
    return rows


def _sampler(origin: Origin, settings: Mapping[str, Any]) -> SequenceSampler:
    """The sequences of a pre-training, as training makes them."""
    from gpt1.data.sequences import SequenceSampler
    from gpt1.data.shards import TokenShards

    fetch = origin.store.fetch
    paths = [fetch(file) for file in origin.shard.under("train/")]
    shards = TokenShards.open(
        paths, fetch(origin.shard.file("books.parquet")), "train",
        origin.vocabulary.summary["sha256"],
    )
    excluded = settings.get("exclude_books", ())
    return SequenceSampler(shards, int(settings["context"]), int(settings["seed"]), excluded)


class _Tracer:
    """Traces ids of one run of the shard stage; books and encoder are read once."""

    def __init__(self, origin: Origin) -> None:
        from gpt1.corpus.split_table import read_split
        from gpt1.text.encoder import TextEncoder
        from gpt1.text.vocabulary import Vocabulary

        self._origin, self._store, fetch = origin, origin.store, origin.store.fetch
        self._encoder = TextEncoder(
            Vocabulary.read(
                fetch(origin.vocabulary.under("encoder_bpe_")[0]),
                fetch(origin.vocabulary.under("vocab_")[0]),
            )
        )
        split = fetch(origin.split.file("split.parquet"))
        self._ends = {row.book: row.tail_start for row in read_split(split)}

    def row(self, found: TracedTokens) -> dict[str, Any]:
        """All there is to say of one id or sequence."""
        from gpt1.data.provenance import locate
        from gpt1.data.shards import open_shard

        span = found.span
        name = f"{span.set}/{span.part}.arrow"
        ids = (
            open_shard(self._store.fetch(self._origin.shard.file(name)))
            .ids[span.start : span.start + span.length]
            .tolist()
        )
        text, tokens = self._text(span), self._encoder.vocabulary.tokens
        place = locate(text, ids, found.index, self._encoder.encode, tokens)
        taken = ids[found.index : found.index + found.length]
        cleaned = record_of_book(self._store, self._origin.clean, span.part, span.book)
        return {
            **({"sample": found.sample} if found.sample is not None else {}),
            **({"excluded": True} if found.excluded else {}), "book": span.book,
            "title": span.title, "author": span.author, "source": span.source, "set": span.set,
            "shard": name, "offset": span.start + found.index,
            "token": {"id": ids[found.index], "text": tokens[ids[found.index]]},
            "in_book": {"token": found.index, "of": span.length, "character": place.start,
                "to": place.end, "exact": place.exact},
            "text": place.around(text, _WIDTH),
            **({"window": self._encoder.decode(taken)} if found.length > 1 else {}),
            "ingest": record_of_book(self._store, self._origin.ingest, span.part, span.book),
            "rules": (cleaned or {}).get("rules"),
        }  # fmt: skip

    def _text(self, span: DocumentSpan) -> str:
        """The text the ids were made from: the clean book up to its unseen tail."""
        from gpt1.corpus.parts import read_books

        file = self._store.fetch(self._origin.clean.file(f"books/{span.part}.parquet"))
        for book in read_books(file):
            if book.id == span.book:
                return book.text[: self._ends[book.id]]
        raise UserError(
            f"{span.book}: not in books/{span.part}.parquet of the clean stage; run `gpt1 run clean"
            " --force`"
        )


def _read(record: Mapping[str, Any]) -> str:
    """How ingest read the book's file, or the first of several."""
    first, *others = record["files"]
    more = f", and {len(others)} more files" if others else ""
    return (
        f"as {first['encoding']} ({first['how']}), {first['bytes']:,} bytes, sha256"
        f" {first['sha256'][:12]}{more}"
    )


def _lines(row: Mapping[str, Any]) -> str:
    at = row["in_book"]
    rules = row["rules"]
    token, rules = row["token"], row["rules"]
    place = (
        f"token {at['token']:,} of {at['of']:,} in the book; characters {at['character']:,} to"
        f" {at['to']:,} of its cleaned text"
    )
    struck = (
        "not recorded"
        if rules is None
        else ", ".join(f"{name} {number:,}" for name, number in rules.items()) or "none"
    )
    said: Sequence[tuple[str, Any]] = [
        ("sample", row.get("sample")),
        ("loss", "none: pretrain.exclude_books has this book" if row.get("excluded") else None),
        (
            "book",
            (
                f"{row['book']} ({row['title']}{', ' + row['author'] if row['author'] else ''}),"
                f" set {row['set']}"
            ),
        ),
        ("source", row["source"]),
        ("read", _read(row["ingest"]) if row["ingest"] else None),
        ("token", f"{token['text']!r} (id {token['id']}) at {row['offset']:,} of {row['shard']}"),
        (
            "place",
            place
            + (
                ""
                if at["exact"]
                else " (approximate: ftfy fixes the beginning of the text differently)"
            ),
        ),
        ("rules", struck),
        ("text", row["text"]),
        ("window", row.get("window")),
    ]
    return "\n".join(f"{name:<8}{value}" for name, value in said if value is not None)
