"""`gpt1 trace`: from a token back to its book, its file, its place in the text, and the rules
that cleaned it; from a text to its places in the books, and the steps that read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from gpt1.format import counted
from gpt1.terminal import show
from pipeline.cli.model_lookup import KINDS
from pipeline.cli.options import Json, ReadOptions
from pipeline.cli.output import print_json
from pipeline.planning.last_run import RunArtifacts
from pipeline.store import cache
from pipeline.store.base import Store
from pipeline.store.record import PARTS, ArtifactRecord
from pipeline.store.snapshot import StoreSnapshot
from stages.contract import Artifact

if TYPE_CHECKING:
    from gpt1.data.ngram_index import Match, NgramIndex
    from gpt1.data.sequences import SequenceSampler
    from gpt1.data.shards import DocumentSpan, Shards
    from gpt1.train.config import PretrainConfig

_SHARD_PARTS = f"shard{PARTS}"
_WIDTH = 200  # characters of text around a token
_READS = 6  # steps shown of one place
_SETS = {"train": "the training books", "held_out": "the held-out text"}


def trace(
    shard: str | None = None, offset: int | None = None, /, step: int | None = None,
    sample: int | None = None, text: str | None = None, min_tokens: int = 8, limit: int = 3, *,
    options: ReadOptions, as_json: Json = False,
) -> None:
    """Trace a token, a training batch, or a text to its source: book, file, offset, text, cleaning
    rules; for a text, also the steps that read it.

    Args:
        shard: Shard file or name (train/part-0003.arrow), or set (train).
        offset: Position of the token in the shard or set, from 0.
        step: Trace the batch of this pre-training step, from 1.
        sample: Only this sequence of the batch, from 0.
        text: Find the longest spans of this text in the training books and the held-out text.
        min_tokens: Shortest span of --text to find, in tokens; a shorter text must occur as it is.
        limit: Places of each span of --text to show.
    """
    ways = [shard is not None and offset is not None, step is not None, text is not None]
    if ways.count(True) != 1 or (shard is not None and not ways[0]):
        such = "a shard and an offset, such as `train/part-0003.arrow 1200`"
        raise UserError(f"trace: expected either {such}, or --step, or --text")
    if text is not None:
        found = _trace_text(options.artifacts(), text, min_tokens, limit)
        print_json(found) if as_json else show(_format_text(found))
        return
    if step is not None:
        rows = _trace_step(options.artifacts(), step, sample)
    elif shard is not None and offset is not None:
        rows = [_trace_offset(options, shard, offset)]
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
    from gpt1.data.sequences import batch_of

    record = artifacts.choose("pretrain", ("pretrain",))
    config, skipped = _pretraining(artifacts.store, record)
    size = config.batch_size
    if not 1 <= step <= config.max_steps:
        raise UserError(f"--step {step}: expected a step of {record.cell}, 1 to {config.max_steps}")
    if sample is not None and not 0 <= sample < size:
        expected = f"expected a sequence of {record.cell}'s batch, 0 to {size - 1}"
        raise UserError(f"--sample {sample}: {expected}")
    tracer = _Tracer(artifacts.store, _input_record(artifacts.store, record, "shard"))
    sampler, batch = _sampler(tracer.shards("train"), config), batch_of(step - 1, skipped)
    kept, rows = sampler.kept(batch, size), []
    for number in range(size) if sample is None else [sample]:
        book, start = sampler.locate(batch * size + number)
        about = {"sample": number, **({} if kept[number] else {"excluded": True})}
        row = tracer.trace(sampler.shards.spans[book], start, window=sampler.length + 1)
        rows.append({**about, **row})
    return rows


def _pretraining(store: Store, record: ArtifactRecord) -> tuple[PretrainConfig, list[int]]:
    """The settings of a finished pre-training, and the batches that its rollbacks skipped."""
    from gpt1.data.sequences import skipped_in
    from gpt1.train.config import PretrainConfig

    lines = []
    if file := record.files.get("skipped.jsonl"):
        lines = store.fetch(file).read_text(encoding="utf-8").splitlines()
    config = PretrainConfig.model_validate(record.settings)
    return config.scaled(), skipped_in([json.loads(line) for line in lines])


def _sampler(shards: Shards, config: PretrainConfig) -> SequenceSampler:
    """The sequences of a pre-training, as training makes them."""
    from gpt1.data.sequences import SequenceSampler

    return SequenceSampler(shards, config.context, config.seed, config.exclude_books)


def _trace_text(artifacts: RunArtifacts, text: str, n: int, limit: int) -> dict[str, Any]:
    """The spans of a text that occur in the books, the training books' first, longest first."""
    from gpt1.data.ngram_index import SHORTEST, Match, find

    if n < SHORTEST or limit < 1:
        given = f"--min-tokens {n} --limit {limit}"
        raise UserError(f"{given}: expected at least {SHORTEST} tokens, and a limit of 1 or more")
    store = artifacts.store
    made = any(artifacts.record(cell) for cell in artifacts.of_kind(("pretrain",)))
    record = artifacts.choose("pretrain", ("pretrain",)) if made else None
    shard = _input_record(store, record, "shard") if record else None
    tracer = _Tracer(store, shard or artifacts.choose("shard", ("shard",)))
    ids = tracer.encoder.encode(text)
    if len(ids) < SHORTEST:
        expected = f"expected at least {SHORTEST}; give a longer text"
        raise UserError(f"--text {text!r}: found {counted(len(ids), 'token')}, {expected}")
    found: dict[str, Any] = {"text": text, "tokens": len(ids), "min_tokens": min(n, len(ids)),
                             "pretraining": record and record.cell, "copied": 0, "spans": []}
    for chosen in dict.fromkeys(span.set for span in tracer.spans):
        shards = tracer.shards(chosen)
        if len(ids) < n:
            places = find(shards, ids)
            matches = [Match(0, len(ids), places)] if places else []
        else:
            matches = _open_index(shards, tracer.record, chosen, n).matches(ids)
        if chosen == "train":
            found["copied"] = len({at for one in matches for at in range(one.start, one.end)})
        matches.sort(key=lambda match: match.start - match.end)
        steps = _steps(shards, store, record if chosen == "train" else None, matches, limit)
        for match in matches:
            length = match.end - match.start
            rows = [
                {**tracer.trace(shards.spans[book], at, length), "steps": steps.pop(0)}
                for book, at in match.places[:limit]
            ]
            words = tracer.encoder.decode(ids[match.start : match.end])
            found["spans"].append({"set": chosen, "text": words, "start": match.start,
                                   "end": match.end, "count": len(match.places), "places": rows})
    return found


def _steps(
    shards: Shards, store: Store, record: ArtifactRecord | None, matches: Sequence[Match],
    limit: int,
) -> list[Any]:
    """For each place shown, what a pre-training read of it: `epoch` and `step` from 1 (None: its
    batch was skipped by a rollback), `sample` of the batch, and which `tokens` of the span. None
    without a pre-training.
    """
    from gpt1.data.sequences import batch_of, step_of

    spans = [
        (book, at, at + match.end - match.start)
        for match in matches
        for book, at in match.places[:limit]
    ]
    if record is None:
        return [None] * len(spans)
    config, skipped = _pretraining(store, record)
    batches = batch_of(config.max_steps - 1, skipped) + 1
    sampler = _sampler(shards, config)
    rows: list[Any] = []
    found = sampler.reads(spans, batches * config.batch_size)
    for (book, start, _), reads in zip(spans, found, strict=True):
        excluded = shards.spans[book].book in config.exclude_books
        rows.append([])
        for read in reads:
            batch, sample = divmod(read.sample, config.batch_size)
            rows[-1].append({
                "epoch": read.epoch + 1, "step": step_of(batch, skipped), "sample": sample,
                "tokens": [read.start - start, read.end - start],
                **({"excluded": True} if excluded else {}),
            })  # fmt: skip
    return rows


def training_index(where: str, artifacts: Callable[[], RunArtifacts]) -> NgramIndex:
    """The index of the training books of a model in the store, or of the one it was made from.

    UserError for a model that was not pre-trained in the store.
    """
    from gpt1.data.ngram_index import LENGTH

    record = None
    if not Path(where).is_dir():
        store = artifacts().store
        record = artifacts().choose(where.partition("@")[0], KINDS)
        if record.stage != "pretrain":
            fingerprints = record.identity.get("inputs", {}).get("pretrain", [])
            record = store.record("pretrain", fingerprints[0]) if fingerprints else None
    if record is None:
        expected = "expected a job that was pre-trained in the store, such as pretrain"
        raise UserError(f"--trace: the training books of {where} are not known; {expected}")
    tracer = _Tracer(store, _input_record(store, record, "shard"))
    return _open_index(tracer.shards("train"), tracer.record, "train", LENGTH)


def _open_index(shards: Shards, record: ArtifactRecord, chosen: str, n: int) -> NgramIndex:
    """The index of a set of these shards, built when it is first asked for, in this host's cache:
    a store may be read-only.
    """
    from gpt1.data.ngram_index import FORMAT, NgramIndex

    root = cache.ngram_root()
    file = root / f"{record.digest}-{chosen}-{n}-{FORMAT}"
    cache.make_root(root)
    with cache.locked(root, file.name):
        if not file.exists():
            with cache.fetching(root, file) as private:
                NgramIndex.build(shards, private, n)
    cache.touch(file)
    return NgramIndex(shards, file, n)


def copied_spans(
    index: NgramIndex, ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    """Which spans of a text's `ids` occur in the training books, each with its first place."""
    matches, spans = index.matches(ids), []
    for match in matches:
        book, at = match.places[0]
        span = index.shards.spans[book]
        spans.append({
            "text": decode(ids[match.start : match.end]), "start": match.start, "end": match.end,
            "book": span.book, "title": span.title, "author": span.author, "token": at,
            "count": len(match.places),
        })  # fmt: skip
    copied = len({at for match in matches for at in range(match.start, match.end)})
    return {"tokens": len(ids), "copied": copied, "min_tokens": index.n, "spans": spans}


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

        self._store, self.record, self.shard = store, record, record.artifact()
        self._vocabulary, split, clean = (
            _input_record(store, record, kind) for kind in ("vocabulary", "split", "clean")
        )
        self._clean, self._ingest = clean.artifact(), None
        if clean.identity.get("inputs", {}).get("ingest"):
            self._ingest = _input_record(store, clean, "ingest").artifact()
        learned = self._vocabulary.artifact()
        folder = store.fetch_folder(learned, learned.under("encoder_bpe_")[0].name)
        self.encoder = Tokenizer(Vocabulary.load(folder))
        rows = read_split(store.fetch(split.artifact().file("split.parquet")))
        self._ends = {row.book: row.tail_start for row in rows}
        self._table = store.fetch(self.shard.file("books.parquet"))
        self.spans = list(read_spans(self._table))

    def shards(self, chosen: str) -> Shards:
        """The books of a set."""
        from gpt1.data.shards import Shards

        paths = [self._store.fetch(file) for file in self.shard.under(f"{chosen}/")]
        return Shards.open(paths, self._table, chosen, self._vocabulary.summary["sha256"])

    def trace(
        self, span: DocumentSpan, first: int, length: int = 1, window: int = 0
    ) -> dict[str, Any]:
        """All that is known of the `length` ids from index `first` of a book; also the text of a
        `window` of ids from there.
        """
        from gpt1.data.provenance import locate
        from gpt1.data.shards import open_shard

        name = _shard_of(span)
        shard = open_shard(self._store.fetch(self.shard.file(name)))
        ids = shard.ids[span.start : span.start + span.length].tolist()
        text, tokens = self._text(span), self.encoder.vocabulary.tokens
        place = locate(text, ids, first, self.encoder.encode, tokens, length)
        return {
            "book": span.book, "title": span.title, "author": span.author, "source": span.source,
            "set": span.set, "shard": name, "offset": span.start + first,
            "token": {"id": ids[first], "text": tokens[ids[first]]},
            "in_book": {"token": first, "tokens": length, "of": span.length,
                "character": place.start, "to": place.end, "exact": place.exact},
            "text": place.around(text, _WIDTH),
            **({"window": self.encoder.decode(ids[first : first + window])} if window else {}),
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
    token, rules = row["token"], row["rules"]
    changes = "not recorded"
    if rules is not None:
        changes = ", ".join(f"{name} {number:,}" for name, number in rules.items()) or "none"
    return _lines({
        "sample": row.get("sample"),
        "loss": "none: pretrain.exclude_books has this book" if row.get("excluded") else None,
        "book": _format_book(row),
        "source": row["source"],
        "read": _format_source(row["ingest"]) if row["ingest"] else None,
        "token": f"{token['text']!r} (id {token['id']}) at {row['offset']:,} of {row['shard']}",
        "place": _format_place(row["in_book"]),
        "rules": changes,
        "text": row["text"],
        "window": row.get("window"),
    })  # fmt: skip


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{name:<8}{value}" for name, value in values.items() if value is not None)


def _format_book(row: Mapping[str, Any]) -> str:
    names = ", ".join(filter(None, (row["title"], row["author"])))
    return f"{row['book']} ({names}), set {row['set']}"


def _format_place(at: Mapping[str, Any]) -> str:
    tokens = f"token {at['token']:,}"
    if at["tokens"] > 1:
        tokens = f"tokens {at['token']:,} to {at['token'] + at['tokens'] - 1:,}"
    place = f"{tokens} of {at['of']:,} in the book; characters {at['character']:,}"
    place += f" to {at['to']:,} of its cleaned text"
    if not at["exact"]:
        place += " (approximate: ftfy fixes the beginning of the text differently)"
    return place


def _format_text(found: Mapping[str, Any]) -> str:
    blocks = [_format_copied(found)]
    for span in found["spans"]:
        count, shown = span["count"], len(span["places"])
        where = f"{counted(count, 'place')} in {_SETS[span['set']]}"
        length = span["end"] - span["start"]
        blocks.append(f"span    {span['text']!r}: {counted(length, 'token')}, {where}")
        blocks += [
            _lines({
                "book": _format_book(row),
                "source": row["source"],
                "place": _format_place(row["in_book"]),
                "steps": _format_steps(row["steps"], length, span["set"]),
                "text": row["text"],
            })
            for row in span["places"]
        ]  # fmt: skip
        if count > shown:
            blocks.append(f"{counted(count - shown, 'more place')}; show them with --limit {count}")
    return "\n\n".join(blocks)


def _format_copied(found: Mapping[str, Any]) -> str:
    copied, tokens, least = (found[name] for name in ("copied", "tokens", "min_tokens"))
    share = 100 * copied / max(1, tokens)
    where = f"in spans of {least} or more that occur in {_SETS['train']}"
    return f"copied  {copied:,} of {counted(tokens, 'token')} ({share:.0f} %), {where}"


def format_copied(found: Mapping[str, Any]) -> str:
    """What `copied_spans` found, a line for each span."""
    lines = [_format_copied(found)]
    for span in found["spans"]:
        names = ", ".join(filter(None, (span["title"], span["author"])))
        more = f", and {counted(span['count'] - 1, 'more place')}" if span["count"] > 1 else ""
        lines.append(f"span    {span['text']!r}: {names}, token {span['token']:,}{more}")
    return "\n".join(lines)


def _format_steps(reads: Sequence[Mapping[str, Any]] | None, length: int, chosen: str) -> str:
    """The steps that read a span of this length, by epoch."""
    if chosen != "train":
        return "none: held out"
    if reads is None:
        return "not known: no pre-training of this run has finished"
    epochs: dict[int, list[str]] = {}
    for read in reads[:_READS]:
        start, end = read["tokens"]
        notes = [f"sample {read['sample']}"]
        if end - start < length:
            notes.append(f"tokens {start} to {end - 1}" if end - start > 1 else f"token {start}")
        if read["step"] is None:
            notes.append("skipped by a rollback")
        if read.get("excluded"):
            notes.append("no loss: pretrain.exclude_books has this book")
        step = "no step" if read["step"] is None else f"{read['step']:,}"
        epochs.setdefault(read["epoch"], []).append(f"{step} ({', '.join(notes)})")
    parts = [f"epoch {epoch}: {', '.join(steps)}" for epoch, steps in epochs.items()]
    if len(reads) > _READS:
        parts.append(f"and {len(reads) - _READS} more")
    return "; ".join(parts) or "none: no sequence of the training has it"


def _format_source(record: Mapping[str, Any]) -> str:
    """How ingest read the book's file, or the first of several."""
    first, *others = record["files"]
    more = f", and {len(others)} more files" if others else ""
    size = f"{first['bytes']:,} bytes, sha256 {first['sha256'][:12]}"
    return f"as {first['encoding']} ({first['how']}), {size}{more}"
