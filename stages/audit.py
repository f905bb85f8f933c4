"""audit: tabulate what each cleaning rule and split decision did to the corpus, with samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from gpt1.corpus.audit import Counts, chosen_samples, count, document, steps
from gpt1.corpus.clean import Sample
from gpt1.corpus.document import read_books, read_rows, write_table
from gpt1.corpus.rules.rule import Size
from gpt1.format import counted
from stages.contract import Context, Output, Settings, Stage, parts_of_books


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
        from gpt1.report.collect import to_json
        from gpt1.report.render import corpus_page

        def rows_under(prefix: str) -> list[dict[str, Any]]:
            paths = [context.fetch(file) for file in cleaned.under(prefix)]
            return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]

        cleaned = context.input("clean")
        table = context.fetch(context.input("split").file("split.parquet"))
        split = {row["book"]: row for row in read_rows(table)}
        records = rows_under("records/")
        trained = _count(context, records, split)
        shown = [Sample(**row) for row in rows_under("samples/")]
        samples = chosen_samples(shown, settings.samples)
        rows = steps(records, split, trained, cleaned.settings)
        found = document(rows, trained, records, split, samples, settings.words)
        for name, text in {"audit.json": to_json(found), "audit.html": corpus_page(found)}.items():
            with context.open(name) as file_out:
                file_out.write(text.encode("utf-8", "replace"))
        context.summary(
            {
                **found["trained"], "sentence_words": found["sentences"]["mean"],
                "rejected": len(found["rejected"]),
            }
        )
        context.info(
            f"{counted(rows[0]['books'], 'book')}, {rows[0]['words']:,} words in;"
            f" {counted(rows[-1]['books'], 'book')}, {rows[-1]['words']:,} words left for training"
        )


def _count(
    context: Context, records: Sequence[Mapping[str, Any]], split: Mapping[str, Mapping[str, Any]]
) -> Counts:
    """Count the training texts part by part."""
    import pyarrow.parquet as pq

    rows: dict[str, list[tuple[str, str, int | None, int]]] = {}
    for record in records:
        if row := split.get(record["book"]):
            about = (row["book"], row["set"], row["tail_start"], record["bytes"])
            rows.setdefault(row["part"], []).append(about)
    cleaned = context.input("clean")
    parts = parts_of_books(cleaned, lambda name: {"rows": rows.get(name, [])})
    total = Counts()
    for part in context.map_parts(audit_part, parts):
        total.books += part.summary["books"]
        total.size += Size(**part.summary["size"])
        total.lengths.update({int(words): n for words, n in part.summary["lengths"].items()})
        for file in part.under("words/"):
            table = pq.read_table(context.fetch(file)).to_pydict()
            total.words.update(dict(zip(table["word"], table["count"], strict=True)))
    return total


def audit_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Count the training texts of one part."""
    import pyarrow as pa

    counts = count(read_books(Path(arguments["path"])), arguments["rows"])
    with output.open(f"words/{arguments['name']}.parquet") as file:
        schema = pa.schema([("word", pa.string()), ("count", pa.int64())])
        words = [{"word": word, "count": number} for word, number in sorted(counts.words.items())]
        write_table(file, schema, words)
    lengths = {str(words): number for words, number in sorted(counts.lengths.items())}
    return {"books": counts.books, "size": vars(counts.size), "lengths": lengths}


STAGE = Audit()
