"""shard: tokenize the books into one Arrow file per part and set, with an index of books."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from gpt1.corpus.document import read_books
from gpt1.corpus.rules.rule import shuffle_sentences
from stages.contract import (
    Artifact,
    Context,
    Output,
    Part,
    Settings,
    Stage,
    parts_of_books,
    runtime_field,
)

if TYPE_CHECKING:
    from gpt1.tokenizer.tokenizer import Tokenizer

SETS: tuple[Literal["train", "held_out"], ...] = ("train", "held_out")


class ShardSettings(Settings):
    baseline_tokens: int = Field(
        20_000_000, ge=1_000, le=500_000_000,
        description="Maximum number of tokens per set for the n-gram baselines.",
    )
    train_fraction: float = runtime_field(
        1.0, "Fraction of the training books to use, chosen by a hash of their ids: 1/8 is a subset"
        " of 1/4. The vocabulary, the held-out books and the tasks stay the same.",
        unless="train_fraction", gt=0, le=1,
    )  # fmt: skip
    sentence_order: Literal["text", "shuffled"] = runtime_field(
        "text", "`shuffled`: a random order of the sentences of each training book, by its digest;"
        " line breaks between sentences stay where they are.",
        unless="sentence_order",
    )  # fmt: skip


class Shard(Stage):
    """Training books end where their tail begins; held-out books are whole; copies are left out."""

    version = 2
    settings_model = ShardSettings
    requires = ("clean", "split", "vocabulary")
    is_coordinator = True

    def run(self, settings: ShardSettings, context: Context) -> None:
        from gpt1.data.shards import read_spans, write_spans

        vocabulary = context.input("vocabulary")
        encoded = context.map_parts(encode_part, _parts(settings, context, vocabulary))
        spans = [file for part in encoded for file in part.under("spans/")]
        with context.open("books.parquet") as file:  # the parts' tables, one after another
            write_spans(file, [span for one in spans for span in read_spans(context.fetch(one))])
        shards = []
        for part in encoded:
            files = [file for chosen in SETS for file in part.under(f"{chosen}/")]
            context.add_files_of(replace(part, files={file.name: file for file in files}))
            shards += files
        identity = {
            "shards": {file.name: file.sha256 for file in shards},
            "limit": settings.baseline_tokens, "vocabulary": int(vocabulary.summary["vocabulary"]),
        }
        arguments = {**identity, "paths": shards, "spans": spans}
        [baseline] = context.map_parts(baseline_part, [Part("baseline", identity, arguments)])
        figures = {**_totals(encoded), **baseline.summary}
        with context.open("shards.json") as file:
            file.write(json.dumps(figures, indent=2, sort_keys=True).encode() + b"\n")
        context.summary(figures)
        context.info(
            f"{figures['train_tokens']:,} training tokens, {figures['held_out_tokens']:,} held out;"
            f" {figures['tokens_per_word']:.3f} tokens per word, {figures['tokens_per_byte']:.4f}"
            f" per byte, {figures['unknown_rate']:.2e} unknown"
        )
        if figures["unigram_perplexity"] is not None:
            context.info(
                f"held-out perplexity of n-grams: unigram {figures['unigram_perplexity']:.1f}"
                f" (add-one), bigram {figures['bigram_perplexity']:.1f} (Witten-Bell)"
            )


def _parts(settings: ShardSettings, context: Context, vocabulary: Artifact) -> list[Part]:
    from gpt1.corpus.split import books_by_part

    table = context.fetch(context.input("split").file("split.parquet"))
    rows = books_by_part(table, SETS, settings.train_fraction)
    about = {"vocabulary": vocabulary.summary["sha256"]}
    if settings.sentence_order == "shuffled":
        about["sentence_order"] = "shuffled"
    encoder, merges = (vocabulary.under(prefix)[0] for prefix in ("encoder_bpe_", "vocab_"))
    return parts_of_books(
        context.input("clean"), lambda name: {"rows": rows[name], **about},
        encoder=encoder, merges=merges,
    )  # fmt: skip


def encode_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Encode the books of one part; a set without books in this part has no file."""
    import numpy as np

    from gpt1.data.shards import DocumentSpan, id_type, ids_sha256, write_shard, write_spans

    tokenizer = _tokenizer(arguments["encoder"], arguments["merges"])
    vocabulary = tokenizer.vocabulary
    name = arguments["name"]
    rows = {book: (chosen, end) for book, chosen, end in arguments["rows"]}
    pieces: dict[str, list[Any]] = {chosen: [] for chosen in SETS}
    spans: list[DocumentSpan] = []
    summary = {"words": 0, "bytes": 0, "unknown": 0, **{f"{chosen}_tokens": 0 for chosen in SETS}}
    for book in read_books(Path(arguments["path"])):
        if book.id not in rows:
            continue
        chosen, end = rows[book.id]
        text = book.text[:end]
        if chosen == "train" and "sentence_order" in arguments:
            text = shuffle_sentences(text, one_a_line=book.form == "sentences")
        encoded = tokenizer.encode_array(text)
        ids: Any = encoded.ids.astype(id_type(vocabulary.size), copy=False)
        pieces[chosen].append(ids)
        spans.append(
            DocumentSpan(
                book.id, book.title, book.author, book.source, name, chosen,
                start=summary[f"{chosen}_tokens"], length=len(ids), sha256=ids_sha256(ids),
                cleaning=f"records/{name}.jsonl",
            )
        )  # fmt: skip
        summary[f"{chosen}_tokens"] += len(ids)
        summary["words"] += encoded.words
        summary["bytes"] += len(text.encode())
        summary["unknown"] += encoded.unknown
    for chosen, arrays in pieces.items():
        if arrays:
            about = {"vocabulary": vocabulary.sha256, "set": chosen, "part": name}
            with output.open(f"{chosen}/{name}.arrow") as file:
                write_shard(file, np.concatenate(arrays), about)
    with output.open(f"spans/{name}.parquet") as file:
        write_spans(file, spans)
    return summary


@lru_cache(maxsize=1)
def _tokenizer(encoder: str, merges: str) -> Tokenizer:
    """This process's tokenizer, with the words it has met: a worker makes many parts."""
    from gpt1.tokenizer.tokenizer import Tokenizer
    from gpt1.tokenizer.vocabulary import Vocabulary

    return Tokenizer(Vocabulary.read(Path(encoder), Path(merges)))


def baseline_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """The n-gram perplexities of the held-out books."""
    del output
    from gpt1.data.ngram import baseline
    from gpt1.data.shards import Ids, open_shard, read_spans

    shards = [open_shard(Path(path)) for path in arguments["paths"]]
    ids = {(shard.set, shard.part): shard.ids for shard in shards}
    spans = (span for path in arguments["spans"] for span in read_spans(Path(path)))
    books: dict[str, list[Ids]] = {chosen: [] for chosen in SETS}
    for span in spans:
        books[span.set].append(ids[span.set, span.part][span.start : span.start + span.length])
    found = baseline(books["train"], books["held_out"], arguments["vocabulary"], arguments["limit"])
    unigram, bigram, targets, trained_on = astuple(found) if found else (None, None, 0, 0)
    return {
        "unigram_perplexity": unigram, "bigram_perplexity": bigram, "baseline_targets": targets,
        "baseline_trained_on": trained_on,
    }


def _totals(encoded: list[Artifact]) -> dict[str, Any]:
    keys = ("train_tokens", "held_out_tokens", "words", "bytes", "unknown")
    totals: dict[str, Any] = {key: sum(part.summary[key] for part in encoded) for key in keys}
    tokens = totals["train_tokens"] + totals["held_out_tokens"]
    return {
        **totals, "tokens_per_word": tokens / max(1, totals["words"]),
        "bytes_per_token": totals["bytes"] / max(1, tokens),
        "tokens_per_byte": tokens / max(1, totals["bytes"]),
        "unknown_rate": totals["unknown"] / max(1, tokens),
    }


STAGE = Shard()
