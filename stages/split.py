"""split: held-out books, copies, and the unseen tails of training books, decided once for the whole corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from stages.contract import Context, Output, Part, Settings, Stage


class SplitSettings(Settings):
    held_out: float = Field(0.1, gt=0, lt=0.9, description="The share of books held out from training, for validation and tasks.")
    tail: float = Field(
        0.05, ge=0, le=0.5, description="The share at the end of each training book that no stage trains on: passages never seen."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Which books are held out: their ids are hashed with this number.")


class Split(Stage):
    """Signatures are made part by part, the decision over all of them is one table, `split.parquet`."""

    settings_model = SplitSettings
    requires = ("clean",)
    spreads = True

    def run(self, settings: SplitSettings, context: Context) -> None:
        from gpt1.corpus.parts import read_rows
        from gpt1.corpus.split import Signature, decide
        from gpt1.corpus.split_table import write_split

        parts = []
        for file in context.input("clean").under("books/"):
            name = PurePosixPath(file.name).stem
            identity = {"name": name, "books": file.sha256, "tail": settings.tail}
            parts.append(Part(name, identity, {**identity, "path": str(file.path)}))
        made = context.map_parts(sign_part, parts)
        signatures = [Signature(**row) for part in made for file in part.files.values() for row in read_rows(file.path)]
        rows = decide(signatures, settings.held_out, settings.seed)
        with context.open("split.parquet") as file_out:
            write_split(file_out, rows)
        books = Counter(row.set for row in rows)
        characters = Counter[str]()
        for row in rows:
            characters[row.set] += row.length
        tails = sum(row.length - row.tail_start for row in rows if row.tail_start is not None)
        figures = {"train": books["train"], "held_out": books["held_out"], "duplicate": books["duplicate"]}
        context.summary(
            {
                **{f"{name}_books": number for name, number in figures.items()},
                **{f"{name}_characters": characters[name] for name in figures},
                "tail_characters": tails,
            }
        )
        context.say(
            f"{books['train']} books to train on, {books['held_out']} held out ({characters['held_out'] / 1e6:.2f} M characters), "
            f"{books['duplicate']} copies left out; {tails / 1e6:.2f} M characters of unseen tails"
        )


def sign_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """The signature of each book of one part."""
    import pyarrow as pa

    from gpt1.corpus.parts import read_books, write_table
    from gpt1.corpus.split import Signature, tail_start, text_digest

    schema = pa.schema(
        [("book", pa.string()), ("part", pa.string()), ("digest", pa.string()), ("length", pa.int64()), ("tail_start", pa.int64())]
    )
    name = arguments["name"]
    rows = [
        Signature(book.id, name, text_digest(book.text), len(book.text), tail_start(book.text, arguments["tail"]))
        for book in read_books(Path(arguments["path"]))
    ]
    with output.open(f"signatures/{name}.parquet") as file:
        write_table(file, schema, [vars(row) for row in rows])
    return {"books": len(rows)}


STAGE = Split()
