"""Readers of the formats in which people have books: each gives the documents of a stream, and a
skipped file for what it cannot read.
"""

from __future__ import annotations

from gpt1.corpus.discover import format_of
from gpt1.corpus.document import Place, Read, ReadingConfig, SourceFile, guarded
from gpt1.corpus.io import CountingReader, OnRead, open_source


def read_source(
    file: SourceFile, config: ReadingConfig, on_read: OnRead | None = None
) -> Read:
    """The documents of one file of the corpus, and what of it had to be skipped.

    `on_read` hears how much of it was read. UserError when the file cannot be had, or is not the
    one that was listed; everything else that goes wrong is a SkippedFile.
    """
    from gpt1.corpus.readers.archives import read_stream

    found = format_of(file.name)
    assert found is not None
    place = Place(file.name)
    with open_source(file) as (stream, size):
        raw = CountingReader(stream, size, file.name, on_read)
        yield from guarded(read_stream(raw, place, found, config), place)
