"""vocabulary: count words part by part, learn BPE merges, write both in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gpt1.corpus.document import read_books
from stages.contract import (
    Artifact,
    Context,
    ExternalFile,
    Output,
    Part,
    Settings,
    SizedVocabulary,
    Stage,
    parts_of_books,
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
        figures = _take(context) if context.external_files else _learn(settings, context)
        context.summary(figures)


def _take(context: Context) -> dict[str, Any]:
    """A published vocabulary, checked and passed on: nothing is counted or learned."""
    from gpt1.tokenizer.vocabulary import Vocabulary

    files = {file.name: file.path for file in context.external_files}
    vocabulary = Vocabulary.read(files["encoder"], files["merges"])
    number = len(vocabulary.merges)
    context.info(f"using a published vocabulary: {vocabulary.size:,} tokens, {number:,} merges")
    return {"merges": number, **_write(vocabulary, context)}


def _learn(settings: VocabularySettings, context: Context) -> dict[str, Any]:
    """Counted part by part, merged in groups, learned by one part."""
    from gpt1.corpus.split import books_by_part

    table = context.fetch(context.input("split").file("split.parquet"))
    rows = books_by_part(table, ["train"])
    parts = parts_of_books(context.input("clean"), lambda name: {"rows": rows[name]})
    counted = context.map_parts(count_part, parts)
    words = sum(part.summary["words"] for part in counted)
    tables = _merged(context, counted)
    context.info(f"{words:,} words counted; learning up to {settings.num_merges:,} merges")
    asked = {"settings": settings.model_dump(exclude={"source"})}
    part = _part("merges", tables, asked, reporter=context.reporter)
    [learned] = context.map_parts(learn_part, [part])
    context.add_files_of(learned)
    figures = learned.summary
    context.info(
        f"{figures['merges']:,} merges over {figures['word_types']:,} word types;"
        f" {figures['vocabulary']:,} tokens, {figures['characters']} characters"
        f" ({figures['characters_left_out']} rare ones dropped)"
    )
    if figures["merges"] < settings.num_merges:
        least = settings.min_frequency
        context.info(f"fewer merges than `num_merges`: no other pair occurs {least} times")
    return {"words": words, **figures}


def _write(vocabulary: Vocabulary, output: Output) -> dict[str, Any]:
    """Write the vocabulary's files; returns what the summary says of them."""
    tokenizer = vocabulary.tokenizer_bytes()
    extra = {} if tokenizer is None else {"tokenizer.json": tokenizer}
    for name, content in {**vocabulary.files(), **extra}.items():
        with output.open(name) as file:
            file.write(content)
    about = {"vocabulary": vocabulary.size, "sha256": vocabulary.sha256}
    return {**about, "tokenizer_json": tokenizer is not None}


def _merged(context: Context, tables: list[Artifact]) -> list[Artifact]:
    """At most FAN_IN tables with the counts of all: merged in groups, level by level, so that
    one changed table costs one path.
    """
    level = 0
    while len(tables) > FAN_IN:
        level += 1
        groups = [tables[at : at + FAN_IN] for at in range(0, len(tables), FAN_IN)]
        parts = [_part(f"level-{level}-{at:04d}", group, {}) for at, group in enumerate(groups)]
        tables = context.map_parts(merge_part, parts)
    return tables


def _part(
    name: str, tables: Sequence[Artifact], identity: Mapping[str, Any], **arguments: Any
) -> Part:
    """A part whose function gets the tables' `paths`, what `identity` has, and `arguments`."""
    files = [file for table in tables for file in table.files.values()]
    counts = [file.sha256 for file in files]
    return Part(name, {"counts": counts, **identity}, {"paths": files, **identity, **arguments})


def count_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Count the words of one part's training text."""
    from collections import Counter

    from gpt1.tokenizer.bpe_train import write_counts
    from gpt1.tokenizer.pretokenizer import count_words

    ends = {book: tail_start for book, _, tail_start in arguments["rows"]}
    counts: Counter[str] = Counter()
    for book in read_books(Path(arguments["path"])):
        if book.id in ends:
            counts.update(count_words(book.text[: ends[book.id]]))
    with output.open(f"counts/{arguments['name']}.parquet") as file:
        write_counts(file, counts)
    return {"words": counts.total(), "word_types": len(counts)}


def merge_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Some tables of counts as one."""
    from gpt1.tokenizer.bpe_train import merge_counts

    with output.open("counts.parquet") as file:
        return {"word_types": merge_counts(file, [Path(path) for path in arguments["paths"]])}


def learn_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Learn the vocabulary on the summed tables of counts."""
    from gpt1.errors import UserError
    from gpt1.tokenizer.bpe_train import learn_merges, read_counts
    from gpt1.tokenizer.vocabulary import Vocabulary, alphabet

    settings = VocabularySettings.model_validate(arguments["settings"])
    counts = read_counts([Path(path) for path in arguments["paths"]])
    wanted, least, note = settings.num_merges, settings.min_frequency, f"{len(counts):,} word types"

    def progress(done: int) -> None:
        arguments["reporter"].progress(done, wanted, "merges", note)

    merges = learn_merges(counts, wanted, least, progress)
    if not merges:
        raise UserError(
            f"vocabulary: no pair of symbols occurs {least} times in {sum(counts.values()):,}"
            " words, so there is nothing to merge. Add text or lower `min_frequency`."
        )
    characters = alphabet(counts, settings.limit_alphabet)
    found = len(set().union(*counts))
    return {
        "word_types": len(counts), "merges": len(merges), "characters": len(characters),
        "characters_left_out": found - len(characters),
        **_write(Vocabulary.from_merges(characters, merges), output),
    }


STAGE = VocabularyStage()
