"""shard: tokenize the books into one Arrow file per part and set, with an index of books."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.contract import Artifact, Context, Output, Part, Settings, Stage

if TYPE_CHECKING:
    from gpt1.tokenizer.tokenizer import TextEncoder

SETS = ("train", "held_out")


class ShardSettings(Settings):
    baseline_tokens: int = Field(
        20_000_000, ge=1_000, le=500_000_000,
        description="Maximum number of tokens per set for the n-gram baselines.",
    )


class Shard(Stage):
    """Training books end where their tail begins; held-out books are whole; copies are left out."""

    version = 2
    settings_model = ShardSettings
    requires = ("clean", "split", "vocabulary")
    is_coordinator = True

    def run(self, settings: ShardSettings, context: Context) -> None:
        vocabulary = context.input("vocabulary")
        encoded = context.map_parts(encode_part, _parts(context, vocabulary))
        totals = _totals(encoded)
        with context.open("books.parquet") as file:
            file.write(_books(context, encoded))
        for part in encoded:
            for name in _shard_names(part):
                context.add_files_of(_only(part, name))
        figures = {**totals, **self._baseline(settings, context, encoded, vocabulary)}
        with context.open("shards.json") as file:
            file.write(json.dumps(figures, indent=2, sort_keys=True).encode() + b"\n")
        context.summary(figures)
        context.info(
            f"{totals['train_tokens']:,} training tokens, {totals['held_out_tokens']:,} held out;"
            f" {totals['tokens_per_word']:.3f} tokens per word, {totals['tokens_per_byte']:.4f} per"
            f" byte, {totals['unknown_rate']:.2e} unknown"
        )
        if figures["unigram_perplexity"] is not None:
            context.info(
                f"held-out perplexity of n-grams: unigram {figures['unigram_perplexity']:.1f}"
                f" (add-one), bigram {figures['bigram_perplexity']:.1f} (Witten-Bell)"
            )

    def _baseline(
        self, settings: ShardSettings, context: Context, encoded: list[Artifact],
        vocabulary: Artifact,
    ) -> dict[str, float | int | None]:
        files = [part.files[name] for part in encoded for name in _shard_names(part)]
        size = int(vocabulary.summary["vocabulary"])
        identity = {
            "shards": {file.name: file.sha256 for file in files}, "limit": settings.baseline_tokens,
            "vocabulary": size,
        }
        spans = [file for part in encoded for file in part.under("spans/")]
        arguments = {**identity, "paths": files, "spans": spans}
        [made] = context.map_parts(baseline_part, [Part("baseline", identity, arguments)])
        return dict(made.summary)


def _parts(context: Context, vocabulary: Artifact) -> list[Part]:
    """Of the split only a part's own rows matter: one added book encodes one part anew, if the
    vocabulary stays as it is.
    """
    from gpt1.corpus.split import read_split, rows_by_part

    rows = rows_by_part(read_split(context.fetch(context.input("split").file("split.parquet"))))
    encoder, merges = (vocabulary.under(prefix)[0] for prefix in ("encoder_bpe_", "vocab_"))
    parts = []
    for file in context.input("clean").under("books/"):
        name = PurePosixPath(file.name).stem
        wanted = [
            [row.book, row.set, row.tail_start] for row in rows.get(name, []) if row.set in SETS
        ]
        identity = {
            "name": name, "books": file.sha256, "rows": wanted,
            "vocabulary": vocabulary.summary["sha256"],
        }
        parts.append(
            Part(
                name,
                identity,
                {
                    **identity, "path": file, "encoder": encoder, "merges": merges,
                },
            )
        )
    return parts


def encode_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Encode the books of one part; a set without books in this part has no file."""
    import numpy as np

    from gpt1.corpus.parquet_io import read_books
    from gpt1.data.shards import DocumentSpan, id_type, ids_sha256, write_shard, write_spans

    encoder = _encoder(arguments["encoder"], arguments["merges"], arguments["vocabulary"])
    vocabulary = encoder.vocabulary
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
        encoded = encoder.encode_array(text)
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
            with output.open(f"{chosen}/{name}.arrow") as file:
                write_shard(
                    file, np.concatenate(arrays),
                    {"vocabulary": vocabulary.sha256, "set": chosen, "part": name},
                )
    with output.open(f"spans/{name}.parquet") as file:
        write_spans(file, spans)
    return summary


@lru_cache(maxsize=1)
def _encoder(encoder: str, merges: str, sha256: str) -> TextEncoder:
    """This process's encoder, with the words it has met: a worker makes many parts.

    UserError when the files have changed.
    """
    from gpt1.errors import UserError
    from gpt1.tokenizer.tokenizer import TextEncoder
    from gpt1.tokenizer.vocabulary import Vocabulary

    vocabulary = Vocabulary.read(Path(encoder), Path(merges))
    if vocabulary.sha256 != sha256:
        found = vocabulary.sha256[:12]
        raise UserError(
            f"{encoder}: vocabulary {found}, expected {sha256[:12]}; run the vocabulary stage"
            " again."
        )
    return TextEncoder(vocabulary)


def baseline_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """The n-gram perplexities of the held-out books."""
    del output
    from gpt1.data.ngram import baseline

    train, held_out = (_ids_of(arguments, chosen) for chosen in SETS)
    found = baseline(train, held_out, arguments["vocabulary"], arguments["limit"])
    return {
        "unigram_perplexity": found.unigram if found else None,
        "bigram_perplexity": found.bigram if found else None,
        "baseline_targets": found.targets if found else 0,
        "baseline_trained_on": found.trained_on if found else 0,
    }


def _ids_of(arguments: Mapping[str, Any], chosen: str) -> list[Any]:
    """The ids of each book of a set, in the order of the parts."""
    from gpt1.data.shards import open_shard, read_spans

    shards = {
        shard.part: shard
        for path in arguments["paths"]
        if (shard := open_shard(Path(path))).set == chosen
    }
    spans = [
        span for path in arguments["spans"] for span in read_spans(Path(path)) if span.set == chosen
    ]
    return [shards[span.part].ids[span.start : span.start + span.length] for span in spans]


def _books(context: Context, encoded: list[Artifact]) -> bytes:
    """books.parquet: the parts' tables, one after another."""
    import io

    from gpt1.data.shards import read_spans, write_spans

    out = io.BytesIO()
    write_spans(
        out,
        [
            span
            for part in encoded
            for file in part.under("spans/")
            for span in read_spans(context.fetch(file))
        ],
    )
    return out.getvalue()


def _totals(encoded: list[Artifact]) -> dict[str, Any]:
    keys = ("train_tokens", "held_out_tokens", "words", "bytes", "unknown")
    totals: dict[str, Any] = {key: sum(part.summary[key] for part in encoded) for key in keys}
    tokens = totals["train_tokens"] + totals["held_out_tokens"]
    totals["tokens_per_word"] = tokens / max(1, totals["words"])
    totals["bytes_per_token"] = totals["bytes"] / max(1, tokens)
    totals["tokens_per_byte"] = tokens / max(1, totals["bytes"])
    totals["unknown_rate"] = totals["unknown"] / max(1, tokens)
    return totals


def _shard_names(part: Artifact) -> list[str]:
    return [file.name for chosen in SETS for file in part.under(f"{chosen}/")]


def _only(part: Artifact, name: str) -> Artifact:
    """The part with one of its files, to be included alone."""
    from dataclasses import replace

    return replace(part, files={name: part.files[name]})


STAGE = Shard()
