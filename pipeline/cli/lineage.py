"""`gpt1 trace`: from a token back to its book, its file, its place in the text, and the rules
that cleaned it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from gpt1.terminal import show
from pipeline.cli.options import Json, ReadOptions
from pipeline.cli.output import print_json
from pipeline.planning.last_run import RunArtifacts
from pipeline.store.base import Store
from pipeline.store.record import PARTS, ArtifactRecord
from pipeline.store.snapshot import StoreSnapshot
from stages.contract import Artifact

if TYPE_CHECKING:
    from gpt1.data.sequences import SequenceSampler
    from gpt1.data.shards import DocumentSpan

_SHARD_PARTS = f"shard{PARTS}"
_WIDTH = 200  # characters of text around a token


def trace(
    shard: str | None = None, offset: int | None = None, /, step: int | None = None,
    sample: int | None = None, *, options: ReadOptions, as_json: Json = False,
) -> None:
    """Trace a token or a training batch back to its source: book, file, offset, text, cleaning
    rules.

    Args:
        shard: Shard file or name (train/part-0003.arrow), or set (train).
        offset: Position of the token in the shard or set, from 0.
        step: Trace the batch of this pre-training step, from 1.
        sample: Only this sequence of the batch, from 0.
    """
    if step is not None and shard is None:
        rows = _trace_step(options.artifacts(), step, sample)
    elif step is None and shard is not None and offset is not None:
        rows = [_trace_offset(options, shard, offset)]
    else:
        such = "a shard and an offset, such as `train/part-0003.arrow 1200`"
        raise UserError(f"trace: expected either {such}, or --step")
    print_json(rows) if as_json else show("\n\n".join(map(_format, rows)))


def _trace_offset(options: ReadOptions, shard: str, offset: int) -> dict[str, Any]:
    from gpt1.data.provenance import book_at

    file = Path(shard)
    if file.is_file():
        store, record, name = _stored_shard(file.resolve())
    else:
        artifacts, name = options.artifacts(), shard
        store, record = artifacts.store, artifacts.choose("shard", ("shard",))
    tracer = _Tracer(store, record)
    spans = [span for span in tracer.spans if name in (span.set, _shard_of(span))]
    known = [file for file in tracer.shard.files if file.endswith(".arrow")]
    if not spans and name not in known:
        expected = f"expected one of: train, held_out, {', '.join(sorted(known)[:6])} …"
        raise UserError(f"{shard}: no such file, set, or shard in {store.where}; {expected}")
    return tracer.trace(*book_at(spans, offset, name))


def _trace_step(artifacts: RunArtifacts, step: int, sample: int | None) -> list[dict[str, Any]]:
    record = artifacts.choose("pretrain", ("pretrain",))
    settings = record.settings
    batch, last = int(settings["batch_size"]), settings["max_steps"]
    if not 1 <= step <= last:
        raise UserError(f"--step {step}: expected a step of {record.cell}, 1 to {last}")
    if sample is not None and not 0 <= sample < batch:
        expected = f"expected a sequence of {record.cell}'s batch, 0 to {batch - 1}"
        raise UserError(f"--sample {sample}: {expected}")
    tracer = _Tracer(artifacts.store, _input_record(artifacts.store, record, "shard"))
    sampler = tracer.sampler(settings)
    counted, rows = sampler.kept(step - 1, batch), []
    for number in range(batch) if sample is None else [sample]:
        book, start = sampler.locate((step - 1) * batch + number)
        about = {"sample": number, **({} if counted[number] else {"excluded": True})}
        row = tracer.trace(sampler.shards.spans[book], start, sampler.length + 1)
        rows.append({**about, **row})
    return rows


def _shard_of(span: DocumentSpan) -> str:
    return f"{span.set}/{span.part}.arrow"


def _stored_shard(file: Path) -> tuple[Store, ArtifactRecord, str]:
    """The store that a shard's file is in, the newest record of a shard stage that lists it, and
    its name there. UserError when there is none.
    """
    folder = next((one for one in file.parents if one.name == _SHARD_PARTS), None)
    if folder is None:
        advice = f"give a file below STORE/{_SHARD_PARTS}, or use --store"
        raise UserError(f"{file}: not in a store (no folder {_SHARD_PARTS} above it); {advice}")
    store = Store.existing(folder.parent)
    records = StoreSnapshot(store).records("shard")
    for record in sorted(records, key=lambda record: record.finished, reverse=True):
        for name, entry in record.files.items():
            if (store.root / entry.key).resolve() == file:
                return store, record, name
    problem = f"no finished shard stage in {store.where} lists this file"
    raise UserError(f"{file}: {problem}; run `gpt1 run shard`")


def _input_record(store: Store, record: ArtifactRecord, kind: str) -> ArtifactRecord:
    """The record of the input of that kind. UserError when it is gone from the store."""
    fingerprints = record.identity.get("inputs", {}).get(kind, [])
    found = store.record(kind, fingerprints[0]) if fingerprints else None
    if found is None:
        problem = f"the {kind} input of {record.cell} is no longer in the store"
        raise UserError(f"{store.where}: {problem}; rerun it")
    return found


class _Tracer:
    """Traces ids of one run of the shard stage; tables and encoder are read once."""

    def __init__(self, store: Store, record: ArtifactRecord) -> None:
        """UserError where an artifact that the shards were made from is gone."""
        from gpt1.corpus.split import read_split
        from gpt1.data.shards import read_spans
        from gpt1.tokenizer.tokenizer import Tokenizer
        from gpt1.tokenizer.vocabulary import Vocabulary

        self._store, self.shard = store, record.artifact()
        self._vocabulary, split, clean = (
            _input_record(store, record, kind) for kind in ("vocabulary", "split", "clean")
        )
        self._clean, self._ingest = clean.artifact(), None
        if clean.identity.get("inputs", {}).get("ingest"):
            self._ingest = _input_record(store, clean, "ingest").artifact()
        learned = self._vocabulary.artifact()
        folder = store.fetch_folder(learned, learned.under("encoder_bpe_")[0].name)
        self._encoder = Tokenizer(Vocabulary.load(folder))
        rows = read_split(store.fetch(split.artifact().file("split.parquet")))
        self._ends = {row.book: row.tail_start for row in rows}
        self._table = store.fetch(self.shard.file("books.parquet"))
        self.spans = list(read_spans(self._table))

    def sampler(self, settings: Mapping[str, Any]) -> SequenceSampler:
        """The sequences of a pre-training, as training makes them."""
        from gpt1.data.sequences import SequenceSampler
        from gpt1.data.shards import Shards

        paths = [self._store.fetch(file) for file in self.shard.under("train/")]
        shards = Shards.open(paths, self._table, "train", self._vocabulary.summary["sha256"])
        excluded = settings.get("exclude_books", ())
        return SequenceSampler(shards, int(settings["context"]), int(settings["seed"]), excluded)

    def trace(self, span: DocumentSpan, first: int, length: int = 1) -> dict[str, Any]:
        """All that is known of the id at index `first` of a book, or of a sequence from there."""
        from gpt1.data.provenance import locate
        from gpt1.data.shards import open_shard

        name = _shard_of(span)
        shard = open_shard(self._store.fetch(self.shard.file(name)))
        ids = shard.ids[span.start : span.start + span.length].tolist()
        text, tokens = self._text(span), self._encoder.vocabulary.tokens
        place = locate(text, ids, first, self._encoder.encode, tokens)
        window = self._encoder.decode(ids[first : first + length])
        return {
            "book": span.book, "title": span.title, "author": span.author, "source": span.source,
            "set": span.set, "shard": name, "offset": span.start + first,
            "token": {"id": ids[first], "text": tokens[ids[first]]},
            "in_book": {"token": first, "of": span.length, "character": place.start,
                "to": place.end, "exact": place.exact},
            "text": place.around(text, _WIDTH),
            **({"window": window} if length > 1 else {}),
            "ingest": self._line_of(self._ingest, span) if self._ingest else None,
            "rules": (self._line_of(self._clean, span) or {}).get("rules"),
        }  # fmt: skip

    def _text(self, span: DocumentSpan) -> str:
        """The text the ids were made from: the clean book up to its unseen tail."""
        from gpt1.corpus.document import read_books

        file = self._store.fetch(self._clean.file(f"books/{span.part}.parquet"))
        for book in read_books(file):
            if book.id == span.book:
                return book.text[: self._ends[book.id]]
        problem = f"not in books/{span.part}.parquet of the clean stage"
        raise UserError(f"{span.book}: {problem}; run `gpt1 run clean --force`")

    def _line_of(self, artifact: Artifact, span: DocumentSpan) -> dict[str, Any] | None:
        """The line about a book in the `records/` of clean or ingest; None: there is none."""
        files = artifact.under("records/")
        for file in sorted(files, key=lambda file: Path(file.name).stem != span.part):
            with self._store.fetch(file).open(encoding="utf-8") as lines:
                for line in lines:
                    row: dict[str, Any] = json.loads(line)
                    if span.book in (row.get("book"), row.get("id")):
                        return row
        return None


def _format(row: Mapping[str, Any]) -> str:
    at, token, rules = row["in_book"], row["token"], row["rules"]
    names = ", ".join(filter(None, (row["title"], row["author"])))
    place = f"token {at['token']:,} of {at['of']:,} in the book; characters {at['character']:,}"
    place += f" to {at['to']:,} of its cleaned text"
    if not at["exact"]:
        place += " (approximate: ftfy fixes the beginning of the text differently)"
    changes = "not recorded"
    if rules is not None:
        changes = ", ".join(f"{name} {number:,}" for name, number in rules.items()) or "none"
    lines = {
        "sample": row.get("sample"),
        "loss": "none: pretrain.exclude_books has this book" if row.get("excluded") else None,
        "book": f"{row['book']} ({names}), set {row['set']}",
        "source": row["source"],
        "read": _format_source(row["ingest"]) if row["ingest"] else None,
        "token": f"{token['text']!r} (id {token['id']}) at {row['offset']:,} of {row['shard']}",
        "place": place,
        "rules": changes,
        "text": row["text"],
        "window": row.get("window"),
    }
    return "\n".join(f"{name:<8}{value}" for name, value in lines.items() if value is not None)


def _format_source(record: Mapping[str, Any]) -> str:
    """How ingest read the book's file, or the first of several."""
    first, *others = record["files"]
    more = f", and {len(others)} more files" if others else ""
    size = f"{first['bytes']:,} bytes, sha256 {first['sha256'][:12]}"
    return f"as {first['encoding']} ({first['how']}), {size}{more}"
