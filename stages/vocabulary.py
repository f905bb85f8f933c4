"""vocabulary: words counted part by part, merges learned on the table of counts, files in the published form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from stages.contract import Context, Output, Part, Settings, Stage


class VocabularySettings(Settings):
    merges: int = Field(40_000, ge=1, le=200_000, description="How many merges are learned, at most; GPT-1 has 40,000.")
    alphabet: int = Field(238, ge=1, le=20_000, description="How many characters get an id, the most frequent ones; GPT-1 has 238.")
    minimum_frequency: int = Field(
        2, ge=1, le=1_000_000, description="A pair that occurs less often is not merged; subword-nmt has 2."
    )


class VocabularyStage(Stage):
    """Only training text shapes the vocabulary: neither held-out books nor copies nor tails."""

    settings_model = VocabularySettings
    requires = ("clean", "split")
    spreads = True

    def run(self, settings: VocabularySettings, context: Context) -> None:
        counted = context.map_parts(count_part, _parts(context))
        counts = [file for part in counted for file in part.files.values()]
        words = sum(part.summary["words"] for part in counted)
        context.say(f"{words:,} words counted; learning up to {settings.merges:,} merges")
        identity = {"counts": [file.sha256 for file in counts], "settings": settings.model_dump()}
        arguments = {"paths": [str(file.path) for file in counts], "settings": settings.model_dump()}
        [learned] = context.map_parts(learn_part, [Part("merges", identity, arguments)])
        context.include(learned)
        figures = learned.summary
        context.summary({"words": words, **figures})
        context.say(
            f"{figures['merges']:,} merges over {figures['word_types']:,} word types; {figures['vocabulary']:,} tokens, "
            f"{figures['characters']} characters ({figures['characters_left_out']} rare ones left out)"
        )
        if figures["merges"] < settings.merges:
            context.say(f"fewer merges than asked for: no further pair occurs {settings.minimum_frequency} times")


def _parts(context: Context) -> list[Part]:
    """A part for each part of clean; of the split only its own rows matter, so that an added book recounts one part."""
    from gpt1.corpus.split_table import read_split, rows_by_part

    rows = rows_by_part(read_split(context.input("split").path("split.parquet")))
    parts = []
    for file in context.input("clean").under("books/"):
        name = PurePosixPath(file.name).stem
        train = [[row.book, row.tail_start] for row in rows.get(name, []) if row.set == "train"]
        identity = {"name": name, "books": file.sha256, "train": train}
        parts.append(Part(name, identity, {**identity, "path": str(file.path)}))
    return parts


def count_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Count the words of one part's training text."""
    from collections import Counter

    from gpt1.corpus.parts import read_books
    from gpt1.text.count_table import write_counts
    from gpt1.text.words import count_words

    ends: dict[str, int | None] = dict(arguments["train"])
    counts: Counter[str] = Counter()
    for book in read_books(Path(arguments["path"])):
        if book.id in ends:
            counts.update(count_words(book.text[: ends[book.id]]))
    with output.open(f"counts/{arguments['name']}.parquet") as file:
        write_counts(file, counts)
    return {"words": counts.total(), "word_types": len(counts)}


def learn_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Merge the tables of counts and learn the vocabulary."""
    from collections import Counter

    from gpt1.errors import UserError
    from gpt1.text.count_table import read_counts
    from gpt1.text.learn import learn_merges
    from gpt1.text.vocabulary import Vocabulary, alphabet

    settings = VocabularySettings.model_validate(arguments["settings"])
    counts: Counter[str] = Counter()
    for path in arguments["paths"]:
        counts.update(read_counts(Path(path)))
    merges = learn_merges(counts, settings.merges, settings.minimum_frequency)
    if not merges:
        raise UserError(
            f"vocabulary: no pair of symbols occurs {settings.minimum_frequency} times in {counts.total():,} words, so there is "
            "nothing to merge. Give more text or lower `minimum_frequency`."
        )
    characters = alphabet(counts, settings.alphabet)
    vocabulary = Vocabulary.from_merges(characters, merges)
    encoder_name, merges_name = vocabulary.file_names
    with output.open(encoder_name) as file:
        file.write(vocabulary.encoder_bytes())
    with output.open(merges_name) as file:
        file.write(vocabulary.merges_bytes())
    return {
        "word_types": len(counts),
        "merges": len(merges),
        "vocabulary": vocabulary.size,
        "characters": len(characters),
        "characters_left_out": len({character for word in counts for character in word}) - len(characters),
        "sha256": vocabulary.sha256,
    }


STAGE = VocabularyStage()
