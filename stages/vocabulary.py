"""vocabulary: count words part by part, learn BPE merges, write both in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.contract import (
    Artifact,
    Context,
    ExternalFile,
    Output,
    Part,
    Settings,
    SizedVocabulary,
    Stage,
    StoredFile,
    runtime_field,
)

if TYPE_CHECKING:
    from gpt1.tokenizer.vocabulary import Vocabulary

LEARN = "learn"
FAN_IN = 8
"""How many tables of counts are merged into one."""


class VocabularySettings(Settings):
    source: str = runtime_field(
        LEARN,
        "`learn`, or a published vocabulary (a folder or `hf://openai-community/openai-gpt`),"
        " fingerprinted by content. The other settings apply only to `learn`.",
        min_length=1,
    )
    num_merges: int = Field(
        40_000, ge=1, le=200_000, description="Maximum number of BPE merges to learn.",
    )
    limit_alphabet: int = Field(
        238, ge=1, le=20_000, description="Keep only the N most frequent characters.",
    )
    min_frequency: int = Field(
        2, ge=1, le=1_000_000, description="Minimum count of a pair to merge.",
    )


class VocabularyStage(Stage, SizedVocabulary):
    """Only training text shapes the vocabulary: neither held-out books nor copies nor tails."""

    version = 2
    settings_model = VocabularySettings
    requires = ("clean", "split")
    is_coordinator = True

    @classmethod
    def external_files(cls, settings: VocabularySettings) -> list[ExternalFile]:
        if settings.source == LEARN:
            return []
        from gpt1.tokenizer.vocabulary import vocabulary_files

        encoder, merges = vocabulary_files(settings.source)
        return [ExternalFile("encoder", encoder), ExternalFile("merges", merges)]

    @staticmethod
    def expected_size(settings: VocabularySettings) -> int:
        """The most tokens that the settings can give: <unk>, characters in two forms, merges,
        the line break.
        """
        return 1 + 2 * settings.limit_alphabet + settings.num_merges + 1

    def run(self, settings: VocabularySettings, context: Context) -> None:
        if context.external_files:
            _take(context)
            return
        counted = context.map_parts(count_part, _parts(context))
        words = sum(part.summary["words"] for part in counted)
        tables = _merged(context, counted)
        context.info(f"{words:,} words counted; learning up to {settings.num_merges:,} merges")
        asked = settings.model_dump(exclude={"source"})
        identity = {"counts": _digests(tables), "settings": asked}
        arguments = {"paths": _files(tables), "settings": asked, "reporter": context.reporter}
        [learned] = context.map_parts(learn_part, [Part("merges", identity, arguments)])
        context.add_files_of(learned)
        figures = learned.summary
        context.summary({"words": words, **figures})
        context.info(
            f"{figures['merges']:,} merges over {figures['word_types']:,} word types;"
            f" {figures['vocabulary']:,} tokens, {figures['characters']} characters"
            f" ({figures['characters_left_out']} rare ones dropped)"
        )
        if figures["merges"] < settings.num_merges:
            context.info(
                f"fewer merges than `num_merges`: no other pair occurs {settings.min_frequency}"
                " times"
            )


def _take(context: Context) -> None:
    """A published vocabulary, checked and passed on: nothing is counted or learned."""
    from gpt1.tokenizer.vocabulary import Vocabulary

    files = {file.name: file.path for file in context.external_files}
    vocabulary = Vocabulary.read(files["encoder"], files["merges"])
    written = _write(vocabulary, context)
    context.summary({"merges": len(vocabulary.merges), **written})
    context.info(
        f"using a published vocabulary: {vocabulary.size:,} tokens, {len(vocabulary.merges):,}"
        " merges"
    )


def _write(vocabulary: Vocabulary, output: Output) -> dict[str, Any]:
    """Write the vocabulary's files; returns what the summary says of them."""
    encoder_name, merges_name = vocabulary.file_names
    contents = {encoder_name: vocabulary.encoder_bytes(), merges_name: vocabulary.merges_bytes()}
    tokenizer = vocabulary.tokenizer_bytes()
    if tokenizer is not None:
        contents["tokenizer.json"] = tokenizer
    for name, content in contents.items():
        with output.open(name) as file:
            file.write(content)
    return {
        "vocabulary": vocabulary.size, "sha256": vocabulary.sha256,
        "tokenizer_json": tokenizer is not None,
    }


def _parts(context: Context) -> list[Part]:
    """A part for each part of clean; of the split only its own rows matter, so that an added
    book recounts one part.
    """
    from gpt1.corpus.split import read_split, rows_by_part

    rows = rows_by_part(read_split(context.fetch(context.input("split").file("split.parquet"))))
    parts = []
    for file in context.input("clean").under("books/"):
        name = PurePosixPath(file.name).stem
        train = [[row.book, row.tail_start] for row in rows.get(name, []) if row.set == "train"]
        identity = {"name": name, "books": file.sha256, "train": train}
        parts.append(Part(name, identity, {**identity, "path": file}))
    return parts


def _merged(context: Context, tables: list[Artifact]) -> list[Artifact]:
    """At most FAN_IN tables with the counts of all: merged in groups, level by level, so that
    one changed table costs one path.
    """
    level = 0
    while len(tables) > FAN_IN:
        level += 1
        groups = [tables[at : at + FAN_IN] for at in range(0, len(tables), FAN_IN)]
        parts = [
            Part(
                f"level-{level}-{number:04d}", {"counts": _digests(group)}, {"paths": _files(group)}
            )
            for number, group in enumerate(groups)
        ]
        tables = context.map_parts(merge_part, parts)
    return tables


def _digests(tables: Sequence[Artifact]) -> list[str]:
    return [file.sha256 for table in tables for file in table.files.values()]


def _files(tables: Sequence[Artifact]) -> list[StoredFile]:
    return [file for table in tables for file in table.files.values()]


def count_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Count the words of one part's training text."""
    from collections import Counter

    from gpt1.corpus.parquet_io import read_books
    from gpt1.tokenizer.count_table import write_counts
    from gpt1.tokenizer.words import count_words

    ends: dict[str, int | None] = dict(arguments["train"])
    counts: Counter[str] = Counter()
    for book in read_books(Path(arguments["path"])):
        if book.id in ends:
            counts.update(count_words(book.text[: ends[book.id]]))
    with output.open(f"counts/{arguments['name']}.parquet") as file:
        write_counts(file, counts)
    return {"words": counts.total(), "word_types": len(counts)}


def merge_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Some tables of counts as one."""
    from gpt1.tokenizer.count_table import merge_counts

    with output.open("counts.parquet") as file:
        return {"word_types": merge_counts(file, [Path(path) for path in arguments["paths"]])}


def learn_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Learn the vocabulary on the summed tables of counts."""
    from gpt1.errors import UserError
    from gpt1.tokenizer.bpe_train import learn_merges
    from gpt1.tokenizer.count_table import read_counts
    from gpt1.tokenizer.vocabulary import Vocabulary, alphabet

    settings = VocabularySettings.model_validate(arguments["settings"])
    reporter = arguments["reporter"]
    counts = read_counts([Path(path) for path in arguments["paths"]])
    merges = learn_merges(
        counts,
        settings.num_merges,
        settings.min_frequency,
        lambda done: reporter.progress(
            done, settings.num_merges, "merges", f"{len(counts):,} word types"
        ),
    )
    if not merges:
        raise UserError(
            f"vocabulary: no pair of symbols occurs {settings.min_frequency} times in"
            f" {sum(counts.values()):,} words, so there is nothing to merge. Add text or lower"
            " `min_frequency`."
        )
    characters = alphabet(counts, settings.limit_alphabet)
    written = _write(Vocabulary.from_merges(characters, merges), output)
    return {
        "word_types": len(counts),
        "merges": len(merges),
        "characters": len(characters),
        "characters_left_out": (
            len({character for word in counts for character in word}) - len(characters)
        ),
        **written,
    }


STAGE = VocabularyStage()
