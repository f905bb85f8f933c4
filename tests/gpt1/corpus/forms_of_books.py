"""The same few books in every form that ingest reads, and a shortcut from a file to its texts."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt1.corpus.assemble import assign_to_book
from gpt1.corpus.document import Document, ReadingConfig, SkippedFile, SourceFile
from gpt1.corpus.readers import read_source

BOOKS = {
    "Jane Austen/Emma": "Emma Woodhouse, clever, and rich.\n\n“You are quite right,” said he.\n",
    "Anon/Café": "It was the café by the sea — naïve, perhaps.\n\nThe end.\n",
    "Homer/Iliad": "Sing, O goddess, the anger of Achilles son of Peleus.\n",
}
SMALL = ReadingConfig(
    max_document=4 << 20, max_archive=64 << 20, max_ratio=100, max_line=10_000
)
_PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": lambda data: gzip.compress(data, mtime=0), ".bz2": bz2.compress,
    ".xz": lzma.compress, ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}
CODECS = tuple(_PACK)
Found = tuple[dict[str, Document], list[SkippedFile]]
Extra = Mapping[str, bytes] | None


def packed(data: bytes, codec: str) -> bytes:
    """Compressed by the suffix of a codec; as it is for ""."""
    return _PACK[codec](data)


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """A tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members: Mapping[Any, bytes]) -> bytes:
    """A zip file; its members by name, or as zipfile describes them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def raw(text: str) -> bytes:
    """The bytes of a text; those that are no UTF-8 are surrogates in it."""
    return text.encode(errors="surrogateescape")


def text_of(data: bytes) -> str:
    """The inverse of `raw`."""
    return data.decode(errors="surrogateescape")


def jsonl_of(rows: Iterable[Mapping[str, object]]) -> bytes:
    """JSON lines. Bytes among the values become strings, and may be no UTF-8."""
    return b"".join(
        raw(json.dumps(row, ensure_ascii=False, default=text_of)) + b"\n" for row in rows
    )


def parquet_of(rows: Iterable[Mapping[str, Any]], row_group: int | None = None) -> bytes:
    """A Parquet file. Bytes among the values become strings, and may be no UTF-8."""
    rows, out = list(rows), io.BytesIO()
    table = pa.Table.from_pylist(rows) if rows else pa.table({"text": pa.array([], pa.string())})
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    for name in [name for name, column in columns.items() if pa.types.is_binary(column.type)]:
        columns[name] = columns[name].view(pa.string())
    pq.write_table(pa.table(columns), out, row_group_size=row_group)
    return out.getvalue()


def epub_of(title: str, author: str, pages: Mapping[str, str], extra: Extra = None) -> bytes:
    """An EPUB whose spine has the pages in the order given; its files are sorted by name."""
    kind = 'media-type="application/xhtml+xml"'
    items = [f'<item id="p{at}" href="text/{name}" {kind}/>' for at, name in enumerate(pages)]
    spine = "".join(f'<itemref idref="p{at}"/>' for at in range(len(pages)))
    package = f"""<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title>
<dc:creator>{author}</dc:creator></metadata><manifest>
<item id="nav" href="nav.xhtml" {kind} properties="nav"/>{"".join(reversed(items))}
</manifest><spine><itemref idref="nav"/>{spine}</spine></package>"""
    container = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">
<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>
</rootfiles></container>"""
    members = {"META-INF/container.xml": container, "OEBPS/book.opf": package}
    members |= {f"OEBPS/text/{name}": page for name, page in sorted(pages.items())}
    members["OEBPS/nav.xhtml"] = "<p>Contents</p>"
    return zip_of({name: raw(text) for name, text in members.items()} | dict(extra or {}))


def page(text: str) -> str:
    """An XHTML page with a paragraph for each of the text's."""
    body = "".join(f"<p>{part}</p>" for part in text.strip().split("\n\n"))
    return f"<html><head><title>no</title><style>p {{}}</style></head><body>{body}</body></html>"


BYTES = {name: text.encode() for name, text in BOOKS.items()}


def as_files(books: Mapping[str, bytes] = BYTES, suffix: str = ".txt") -> dict[str, bytes]:
    """The books as text files."""
    return {f"{name}{suffix}": data for name, data in books.items()}


def as_rows(books: Mapping[str, bytes] = BYTES) -> list[dict[str, Any]]:
    """The books as rows."""
    parts = [(name, *name.split("/")) for name in books]
    return [{"id": id, "title": name, "author": by, "text": books[id]} for id, by, name in parts]


def found_in(file: SourceFile, config: ReadingConfig = SMALL) -> Found:
    """The texts of a file by the ids of their books, and what is skipped, as ingest reads it."""
    found = list(read_source(file, config))
    texts = [assign_to_book(item, None) for item in found if isinstance(item, Document)]
    by_book = {document.id: document for document in texts}
    assert len(by_book) == len(texts), "two texts of one book"
    return by_book, [item for item in found if isinstance(item, SkippedFile)]


def read(data: bytes, name: str, config: ReadingConfig = SMALL) -> Found:
    """The same of a file of these bytes."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        return found_in(SourceFile(name, file.name), config)


def with_limits(config: ReadingConfig = SMALL, **limits: Any) -> ReadingConfig:
    """Other settings of reading."""
    return config.model_copy(update=limits)


def rules(skipped: Iterable[SkippedFile]) -> list[tuple[str | None, str]]:
    """Member and rule of each record; each has what was found, was expected and is to be done."""
    skipped = list(skipped)
    assert all(item.found and item.expected and item.do for item in skipped)
    assert not any("\n" in item.sentence() or len(item.sentence()) > 1500 for item in skipped)
    return [(item.member, item.rule) for item in skipped]
