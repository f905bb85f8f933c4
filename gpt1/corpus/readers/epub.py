"""One EPUB: the pages of its spine in reading order, title and author from its package document.

Follows EPUB 3.3: META-INF/container.xml names the package document, its spine the reading order.
Pages marked `linear="no"` and the navigation document are left out.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from hashlib import sha256
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from gpt1.corpus.decode import decode
from gpt1.corpus.document import Piece, RefusedError
from gpt1.corpus.readers.html_text import html_text
from gpt1.corpus.readers.inflate import damaged
from gpt1.corpus.readers.limits import Reading
from gpt1.corpus.readers.text import check_text, empty
from gpt1.corpus.readers.zip_member import UNREADABLE, open_member

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml"}


def epub_piece(
    data: bytes, name: str, inside: str, file: str, member: str | None, reading: Reading
) -> Piece:
    """The piece of an EPUB with these bytes.

    RefusedError when it is damaged, encrypted or holds no text.
    """
    if not data:
        raise empty()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            book = _Epub(archive, reading)
            text = book.text()
            title, author = book.said("title"), book.said("creator")
    except (*UNREADABLE, KeyError, ElementTree.ParseError) as error:
        raise damaged(f"not a complete EPUB: {error}") from error
    check_text(text, reading)
    return Piece(
        name, inside, file, member, text, "epub", "the pages of the spine, without markup",
        len(data), sha256(data).hexdigest(), title=title, author=author,
    )  # fmt: skip


class _Epub:
    def __init__(self, archive: zipfile.ZipFile, reading: Reading) -> None:
        self._archive, self._reading = archive, reading
        self._left = reading.limits.document
        container = self._xml(_CONTAINER)
        root = next(
            (item.get("full-path") for item in container.iter() if _local(item) == "rootfile"), None
        )
        if not root:
            raise ValueError(f"{_CONTAINER} names no package document")
        self._folder = posixpath.dirname(root)
        self._package = self._xml(root)

    def said(self, what: str) -> str | None:
        """The first Dublin Core element of that name in the package document."""
        texts = ((item.text or "").strip() for item in self._package.iter() if _local(item) == what)
        return next((" ".join(text.split()) for text in texts if text), None)

    def text(self) -> str:
        items = {item.get("id"): item for item in self._package.iter() if _local(item) == "item"}
        locked = self._locked()
        pages = []
        for reference in (item for item in self._package.iter() if _local(item) == "itemref"):
            item = items.get(reference.get("idref"))
            if (
                reference.get("linear") == "no"
                or item is None
                or "nav" in (item.get("properties") or "").split()
            ):
                continue
            if item.get("media-type") not in _PAGES:
                continue
            path = posixpath.normpath(
                posixpath.join(self._folder, unquote((item.get("href") or "").partition("#")[0]))
            )
            if path in locked:
                raise RefusedError(
                    "encrypted", f"its page {path} is encrypted", "an EPUB without DRM",
                    "Remove it.",
                )
            pages.append(html_text(decode(self._bytes(path)).text))
        return "\n\n".join(page for page in pages if page)

    def _locked(self) -> set[str]:
        if _ENCRYPTION not in self._archive.namelist():
            return set()
        return {
            unquote(item.get("URI") or "")
            for item in self._xml(_ENCRYPTION).iter()
            if _local(item) == "CipherReference"
        }

    def _xml(self, name: str) -> Any:
        return ElementTree.fromstring(self._bytes(name))

    def _bytes(self, name: str) -> bytes:
        data = open_member(
            self._archive, self._archive.getinfo(name), self._reading.limits, self._left
        )
        self._left -= len(data)
        return data


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]
