"""`gpt1 trace`: from a token back to its book, its file, its place in the text, and the rules
that cleaned it; from a text to its places in the books, and the steps that read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
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
    from gpt1.data.ngram_index import NgramIndex
    from gpt1.data.sequences import SequenceSampler, Span
    from gpt1.data.shards import DocumentSpan, Shards
    from gpt1.train.config import PretrainConfig

_SHARD_PARTS = f"shard{PARTS}"
_WIDTH = 200  # characters of text around a token
_READS = 6  # steps shown of one place
_SETS = {"train": "the training books", "held_out": "the held-out text"}
Row = dict[str, Any]
"""As JSON."""


def trace(
    shard: str | None = None, offset: int | None = None, /, step: int | None = None,
    sample: int | None = None, text: str | None = None, min_tokens: int = 8, limit: int = 3,
    job: str | None = None, *, options: ReadOptions, as_json: Json = False,
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
        job: Job of a run with several: pre-training or, for an offset, shard job.
    """
    if text is not None and step is None and shard is None:
        found = _trace_text(options.artifacts(), text, min_tokens, limit, job)
        print_json(found) if as_json else show(format_text(found))
        return
    if step is not None and shard is None and text is None:
        rows = _trace_step(*_choose(options.artifacts(), job, "pretrain"), step, sample)
    elif step is None and text is None and shard is not None and offset is not None:
        rows = [_trace_offset(options, shard, offset, job)]
    else:
        such = "a shard and an offset, such as `train/part-0003.arrow 1200`"
        raise UserError(f"trace: expected either {such}, or --step, or --text")
    print_json(rows) if as_json else show("\n\n".join(map(_format, rows)))


def _trace_offset(options: ReadOptions, shard: str, offset: int, job: str | None) -> Row:
    from gpt1.data.provenance import book_at

    file = Path(shard)
    if file.is_file():
        store, record, name = _stored_shard(file.resolve())
    else:
        store, record = _choose(options.artifacts(), job, "shard")
        name = shard
    tracer = _Tracer(store, record)
    spans = [span for span in tracer.spans if name in (span.set, _shard_of(span))]
    known = [file for file in tracer.shard.files if file.endswith(".arrow")]
    if not spans and name not in known:
        expected = f"expected one of: train, held_out, {', '.join(sorted(known)[:6])} …"
        raise UserError(f"{shard}: no such file, set, or shard in {store.where}; {expected}")
    return tracer.trace(*book_at(spans, offset, name))


def _choose(artifacts: RunArtifacts, job: str | None, kind: str) -> tuple[Store, ArtifactRecord]:
    return artifacts.store, artifacts.choose(job or kind, (kind,), " with --job")


def _trace_step(store: Store, record: ArtifactRecord, step: int, sample: int | None) -> list[Row]:
    from gpt1.data.sequences import batch_of

    tracer = _Tracer(store, _input_record(store, record, "shard"))
    config, sampler, skipped = _pretraining(store, record, tracer.shards("train"))
    size = config.batch_size
    if not 1 <= step <= config.max_steps:
        raise UserError(f"--step {step}: expected a step of {record.cell}, 1 to {config.max_steps}")
    if sample is not None and not 0 <= sample < size:
        expected = f"expected a sequence of {record.cell}'s batch, 0 to {size - 1}"
        raise UserError(f"--sample {sample}: {expected}")
    batch, rows = batch_of(step - 1, skipped), []
    kept = sampler.kept(batch, size)
    for number in range(size) if sample is None else [sample]:
        book, start = sampler.locate(batch * size + number)
        about = {"sample": number, **({} if kept[number] else {"excluded": True})}
        row = tracer.trace(sampler.shards.spans[book], start, window=sampler.length + 1)
        rows.append({**about, **row})
    return rows


def _pretraining(
    store: Store, record: ArtifactRecord, shards: Shards
) -> tuple[PretrainConfig, SequenceSampler, list[int]]:
    """The settings of a finished pre-training, its sequences as training makes them, and the
    batches that its rollbacks skipped.
    """
    from gpt1.data.sequences import SequenceSampler, skipped_in
    from gpt1.train.config import PretrainConfig

    lines = []
    if file := record.files.get("skipped.jsonl"):
        lines = store.fetch(file).read_text(encoding="utf-8").splitlines()
    config = PretrainConfig.model_validate(record.settings).scaled()
    sampler = SequenceSampler(shards, config.context, config.seed, config.exclude_books)
    return config, sampler, skipped_in([json.loads(line) for line in lines])


def _trace_text(artifacts: RunArtifacts, text: str, n: int, limit: int, job: str | None) -> Row:
    from gpt1.data.ngram_index import SHORTEST

    if n < SHORTEST or limit < 1:
        expected = f"expected at least {SHORTEST} tokens, and a limit of 1 or more"
        raise UserError(f"--min-tokens {n} --limit {limit}: {expected}")
    made = any(artifacts.record(cell) for cell in artifacts.of_kind(("pretrain",)))
    store, record = _choose(artifacts, job, "pretrain" if made else "shard")
    tracer = _Tracer(store, _input_record(store, record, "shard") if made else record)
    found = _search(tracer, record if made else None, text, n, limit, _SETS, short=True)
    if found["tokens"] < SHORTEST:
        expected = f"expected at least {SHORTEST}; give a longer text"
        raise UserError(f"--text {text!r}: found {counted(found['tokens'], 'token')}, {expected}")
    return found


def copied_text(where: str, artifacts: Callable[[], RunArtifacts]) -> Callable[[str], Row]:
    """What finds the spans of a text in the training books of a model in the store, each with its
    first place. UserError for a model without a pre-training in the store, such as of a folder.
    """
    from gpt1.data.ngram_index import LENGTH

    if Path(where).is_dir():
        expected = "expected a job, whose training books the store has"
        raise UserError(f"--trace: found the folder {where}, {expected}; or leave out --trace")
    found = artifacts()
    store, record = found.store, found.choose(where.partition("@")[0], KINDS)
    if record.stage != "pretrain":
        record = _input_record(store, record, "pretrain")
    tracer = _Tracer(store, _input_record(store, record, "shard"))
    return lambda text: _search(tracer, record, text, LENGTH, 1, ["train"])


def _search(
    tracer: _Tracer, record: ArtifactRecord | None, text: str, n: int, limit: int,
    sets: Iterable[str], short: bool = False,
) -> Row:
    """The longest spans of a text in these sets, the longest first, with at most `limit` places of
    each, and what a pre-training read of them. `short`: a text of less than `n` tokens is searched
    for as it is.
    """
    from gpt1.data.ngram_index import copied, whole_text

    ids, copies, spans = tracer.encoder.encode(text), 0, []
    for chosen in [name for name in sets if tracer.shard.under(f"{name}/")]:
        shards = tracer.shards(chosen)
        if short and len(ids) < n:
            matches = whole_text(shards, ids, limit)
        else:
            matches = _open_index(shards, tracer.record, chosen, n).matches(ids, limit)
        matches.sort(key=lambda match: match.start - match.end)
        places = [
            (book, at, at + match.end - match.start)
            for match in matches
            for book, at in match.places
        ]
        steps: Sequence[Any] = [None] * len(places)
        if chosen == "train":
            copies = copied(matches)
            steps = steps_that_read(tracer.store, record, shards, places) if record else steps
        rows = iter([
            {**tracer.trace(shards.spans[book], start, end - start), "steps": reads}
            for (book, start, end), reads in zip(places, steps, strict=True)
        ])  # fmt: skip
        for match in matches:
            words = tracer.encoder.decode(ids[match.start : match.end])
            spans.append({"set": chosen, "text": words, "start": match.start, "end": match.end,
                          "count": match.count, "places": list(islice(rows, len(match.places)))})
    return {"text": text, "tokens": len(ids), "min_tokens": min(n, len(ids)) if short else n,
            "copied": copies, "pretraining": record and record.cell, "spans": spans}


def steps_that_read(
    store: Store, record: ArtifactRecord, shards: Shards, places: Sequence[Span]
) -> list[list[Row]]:
    """What a pre-training read of each place (book, start, end): `epoch` and `step` from 1 (None:
    its batch was skipped by a rollback), `sample` of the batch, and which `tokens` of the place.
    """
    from gpt1.data.sequences import batch_of, step_of

    config, sampler, skipped = _pretraining(store, record, shards)
    size = config.batch_size
    found = sampler.reads(places, (batch_of(config.max_steps - 1, skipped) + 1) * size)
    steps: list[list[Row]] = []
    for (book, start, _), reads in zip(places, found, strict=True):
        excluded = {"excluded": True} if shards.spans[book].book in config.exclude_books else {}
        steps.append([])
        for sample, first, end in reads:
            step = step_of(sample // size, skipped)
            steps[-1].append({
                "epoch": sample // sampler.per_epoch + 1,
                "step": None if step is None else step + 1, "sample": sample % size,
                "tokens": [first - start, end - start], **excluded,
            })  # fmt: skip
    return steps


def _open_index(shards: Shards, record: ArtifactRecord, chosen: str, n: int) -> NgramIndex:
    """The index of a set of these shards, built when it is first asked for, in this host's cache:
    a store may be read-only.
    """
    from gpt1.data.ngram_index import FORMAT, NgramIndex

    root = cache.ngram_root()
    file = root / record.digest / f"{chosen}-{n}-{FORMAT}"
    cache.make_root(root)
    with cache.locked(root, str(file)):
        cache.touch(file)  # before it is opened, so that no other process evicts it
        with suppress(FileNotFoundError, UserError):  # none, or cut off when the host went down
            return NgramIndex(shards, file, n)
        with cache.fetching(root, file) as private:
            NgramIndex.build(shards, private, n)
        return NgramIndex(shards, file, n)


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
    """The record of the input of that kind. UserError when it is gone, or there was none."""
    fingerprints = record.identity.get("inputs", {}).get(kind, [])
    found = store.record(kind, fingerprints[0]) if fingerprints else None
    if found is None:
        advice = "rerun it if it was deleted, else choose a job that has one"
        raise UserError(f"{store.where}: no {kind} job that led to {record.cell}; {advice}")
    return found


class _Tracer:
    """Traces ids of one run of the shard stage; tables and encoder are read once."""

    def __init__(self, store: Store, record: ArtifactRecord) -> None:
        """UserError where an artifact that the shards were made from is gone, or their sentences
        are shuffled.
        """
        from gpt1.corpus.split import read_split
        from gpt1.data.shards import read_spans
        from gpt1.tokenizer.tokenizer import Tokenizer
        from gpt1.tokenizer.vocabulary import Vocabulary

        if record.settings.get("sentence_order") == "shuffled":
            problem = "its sentences are shuffled, so no token has a place in a book's text"
            advice = "use a run with shard.sentence_order=text"
            raise UserError(f"{store.where}: {record.cell} cannot be traced: {problem}; {advice}")
        self.store, self.record, self.shard = store, record, record.artifact()
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
        self.shards = lru_cache(self._shards)
        """The books of a set."""

    def _shards(self, chosen: str) -> Shards:
        from gpt1.data.shards import Shards

        paths = [self.store.fetch(file) for file in self.shard.under(f"{chosen}/")]
        return Shards.open(paths, self._table, chosen, self._vocabulary.summary["sha256"])

    def trace(self, span: DocumentSpan, first: int, length: int = 1, window: int = 0) -> Row:
        """All that is known of the `length` ids from index `first` of a book; also the text of a
        `window` of ids from there.
        """
        from gpt1.data.provenance import locate
        from gpt1.data.shards import open_shard

        name = _shard_of(span)
        shard = open_shard(self.store.fetch(self.shard.file(name)))
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

        file = self.store.fetch(self._clean.file(f"books/{span.part}.parquet"))
        for book in read_books(file):
            if book.id == span.book:
                return book.text[: self._ends[book.id]]
        problem = f"not in books/{span.part}.parquet of the clean stage"
        raise UserError(f"{span.book}: {problem}; run `gpt1 run clean --force`")

    def _line_of(self, artifact: Artifact, span: DocumentSpan) -> Row | None:
        """The line about a book in the `records/` of clean or ingest; None: there is none."""
        files = artifact.under("records/")
        for file in sorted(files, key=lambda file: Path(file.name).stem != span.part):
            with self.store.fetch(file).open(encoding="utf-8") as lines:
                for line in lines:
                    row: Row = json.loads(line)
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


def format_text(found: Mapping[str, Any]) -> str:
    """What was found of a text: how much is copied; its spans with their places."""
    copied, tokens, least = (found[name] for name in ("copied", "tokens", "min_tokens"))
    part = f"{copied:,} of {counted(tokens, 'token')} ({100 * copied / max(1, tokens):.0f} %)"
    blocks = [f"copied  {part}, in spans of {least} or more that occur in {_SETS['train']}"]
    for span in found["spans"]:
        count, length = span["count"], span["end"] - span["start"]
        where = f"{counted(count, 'place')} in {_SETS[span['set']]}"
        blocks.append(f"span    {span['text']!r}: {counted(length, 'token')}, {where}")
        for row in span["places"]:
            blocks.append(_lines({
                "book": _format_book(row),
                "source": row["source"],
                "place": _format_place(row["in_book"]),
                "steps": _format_steps(row["steps"], length, span["set"]),
                "text": row["text"],
            }))  # fmt: skip
        if more := count - len(span["places"]):
            blocks.append(f"{counted(more, 'more place')}: `gpt1 trace --limit {count} --text ...`")
    return "\n\n".join(blocks)


def _format_steps(reads: Sequence[Mapping[str, Any]] | None, length: int, chosen: str) -> str:
    """The steps that read a span of this length, by epoch."""
    if reads is None:
        no_pretraining = "not known: no pre-training of this run has finished"
        return "none: held out" if chosen != "train" else no_pretraining
    epochs: dict[int, list[str]] = {}
    for read in reads[:_READS]:
        first, end = read["tokens"]
        notes = [
            f"sample {read['sample']}",
            f"tokens {first} to {end - 1} of the span" if end - first < length else "",
            "skipped by a rollback" if read["step"] is None else "",
            "no loss: pretrain.exclude_books has this book" if read.get("excluded") else "",
        ]
        step = "no step" if read["step"] is None else f"{read['step']:,}"
        step += f" ({', '.join(filter(None, notes))})"
        epochs.setdefault(read["epoch"], []).append(step)
    parts = [f"epoch {epoch}: {', '.join(steps)}" for epoch, steps in epochs.items()]
    parts += [f"and {len(reads) - _READS} more"] if len(reads) > _READS else []
    return "; ".join(parts) or "none: no sequence of the training has it"


def _format_source(record: Mapping[str, Any]) -> str:
    """How ingest read the book's file, or the first of several."""
    first, *others = record["files"]
    more = f", and {len(others)} more files" if others else ""
    size = f"{first['bytes']:,} bytes, sha256 {first['sha256'][:12]}"
    return f"as {first['encoding']} ({first['how']}), {size}{more}"
