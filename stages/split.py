"""split: choose held-out books, duplicates and held-out tails once for the complete corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from gpt1.corpus.document import read_books, read_rows, write_rows, write_table
from gpt1.format import counted
from stages.contract import Context, Output, Settings, Stage, parts_of_books

if TYPE_CHECKING:
    from gpt1.corpus.split import SplitRow

SETS = ("train", "held_out", "duplicate", "near_duplicate")


class SplitSettings(Settings):
    held_out: float = Field(
        0.1, gt=0, lt=0.9,
        description="Fraction of books held out for validation and tasks; exact below 200 books.",
    )  # fmt: skip
    held_out_tail: float = Field(
        0.05, ge=0, le=0.5,
        description="Fraction at the end of each training book that is never trained on.",
    )  # fmt: skip
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="Seed of the hash that selects the held-out books."
    )
    near_duplicates: bool = Field(
        True, description="Exclude near copies; `false`: only books with exactly the same words."
    )
    near_duplicate_threshold: float = Field(
        0.6, ge=0.3, le=1,
        description="A book is a near copy if a longer one contains this fraction of its five-word"
        " runs.",
    )  # fmt: skip
    related_threshold: float = Field(
        0.3, ge=0.05, le=1,
        description="Two books that share at least this fraction stay on the same side of the"
        " split.",
    )  # fmt: skip
    num_perm: int = Field(
        128, ge=32, le=1024,
        description="MinHash permutations; more of them find shorter stories in larger"
        " collections.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _ties_before_copies(self) -> Self:
        if self.related_threshold > self.near_duplicate_threshold:
            raise ValueError(
                f"related_threshold {self.related_threshold} is above near_duplicate_threshold"
                f" {self.near_duplicate_threshold}; lower it, because a near copy always stays on"
                " the side of its book"
            )
        return self


class Split(Stage):
    """Signatures are made part by part, the decision over all of them is one table,
    `split.parquet`.
    """

    version = 4  # a near copy ties no other books together
    settings_model = SplitSettings
    requires = ("clean",)
    is_coordinator = True

    def run(self, settings: SplitSettings, context: Context) -> None:
        from gpt1.corpus.split import SPLIT, NearRules, Signature, decide

        permutations = settings.num_perm if settings.near_duplicates else 0
        signed = {"tail": settings.held_out_tail, "permutations": permutations}
        made = context.map_parts(
            sign_part, parts_of_books(context.input("clean"), lambda _: signed)
        )
        signatures = [
            Signature(**row)
            for part in made
            for file in part.files.values()
            for row in read_rows(context.fetch(file))
        ]
        near = None
        if settings.near_duplicates:
            near = NearRules(settings.near_duplicate_threshold, settings.related_threshold)
        rows = decide(signatures, settings.held_out, settings.seed, near)
        with context.open("split.parquet") as file_out:
            write_table(file_out, SPLIT, [vars(row) for row in rows])
        figures = _figures(rows) | {
            "not_compared_books": sum(not item.minhash for item in signatures) if near else 0
        }
        context.summary(figures)
        context.info(_sentence(figures))
        if warning := _warning(figures, settings.held_out):
            context.info(warning)
        if figures["not_compared_books"]:
            context.info(
                f"{figures['not_compared_books']} runs of sentences were not checked for near"
                " copies: they have no book boundaries, so only runs with exactly the same words"
                " were excluded"
            )


def sign_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """The signature of each book of one part."""
    from gpt1.corpus.split import SIGNATURES, WordHashes, sign, tail_start

    name, tail, permutations = (arguments[key] for key in ("name", "tail", "permutations"))
    hashes = WordHashes()
    signed = (
        sign(book, name, tail_start(book.text, tail), permutations, hashes)
        for book in read_books(Path(arguments["path"]))
    )
    with output.open(f"signatures/{name}.parquet") as file:
        return {"books": write_rows(file, SIGNATURES, map(vars, signed))}


def _figures(rows: Sequence[SplitRow]) -> dict[str, int]:
    books = Counter[str](row.set for row in rows)
    characters = Counter[str]()
    for row in rows:
        characters[row.set] += row.length
    in_group = Counter(row.group for row in rows if row.copy_of is None)
    return {
        **{f"{name}_books": books[name] for name in SETS},
        **{f"{name}_characters": characters[name] for name in SETS},
        "tail_characters": sum(
            row.length - row.tail_start for row in rows if row.tail_start is not None
        ),
        "tied_books": sum(number for number in in_group.values() if number > 1),
        "largest_group_books": max(in_group.values()),
    }


def _sentence(figures: Mapping[str, int]) -> str:
    return (
        f"{counted(figures['train_books'], 'book')} for training, {figures['held_out_books']} held"
        f" out ({figures['held_out_characters'] / 1e6:.2f} M characters); excluded:"
        f" {counted(figures['duplicate_books'], 'copy', 'copies')},"
        f" {counted(figures['near_duplicate_books'], 'near copy', 'near copies')}; books that share"
        f" text with others on their side: {figures['tied_books']} (largest group:"
        f" {figures['largest_group_books']}); {figures['tail_characters'] / 1e6:.2f} M characters"
        " of held-out tails"
    )


def _warning(figures: Mapping[str, int], wanted: float) -> str | None:
    """A warning where the share of books held out is off by more than half."""
    books = figures["train_books"] + figures["held_out_books"]
    share = figures["held_out_books"] / books
    if wanted / 2 <= share <= 1.5 * wanted:
        return None
    return (
        f"warning: {figures['held_out_books']} of {counted(books, 'book')} held out ({share:.2%});"
        f" `held_out` asks for {wanted:.2%}. Try another `seed` or add books"
    )


STAGE = Split()
