"""effect: how much the loss on a book, on its author's other books and on all others rises when
the model has not learned from that book.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gpt1.errors import UserError
from stages.contract import Artifact, Context, Settings, Stage

if TYPE_CHECKING:
    import numpy as np

    from gpt1.data.shards import DocumentSpan

Windows = Sequence[tuple["DocumentSpan", "np.ndarray"]]


class EffectSettings(Settings):
    sequences: int = Field(64, ge=1)
    """Sequences of each book to measure the loss on, evenly spaced."""


@dataclass(frozen=True)
class Loss:
    """The loss of one model on one book, in nats per token."""

    excluded: tuple[str, ...]
    """The books that the model has not learned from."""
    seed: int
    book: str
    author: str | None
    set: str
    sequences: int
    loss: float


@dataclass(frozen=True)
class Effect:
    """Loss without the excluded books less loss with them, in nats per token, the mean over the
    books of a group.
    """

    excluded: str
    group: str
    books: int
    by_seed: Sequence[float]
    mean: float
    half_width: float | None
    """Of the 95 % interval of the mean over the seeds (Student's t); None for one seed."""


class EffectOfBooks(Stage):
    """losses.jsonl: each model's loss on each book; effects.jsonl and effects.md: the effects."""

    settings_model = EffectSettings
    requires = ("pretrain", "shard", "vocabulary")

    @classmethod
    def check(cls, settings: EffectSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        del settings
        rest = [one.model_dump(exclude={"exclude_books"}) for one in upstream["pretrain"]]
        pairs = list(zip(rest, (one.exclude_books for one in upstream["pretrain"]), strict=True))
        if not any(books for _, books in pairs) or any((one, ()) not in pairs for one in rest):
            raise UserError(
                "the pretrain jobs are no pairs with and without books; expected its matrix to have"
                " `exclude_books: [[], [ID]]`, and all else alike in both"
            )
        if len({json.dumps({**one, "seed": 0}, default=str) for one in rest}) > 1:
            raise UserError(
                "the pretrain jobs differ in more than exclude_books and seed; narrow its matrix"
            )

    def run(self, settings: EffectSettings, context: Context) -> None:
        models = context.inputs("pretrain")
        windows = list(_windows(settings.sequences, context, models[0].settings["context"]))
        losses: list[Loss] = []
        for number, model in enumerate(models):
            context.progress(number, len(models), "models")
            losses += _losses(model, windows, context)
        found = list(effects(losses))
        for name, rows in (("losses.jsonl", losses), ("effects.jsonl", found)):
            with context.open(name) as file:
                file.writelines(f"{json.dumps(asdict(row))}\n".encode() for row in rows)
        with context.open("effects.md") as file:
            file.write(table(found).encode())
        context.summary({f"{one.excluded}: {one.group}": one.mean for one in found})
        for one in found:
            context.info(f"without {one.excluded}: {one.group} {figure(one)} nats per token")


def _windows(most: int, context: Context, length: int) -> Iterator[tuple[DocumentSpan, np.ndarray]]:
    """Each book of both sets with its sequences (n, T + 1); without those that have none."""
    import numpy as np

    from gpt1.data.shards import Shards
    from gpt1.train.validation import spread

    shard = context.input("shard")
    books = context.fetch(shard.file("books.parquet"))
    for name in ("train", "held_out"):
        shards = Shards.open([context.fetch(file) for file in shard.under(f"{name}/")], books, name)
        for span, ids in zip(shards.spans, shards, strict=True):
            starts = length * spread((len(ids) - 1) // length, most)
            if len(starts):
                rows = [ids[start : start + length + 1] for start in starts]
                yield span, np.stack(rows).astype(np.int64)


def _losses(model: Artifact, windows: Windows, context: Context) -> Iterator[Loss]:
    import torch

    from gpt1.model.gpt import LanguageModelling
    from gpt1.weights.store import load_model

    torch.set_num_threads(max(1, int(context.resources.cpus)))
    gpt = load_model(context.fetch(model.file("model.safetensors")))
    loss_of = LanguageModelling(gpt).eval()
    excluded, seed = tuple(model.settings["exclude_books"]), model.settings["seed"]
    for span, ids in windows:
        with torch.inference_mode():
            loss = float(loss_of(torch.from_numpy(ids)))
        yield Loss(excluded, seed, span.book, span.author, span.set, len(ids), loss)


def effects(losses: Sequence[Loss]) -> Iterator[Effect]:
    """For each list of excluded books the effect on them, their authors' other books, the other
    training books, and the other held-out books; what has no book is left out.
    """
    loss_of = {(one.excluded, one.seed, one.book): one.loss for one in losses}
    seeds = sorted({one.seed for one in losses})
    books = {one.book: one for one in losses}
    for excluded in dict.fromkeys(one.excluded for one in losses if one.excluded):
        authors = {books[name].author for name in excluded} - {None}
        groups: dict[str, list[str]] = {}
        for name, about in books.items():
            groups.setdefault(_group(about, excluded, authors), []).append(name)
        for group, members in sorted(groups.items()):
            rises = [
                statistics.fmean(
                    loss_of[excluded, seed, name] - loss_of[(), seed, name] for name in members
                )
                for seed in seeds
            ]
            yield Effect(
                ", ".join(excluded), group[1:], len(members), rises, statistics.fmean(rises),
                _half_width(rises),
            )


def _group(book: Loss, excluded: Sequence[str], authors: Iterable[str | None]) -> str:
    """A digit, by which groups are sorted, and the group's name."""
    if book.book in excluded:
        return "1the book"
    if book.author in authors:
        return "2its author's other books"
    return "3other training books" if book.set == "train" else "4other held-out books"


def _half_width(values: Sequence[float]) -> float | None:
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else None


def figure(effect: Effect) -> str:
    """`+0.0123 ± 0.0045`; of one seed without an interval."""
    interval = "" if effect.half_width is None else f" ± {effect.half_width:.4f}"
    return f"{effect.mean:+.4f}{interval}"


def table(found: Sequence[Effect]) -> str:
    """The effects in Markdown."""
    lines = [
        "| excluded | effect on | books | rise of the loss (nats per token) |", "|---|---|---|---|",
        *(f"| {one.excluded} | {one.group} | {one.books} | {figure(one)} |" for one in found),
    ]
    return "\n".join(lines) + "\n"


STAGE = EffectOfBooks()
