"""A file that holds many books, by its form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO

from gpt1.corpus.document import Found, RefusedError
from gpt1.corpus.readers.forms import Form
from gpt1.corpus.readers.inflate import Metered, inflated
from gpt1.corpus.readers.jsonl import read_jsonl
from gpt1.corpus.readers.limits import Reading
from gpt1.corpus.readers.parquet import read_parquet
from gpt1.corpus.readers.tar_archive import read_tar
from gpt1.corpus.readers.text import empty, or_empty
from gpt1.corpus.readers.zip_archive import read_zip


def read_container(
    opened: IO[bytes], size: int, form: Form, file: str, reading: Reading,
    moved: Callable[[int], None] | None = None,
) -> Found:
    """The books of an archive, a Parquet file or a file of JSON lines of `size` bytes; `moved`
    hears how many were read.
    """
    raw = Metered(opened, PurePosixPath(file).name, moved)
    try:
        if size == 0:
            raise empty()
        if form.kind == "zip":
            found = read_zip(raw, size, file, reading)
        elif form.kind == "parquet":
            found = read_parquet(raw, file, reading)
        elif form.kind == "tar":
            found = read_tar(inflated(raw, form.codec, reading.limits), file, reading)
        else:
            found = read_jsonl(inflated(raw, form.codec, reading.limits), file, file, None, reading)
        yield from or_empty(found, file)
    except RefusedError as error:
        yield error.at(file)
