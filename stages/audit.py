"""audit: tabulate what each cleaning rule and split decision did to the corpus, with samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from gpt1.format import counted
from stages.contract import Artifact, Context, Output, Part, Settings, Stage


class AuditSettings(Settings):
    words: int = Field(
        50, ge=1, le=1000, description="Number of most frequent words to list."
    )
    samples: int = Field(
        3, ge=0, le=20, description="Number of before-and-after samples to show per rule."
    )


class Audit(Stage):
    """Sizes come from the cleaner's records and the split's table; sentences and words are
    counted part by part.
    """

    settings_model = AuditSettings
    requires = ("ingest", "clean", "split")
    is_coordinator = True

    def run(self, settings: AuditSettings, context: Context) -> None:
        from gpt1.corpus.audit import document, ledger
        from gpt1.corpus.parquet_io import read_rows
        from gpt1.report.collect import to_json
        from gpt1.report.render import corpus_page

        cleaned = context.input("clean")
        split = {
            row["book"]: row
            for row in read_rows(context.fetch(context.input("split").file("split.parquet")))
        }
        made = context.map_parts(audit_part, _parts(cleaned, split))
        trained = _merged(context, made)
        records = [row for file in cleaned.under("records/") for row in _rows(context.fetch(file))]
        samples = _samples(
            [row for file in cleaned.under("samples/") for row in _rows(context.fetch(file))],
            settings.samples,
        )
        steps = ledger(records, split, trained, cleaned.settings)
        found = document(steps, trained, records, split, samples, settings.words)
        pages = {"audit.json": to_json(found), "audit.html": corpus_page(found)}
        for name, text in pages.items():
            with context.open(name) as file_out:
                file_out.write(text.encode("utf-8", "replace"))
        context.summary(
            {
                **found["trained"], "sentence_words": found["sentences"]["mean"],
                "rejected": len(found["rejected"]),
            }
        )
        came, left = steps[0], steps[-1]
        context.info(
            f"{counted(came.books, 'book')}, {came.after.words:,} words in;"
            f" {counted(left.books, 'book')}, {left.after.words:,} words left for training"
        )


def _parts(cleaned: Artifact, split: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in split.values():
        rows.setdefault(row["part"], []).append(
            {key: row.get(key) for key in ("book", "set", "tail_start")}
        )
    parts = []
    for file in cleaned.under("books/"):
        name = PurePosixPath(file.name).stem
        record = cleaned.files[f"records/{name}.jsonl"]
        identity = {
            "name": name, "books": file.sha256, "records": record.sha256,
            "split": rows.get(name, []),
        }
        parts.append(
            Part(
                name, identity,
                {**identity, "path": file, "record_path": record},
            )
        )
    return parts


def audit_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Count the training texts of one part."""
    import pyarrow as pa

    from gpt1.corpus.audit_counts import count
    from gpt1.corpus.parquet_io import read_books, write_table

    rows = {row["book"]: row for row in arguments["split"]}
    sizes = {row["book"]: row["bytes"] for row in _rows(Path(arguments["record_path"]))}
    counts = count(read_books(Path(arguments["path"])), rows, sizes)
    with output.open(f"words/{arguments['name']}.parquet") as file:
        schema = pa.schema([("word", pa.string()), ("count", pa.int64())])
        write_table(
            file, schema,
            [{"word": word, "count": number} for word, number in sorted(counts.words.items())],
        )
    lengths = {str(words): number for words, number in sorted(counts.lengths.items())}
    return {"books": counts.books, "size": counts.size.dict(), "lengths": lengths}


def _merged(context: Context, made: Sequence[Artifact]) -> Any:
    from gpt1.corpus.audit_counts import Counts
    from gpt1.corpus.text_stats import Size

    total = Counts()
    for part in made:
        total.books += part.summary["books"]
        total.size += Size(**part.summary["size"])
        total.lengths.update(
            {int(words): number for words, number in part.summary["lengths"].items()}
        )
        for words, counts in _words(context, part):
            for word, number in zip(words, counts, strict=True):
                total.words[word] += number
    return total


def _words(context: Context, part: Artifact) -> Iterator[tuple[list[str], list[int]]]:
    import pyarrow.parquet as pq

    for file in part.under("words/"):
        table = pq.read_table(context.fetch(file))
        yield table.column("word").to_pylist(), table.column("count").to_pylist()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def _samples(rows: Sequence[dict[str, str]], number: int) -> list[dict[str, str]]:
    """Of each rule the samples with the smallest hashes, one a book, in the order of the rules."""
    from gpt1.corpus.rules.registry import TEXT_RULES

    chosen = []
    for rule in TEXT_RULES:
        some = sorted((row for row in rows if row["rule"] == rule.name), key=_order)
        chosen += list({row["book"]: row for row in reversed(some)}.values())[::-1][:number]
    return chosen


def _order(row: Mapping[str, str]) -> bytes:
    return sha256("\0".join((row["rule"], row["book"], row["before"])).encode()).digest()


STAGE = Audit()
