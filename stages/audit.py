"""audit: tabulate what each cleaning rule and split decision did to the corpus, with samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gpt1.format import counted
from stages.contract import Artifact, Context, Output, Part, Settings, Stage

if TYPE_CHECKING:
    from gpt1.corpus.audit import Counts


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
        from gpt1.corpus.audit import chosen_samples, document, steps
        from gpt1.corpus.clean import Sample
        from gpt1.corpus.document import read_rows
        from gpt1.report.collect import to_json
        from gpt1.report.render import corpus_page

        def rows_under(prefix: str) -> Iterator[dict[str, Any]]:
            for file in cleaned.under(prefix):
                yield from _rows(context.fetch(file))

        cleaned = context.input("clean")
        table = context.fetch(context.input("split").file("split.parquet"))
        split = {row["book"]: row for row in read_rows(table)}
        trained = _merge(context, context.map_parts(audit_part, _parts(cleaned, split)))
        records = list(rows_under("records/"))
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
        }  # fmt: skip
        parts.append(Part(name, identity, {**identity, "path": file, "record_path": record}))
    return parts


def audit_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Count the training texts of one part."""
    import pyarrow as pa

    from gpt1.corpus.audit import count
    from gpt1.corpus.document import read_books, write_table

    rows = {row["book"]: row for row in arguments["split"]}
    sizes = {row["book"]: row["bytes"] for row in _rows(Path(arguments["record_path"]))}
    counts = count(read_books(Path(arguments["path"])), rows, sizes)
    with output.open(f"words/{arguments['name']}.parquet") as file:
        schema = pa.schema([("word", pa.string()), ("count", pa.int64())])
        words = [{"word": word, "count": number} for word, number in sorted(counts.words.items())]
        write_table(file, schema, words)
    lengths = {str(words): number for words, number in sorted(counts.lengths.items())}
    return {"books": counts.books, "size": vars(counts.size), "lengths": lengths}


def _merge(context: Context, made: Sequence[Artifact]) -> Counts:
    import pyarrow.parquet as pq

    from gpt1.corpus.audit import Counts
    from gpt1.corpus.rules.rule import Size

    total = Counts()
    for part in made:
        total.books += part.summary["books"]
        total.size += Size(**part.summary["size"])
        total.lengths.update({int(words): n for words, n in part.summary["lengths"].items()})
        for file in part.under("words/"):
            table = pq.read_table(context.fetch(file)).to_pydict()
            total.words.update(dict(zip(table["word"], table["count"], strict=True)))
    return total


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


STAGE = Audit()
