"""clean: clean each book by counted rules; keep rejected books with the rule and the evidence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from gpt1.corpus.clean import BOOK_RULES, TEXT_RULES, Sample, clean
from gpt1.corpus.document import Document, book_schema, read_books, write_books
from gpt1.errors import UserError
from gpt1.format import counted
from stages.contract import Context, Output, Settings, Stage, parts_of_books

TABLES = ("totals", "rules", "rejected")
SAMPLES = 4
"""How many samples of each rule are kept of each part."""

# The switches are the registry's: a rule is described in one place.
_SWITCHES: dict[str, Any] = {
    **{rule.name: (bool, Field(True, description=rule.description)) for rule in TEXT_RULES},
    **{
        rule.setting: (
            type(rule.default),
            Field(rule.default, description=rule.description, **rule.limits),
        )
        for rule in BOOK_RULES
    },
}
CleanSettings = create_model("CleanSettings", __base__=Settings, **_SWITCHES)


class Clean(Stage):
    """All text rules off: the text stays as it came, to the byte. ftfy sees a book's whole text,
    not its lines (they differ).
    """

    version = 5  # credits across the end of the head
    settings_model = CleanSettings
    requires = ("ingest",)
    is_coordinator = True

    def run(self, settings: Any, context: Context) -> None:
        identity = {"rules": settings.model_dump()}
        parts = parts_of_books(context.input("ingest"), lambda _: identity)
        made = context.map_parts(clean_part, parts)
        for part in made:
            context.add_files_of(part)
        tables: dict[str, Counter[str]] = {key: Counter() for key in TABLES}
        for part in made:
            for key, table in tables.items():
                table.update(part.summary[key])
        totals, rules, rejected = (dict(sorted(table.items())) for table in tables.values())
        if not totals.get("books"):
            raise UserError(
                f"clean: every book was rejected ({_listing(rejected) or 'there were none'});"
                " expected to keep at least one. Lower `minimum_words` (too_short) or `english`"
                " (not_english), set `garbled: false`, or use other books."
            )
        context.summary({**totals, "rules": rules, "rejected": rejected})
        context.info(
            f"{counted(totals['books'], 'book')} kept, {sum(rejected.values())} rejected"
            f" ({_listing(rejected) or 'none'}); {totals['words_in']:,} words in,"
            f" {totals['words']:,} out; {_listing(rules) or 'no rule changed anything'}"
        )


def clean_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Clean the books of one part, one at a time; write the kept, the rejected, a record of
    each, and samples of each rule.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = arguments["name"]
    totals, rules, rejected = Counter[str](), Counter[str](), Counter[str]()
    samples: dict[str, list[Sample]] = {}
    schema = pa.schema([("rule", pa.string()), ("evidence", pa.string()), *book_schema()])

    def kept() -> Iterator[Document]:
        for book in read_books(Path(arguments["path"])):
            item = clean(book, arguments["rules"])
            records.write(_line(item.record()))
            rules.update(item.strikes)
            totals.update({f"{measure}_in": value for measure, value in vars(item.before).items()})
            for sample in item.samples:
                some = [*samples.get(sample.rule, ()), sample]
                samples[sample.rule] = sorted(some, key=lambda one: one.order)[:SAMPLES]
            if item.rejected is None:
                totals.update(vars(item.after))
                yield item.book
            else:
                rejected[item.rejected] += 1
                row = pa.Table.from_pylist([item.rejected_row()], schema=schema)
                refused.write_table(row)  # a row group of its own

    with (
        output.open(f"books/{name}.parquet") as file,
        output.open(f"rejected/{name}.parquet") as other,
        output.open(f"records/{name}.jsonl") as records,
        pq.ParquetWriter(other, schema, compression="zstd", compression_level=3) as refused,
    ):
        totals["books"] = write_books(file, kept())
    with output.open(f"samples/{name}.jsonl") as shown:
        shown.writelines(_line(vars(one)) for rule in sorted(samples) for one in samples[rule])
    tables = zip(TABLES, (totals, rules, rejected), strict=True)
    return {key: dict(sorted(table.items())) for key, table in tables}


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _listing(table: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in table.items())


STAGE = Clean()
