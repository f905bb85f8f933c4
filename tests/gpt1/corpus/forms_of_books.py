"""The same few books in every form that ingest reads, and a shortcut from a file to what comes out of it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gpt1.corpus.grouping import placed
from gpt1.corpus.sources.container import read_container
from gpt1.corpus.sources.forms import form_of
from gpt1.corpus.sources.limits import Limits, Reading
from gpt1.corpus.sources.member import loose_books
from gpt1.corpus.sources.piece import Piece, Refused

BOOKS = {
    "Jane Austen/Emma": "Emma Woodhouse, handsome, clever, and rich.\n\n“You are quite right,” said he.\n",
    "Anon/Café": "It was the café by the sea — naïve, perhaps.\n\nThe end.\n",
    "Homer/Iliad": "Sing, O goddess, the anger of Achilles son of Peleus.\n",
}
SMALL = Reading(Limits(document=4 << 20, archive=64 << 20, ratio=100, line=10_000))
_PACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}


def packed(data: bytes, codec: str) -> bytes:
    """Compressed by the suffix of a codec; as it is for ""."""
    return _PACK[codec](data) if codec else data


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """A tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members: Mapping[str, bytes]) -> bytes:
    """A zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def jsonl_of(rows: list[dict[str, object]]) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet_of(rows: list[dict[str, object]], row_group: int | None = None) -> bytes:
    """A Parquet file."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=row_group)
    return out.getvalue()


def epub_of(title: str, author: str, pages: Mapping[str, str], extra: Mapping[str, bytes] | None = None) -> bytes:
    """An EPUB whose spine has the pages in the order given; its files and manifest have them in the other."""
    items = "".join(
        f'<item id="p{index}" href="text/{name}" media-type="application/xhtml+xml"/>'
        for index, name in reversed(list(enumerate(pages)))
    )
    spine = "".join(f'<itemref idref="p{index}"/>' for index in range(len(pages)))
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title><dc:creator>{author}</dc:creator></metadata>'
        '<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f'{items}</manifest><spine><itemref idref="nav"/>{spine}</spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    members = {"META-INF/container.xml": container, "OEBPS/book.opf": package, "OEBPS/nav.xhtml": "<p>Contents</p>"}
    members |= {f"OEBPS/text/{name}": page for name, page in sorted(pages.items())}
    return zip_of({name: text.encode() for name, text in members.items()} | dict(extra or {}))


def page(text: str) -> str:
    """An XHTML page with a paragraph for each of the text's."""
    body = "".join(f"<p>{part}</p>" for part in text.strip().split("\n\n"))
    return f"<html><head><title>no text</title><style>p {{}}</style></head><body>{body}</body></html>"


def as_files() -> dict[str, bytes]:
    """`BOOKS` as text files."""
    return {f"{name}.txt": text.encode() for name, text in BOOKS.items()}


def as_rows() -> list[dict[str, object]]:
    """`BOOKS` as rows."""
    return [{"id": name, "title": name.split("/")[1], "author": name.split("/")[0], "text": text} for name, text in BOOKS.items()]


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files below a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def read(data: bytes, name: str, reading: Reading = SMALL) -> tuple[dict[str, Piece], list[Refused]]:
    """The pieces in a file of these bytes by the ids of their books, and what is refused."""
    form = form_of(name)
    assert form is not None
    if form.many:
        found = list(read_container(io.BytesIO(data), len(data), form, name, reading))
    else:
        found = list(loose_books(data, form, name, reading))
    pieces = [placed(item, None)[0] for item in found if isinstance(item, Piece)]
    by_book = {str(piece.book): piece for piece in pieces}
    assert len(by_book) == len(pieces), "two pieces of one book"
    return by_book, [item for item in found if isinstance(item, Refused)]


def rules(refused: list[Refused]) -> list[tuple[str | None, str]]:
    """Member and rule of each refusal; every one says what was found, expected and is to be done."""
    assert all(item.found and item.expected and item.do and "\n" not in item.sentence() for item in refused)
    return [(item.member, item.rule) for item in refused]
