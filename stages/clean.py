"""clean: each book cleaned by counted rules; what is rejected is kept, with the rule and the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from gpt1.errors import UserError
from stages.contract import Context, Output, Part, Settings, Stage


class CleanSettings(Settings):
    boilerplate: bool = Field(True, description="Remove Project Gutenberg's headers, footers and credits, and `[Illustration]`.")
    join_lines: bool = Field(
        True, description="Join the lines of hard-wrapped paragraphs; off keeps every line break, as SPEC section 2 would see it."
    )
    minimum_words: int = Field(
        200, ge=1, le=1_000_000, description="A book with fewer words after cleaning is rejected as too short."
    )


class Clean(Stage):
    """ftfy sees a book's whole text, not its lines (the results differ)."""

    settings_model = CleanSettings
    requires = ("ingest",)
    spreads = True

    def run(self, settings: CleanSettings, context: Context) -> None:
        parts = []
        for file in context.input("ingest").under("books/"):
            name = PurePosixPath(file.name).stem
            rules = settings.model_dump()
            parts.append(
                Part(
                    name,
                    {"name": name, "books": file.sha256, "rules": rules},
                    {"name": name, "path": str(file.path), "rules": rules},
                )
            )
        made = context.map_parts(clean_part, parts)
        for part in made:
            context.include(part)
        totals = _summed([part.summary["totals"] for part in made])
        rules_applied = _summed([part.summary["rules"] for part in made])
        rejected = _summed([part.summary["rejected"] for part in made])
        if not totals.get("books"):
            raise UserError(
                f"clean: every book was rejected ({_listed(rejected) or 'there were none'}); expected at least one to stay. "
                "Lower `minimum_words` or give longer books."
            )
        context.summary({**totals, "rules": rules_applied, "rejected": rejected})
        context.say(
            f"{totals['books']} books kept, {sum(rejected.values())} rejected ({_listed(rejected) or 'none'}); "
            f"{totals['words_in']:,} words in, {totals['words']:,} out; {_listed(rules_applied) or 'no rule struck'}"
        )


def clean_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Clean the books of one part; write the kept, the rejected and a record of each book."""
    import json

    from gpt1.corpus.clean import CleaningRules, clean
    from gpt1.corpus.parts import read_books, write_books
    from gpt1.corpus.rejected import write_rejected

    rules = CleaningRules(**arguments["rules"])
    everything = [clean(book, rules) for book in read_books(Path(arguments["path"]))]
    kept = [item for item in everything if item.rejected is None]
    rejected = [item for item in everything if item.rejected is not None]
    name = arguments["name"]
    with output.open(f"books/{name}.parquet") as file:
        write_books(file, (item.book for item in kept))
    with output.open(f"rejected/{name}.parquet") as file:
        write_rejected(file, rejected)
    with output.open(f"records/{name}.jsonl") as file:
        for item in everything:
            row = {
                "book": item.book.id,
                "words_before": item.words_before,
                "words": item.words,
                "rules": item.counts,
                "rejected": item.rejected,
                "evidence": item.evidence,
            }
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return {
        "totals": {
            "books": len(kept),
            "words_in": sum(item.words_before for item in everything),
            "words": sum(item.words for item in kept),
            "bytes": sum(len(item.book.text.encode()) for item in kept),
        },
        "rules": _summed([item.counts for item in everything]),
        "rejected": dict(sorted(Counter(str(item.rejected) for item in rejected).items())),
    }


def _summed(tables: list[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return dict(sorted(total.items()))


def _listed(table: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in table.items())


STAGE = Clean()
