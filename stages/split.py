"""split: held-out books, copies, and the unseen tails of training books, decided once for the
whole corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from gpt1.wording import counted
from stages.contract import Artifact, Context, Output, Part, Settings, Stage

if TYPE_CHECKING:
    from gpt1.corpus.split import SplitRow

SETS = ("train", "held_out", "duplicate", "near_duplicate")


class SplitSettings(Settings):
    held_out: float = Field(
        0.1, gt=0, lt=0.9,
        description="The share of books held out from training, for validation and tasks; exact for"
        " fewer than 200 books.",
    )  # fmt: skip
    held_out_tail: float = Field(
        0.05, ge=0, le=0.5,
        description="Share at the end of each training book that is never trained on.",
    )
    seed: int = Field(
        0, ge=0, le=2**31 - 1,
        description="Seed of the hash that decides which books are held out.",
    )
    near_duplicates: bool = Field(
        True,
        description="Leave out near copies; `false`: only books with exactly the same words.",
    )
    near_duplicate_threshold: float = Field(
        0.6,
        ge=0.3,
        le=1,
        description=(
            "A book is a near copy if a longer one has this share of its runs of five words."
        ),
    )
    related_threshold: float = Field(
        0.3, ge=0.05, le=1,
        description="From this share on two books stay on the same side of the split.",
    )
    num_perm: int = Field(
        128, ge=32, le=1024,
        description="Permutations of the MinHash; more find shorter stories in larger collections.",
    )

    @model_validator(mode="after")
    def _ties_before_copies(self) -> Self:
        if self.related_threshold > self.near_duplicate_threshold:
            raise ValueError(
                f"related_threshold is {self.related_threshold} and near_duplicate_threshold"
                f" {self.near_duplicate_threshold}; expected related_threshold not above"
                " near_duplicate_threshold, because a near copy always stays on the side of its"
                " book"
            )
        return self


class Split(Stage):
    """Signatures are made part by part, the decision over all of them is one table,
    `split.parquet`.
    """

    version = 3  # of few books the held-out number is exact
    settings_model = SplitSettings
    requires = ("clean",)
    is_coordinator = True

    def run(self, settings: SplitSettings, context: Context) -> None:
        from gpt1.corpus.split import NearRules, decide
        from gpt1.corpus.split_table import read_signatures, write_split

        made = context.map_parts(sign_part, _parts(settings, context.input("clean")))
        signatures = [
            item
            for part in made
            for file in part.files.values()
            for item in read_signatures(file.path)
        ]
        near = (
            NearRules(settings.near_duplicate_threshold, settings.related_threshold)
            if settings.near_duplicates
            else None
        )
        rows = decide(signatures, settings.held_out, settings.seed, near)
        with context.open("split.parquet") as file_out:
            write_split(file_out, rows)
        figures = _figures(rows) | {
            "not_compared_books": sum(not item.minhash for item in signatures) if near else 0
        }
        context.summary(figures)
        context.info(_said(figures))
        if far := _far(figures, settings.held_out):
            context.info(far)
        if figures["not_compared_books"]:
            context.info(
                f"{figures['not_compared_books']} runs of sentences were not checked for near"
                " copies: they have no book boundaries, so only runs with exactly the same words"
                " were skipped"
            )


def _parts(settings: SplitSettings, clean: Artifact) -> list[Part]:
    permutations = settings.num_perm if settings.near_duplicates else 0
    parts = []
    for file in clean.under("books/"):
        name = PurePosixPath(file.name).stem
        identity = {
            "name": name, "books": file.sha256, "tail": settings.held_out_tail,
            "permutations": permutations,
        }
        parts.append(Part(name, identity, {**identity, "path": str(file.path)}))
    return parts


def sign_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """The signature of each book of one part."""
    from gpt1.corpus.parts import read_books
    from gpt1.corpus.signatures import WordHashes, sign
    from gpt1.corpus.split import tail_start
    from gpt1.corpus.split_table import write_signatures

    name, tail, permutations = (arguments[key] for key in ("name", "tail", "permutations"))
    hashes = WordHashes()
    signed = (
        sign(book, name, tail_start(book.text, tail), permutations, hashes)
        for book in read_books(Path(arguments["path"]))
    )
    with output.open(f"signatures/{name}.parquet") as file:
        return {"books": write_signatures(file, signed)}


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


def _said(figures: Mapping[str, int]) -> str:
    return (
        f"{counted(figures['train_books'], 'book')} to train on, {figures['held_out_books']} held"
        f" out ({figures['held_out_characters'] / 1e6:.2f} M characters); left out:"
        f" {counted(figures['duplicate_books'], 'copy', 'copies')},"
        f" {counted(figures['near_duplicate_books'], 'near copy', 'near copies')}; books that share"
        f" text with others of their side: {figures['tied_books']}, at most"
        f" {figures['largest_group_books']} together; {figures['tail_characters'] / 1e6:.2f} M"
        " characters of unseen tails"
    )


def _far(figures: Mapping[str, int], wanted: float) -> str | None:
    """A warning where the share of books held out is off by more than half."""
    books = figures["train_books"] + figures["held_out_books"]
    share = figures["held_out_books"] / books
    if wanted / 2 <= share <= 1.5 * wanted:
        return None
    return (
        f"warning: {figures['held_out_books']} of {counted(books, 'book')} held out, {share:.2%}; "
        f"`held_out` asks for {wanted:.2%}. Another `seed` or more books can bring a nearer share"
    )


STAGE = Split()
