"""One EPUB: the pages of its spine in reading order, title and author from its package document.

Follows EPUB 3.3, EPUB 2 and DAISY's DTBook. META-INF/container.xml names the package document, its
spine the reading order. Left out are pages marked `linear="no"`, navigation documents, and what the
structure of a page (`epub:type`, `role`, `hidden`, DTBook's elements) says is no running text: page
numbers, references to notes and the notes, tables of contents, scripts.
"""

from __future__ import annotations

import codecs
import html
import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from gpt1.corpus.document import (
    MIB,
    MOST_SAID,
    Document,
    Place,
    ReadingConfig,
    TextOrigin,
    UnreadableFileError,
    first_line,
)
from gpt1.corpus.readers.archives import member_name, open_member, open_zip
from gpt1.corpus.readers.text import check_text, decode

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"}
_MOST_ELEMENTS, _MOST_XML = 200_000, 16 * MIB
"""No honest package document has more; each element takes a hundred bytes of memory."""
_DECLARED = re.compile(rb"(?:encoding|charset)\s*=\s*[\"']?([\w.:-]+)")
_EIGHT_BITS = re.compile(r"iso8859|cp\d|mac-|koi8")  # of Python's names of encodings
_BARE_AMPERSAND = re.compile(r"&(?!#?\w{1,31};)")
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z]\w{1,30};")
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")


def read_epub(data: bytes, place: Place, config: ReadingConfig) -> Document:
    """The document of an EPUB. UnreadableFileError when it is damaged, encrypted, not as the
    standard says, or holds no text.
    """
    if not data:
        raise UnreadableFileError("empty", "it is empty")
    with open_zip(io.BytesIO(data)) as archive:
        book = _Epub(archive, config)
        text = book.text()
    check_text(text, config)
    origin = TextOrigin(
        *place, "epub", "the pages of the spine, without markup", len(data),
        sha256(data).hexdigest(),
    )
    title, author = book.metadata("title") or "", book.metadata("creator")
    return Document("", title, author, place.source, text, origins=(origin,))


def _invalid(found: str) -> UnreadableFileError:
    return UnreadableFileError("invalid_epub", found)


class _Epub:
    def __init__(self, archive: zipfile.ZipFile, config: ReadingConfig) -> None:
        self._archive, self._config = archive, config
        self._left = config.max_document
        self._members = {member_name(info).replace("\\", "/"): info for info in archive.infolist()}
        self._by_key = {_key(name): info for name, info in reversed(self._members.items())}
        self._path, self._package = self._find_package()

    def metadata(self, name: str) -> str | None:
        """The first Dublin Core element of that name in the package document."""
        found = _children(self._package, name, name.title())
        texts = (" ".join("".join(item.itertext()).split()) for item in found)
        return next((text[:MOST_SAID] for text in texts if text), None)

    def text(self) -> str:
        """The pages of the spine, apart by blank lines."""
        locked = self._encrypted()
        pages = []
        for path in self._spine():
            if _key(path) in locked:
                raise UnreadableFileError("encrypted", f"its page {path} is encrypted")
            pages.append(html_text(_decode_page(self._bytes(path, "page"))))
        return "\n\n".join(page for page in pages if page)

    def _spine(self) -> list[str]:
        """The paths of the pages in reading order, each once."""
        items = {item.get("id"): item for item in _children(self._package, "item")}
        pages: dict[str, None] = {}
        for reference in _children(self._package, "itemref"):
            item = items.get(reference.get("idref"))
            seen = set[str]()
            while item is not None and not _is_page(item):
                fallback = item.get("fallback", "")
                item = None if fallback in seen else items.get(fallback)
                seen.add(fallback)
            if (
                item is not None
                and reference.get("linear") != "no"
                and "nav" not in (item.get("properties") or "").split()
            ):
                href = unquote((item.get("href") or "").partition("#")[0])
                folder = posixpath.dirname(self._path)
                pages[posixpath.normpath(posixpath.join(folder, href))] = None
        if not pages:
            raise _invalid(f"the spine of {self._path} names no page")
        return list(pages)

    def _find_package(self) -> tuple[str, Any]:
        """The package document that the container names, or the only place where one can be."""
        try:
            container = self._xml(_CONTAINER, "container")
            named = [item.get("full-path") for item in _children(container, "rootfile")]
        except UnreadableFileError:
            named = []
        packages = [path for path in named if path and _key(path) in self._by_key]
        packages += [name for name in sorted(self._members, key=len) if _key(name)[-4:] == ".opf"]
        if not packages:
            raise _invalid(f"{_CONTAINER} names no package document, and there is none")
        return packages[0], self._xml(packages[0], "package document")

    def _encrypted(self) -> set[str]:
        if _key(_ENCRYPTION) not in self._by_key:
            return set()
        found = _children(self._xml(_ENCRYPTION, "list of encrypted files"), "CipherReference")
        return {_key(item.get("URI") or "") for item in found}

    def _xml(self, name: str, what: str) -> Any:
        data = self._bytes(name, what)
        try:
            text = _XML_DECLARATION.sub("", _decode_page(data).lstrip("\ufeff"), count=1).lstrip()
            text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)  # as in HTML
            parser = ElementTree.XMLParser(target=_Tree())
            parser.feed(_BARE_AMPERSAND.sub("&amp;", text))
            return parser.close()
        except ElementTree.ParseError as error:
            raise _invalid(f"its {what} {name} is not XML ({first_line(error)})") from error

    def _bytes(self, name: str, what: str) -> bytes:
        info = self._members.get(name) or self._by_key.get(_key(name))
        if info is None:
            raise _invalid(f"its {what} {name} is not in it")
        most = self._left if what == "page" else min(self._left, _MOST_XML)
        data = open_member(self._archive, info, self._config).read_all(most)
        self._left -= len(data)
        return data


def _is_page(item: Any) -> bool:
    kind = item.get("media-type", "").partition(";")[0].strip().lower()
    return kind in _PAGES or item.get("href", "").lower().endswith((".xhtml", ".html", ".htm"))


def _key(name: str) -> str:
    """A path without what producers and zip programs write in more than one way."""
    return unquote(posixpath.normpath(name)).lstrip("/").casefold()


def _children(element: Any, *names: str) -> Iterator[Any]:
    return (item for item in element.iter() if str(item.tag).rpartition("}")[2] in names)


class _Tree(ElementTree.TreeBuilder):
    """A tree with a ceiling: a million empty elements are four kilobytes in a zip."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def start(self, tag: str, attrs: Any) -> Any:
        self._count += 1 + len(attrs)
        if self._count > _MOST_ELEMENTS:
            raise _invalid(f"an XML file of more than {_MOST_ELEMENTS} elements")
        return super().start(tag, attrs)


def _decode_page(data: bytes) -> str:
    """The text of a page, in the encoding that it declares, or else as any text file."""
    with suppress(UnicodeDecodeError):
        data.decode()
        return decode(data).text
    if declared := _DECLARED.search(data[:1024]):
        with suppress(LookupError, ValueError):
            name = codecs.lookup(declared[1].decode()).name
            if _EIGHT_BITS.match(name):
                return data.decode(name)
    return decode(data).text


# ---------------------------------------------------------------------------------------------
# Pages

_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "div", "dl",
    "dt", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header",
    "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "tbody", "td", "tfoot", "th",
    "thead", "tr", "ul",
    # DTBook
    "bodymatter", "bridgehead", "docauthor", "doctitle", "frontmatter", "hd", "level", "level1",
    "level2", "level3", "level4", "level5", "level6", "levelhd", "line", "linegroup", "list",
    "poem", "rearmatter", "sidebar",
})  # fmt: skip
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
})  # fmt: skip
_RAW = frozenset({"script", "style", "title", "textarea"})
_SILENT = _RAW | {
    "head", "svg", "template", "rt", "rp", "nav", "audio", "video", "canvas", "iframe", "object",
    "epub:case", "pagenum", "noteref", "annoref", "linenum", "note", "annotation",
}
_NO_TEXT = frozenset({
    "pagebreak", "noteref", "annoref", "backlink", "page-list", "pagelist", "toc", "toc-brief",
    "landmarks", "loi", "lot", "loa", "lov", "footnote", "footnotes", "endnote", "endnotes",
    "rearnote", "rearnotes", "index", "copyright-page", "imprint", "colophon", "cover", "pagenum",
})  # fmt: skip
"""Structural semantics (`epub:type`, `role="doc-..."`) of what is no running text."""
_NO_TEXT_CLASSES = frozenset({
    "pagenum", "pagenumber", "page-number", "page_number", "pageno", "noteref", "footnote-ref",
    "fnanchor", "footnote-anchor", "footnote-backref", "msofootnotereference",
})  # fmt: skip
_SPACES = re.compile(r"[ \t\r\n\f]+")
_MARKUP = re.compile(r"<(?:(/?)([A-Za-z][^\s/>]*)|!--|!\[CDATA\[|[!?])")
_ENDS = {"<!--": "-->", "<![CDATA[": "]]>"}
_IN_TAG = re.compile(r"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>")
_IN_DECLARATION = re.compile(r"[^>\[]*+(?:\[[^\]]*+\]\s*+)?+>")
_ATTRIBUTES = re.compile(
    r"([^\s\"'<>/=]+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+)))?"
)
_RAISED_MARK = re.compile(r"\s*[\[(]?(?:\d{1,4}|[a-z]|[ivxl]{1,6}|[*†‡§¶]{1,4})[\])]?\s*")
_NOTE_MARK = re.compile(r"\s*(?:\[\s*(?:\d{1,4}|[a-z]|[*†‡§¶]{1,4})\s*\]|[*†‡§¶]{1,4})\s*")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")


def html_text(page: str) -> str:
    """The running text of a page, in order, paragraphs apart by a blank line.

    Damaged markup is read as browsers do: nothing is refused. Takes time linear in the page's
    length: each end that is nowhere is looked for once.
    """
    text = _Text()
    missing = set[str]()
    at = 0
    while match := _MARKUP.search(page, at):
        text.add(html.unescape(page[at : match.start()]))
        at = match.end()
        end_mark = _ENDS.get(match[0])
        if end_mark and end_mark not in missing:
            end = page.find(end_mark, at)
            if end >= 0:
                text.add(page[at:end] if end_mark == "]]>" else "")
                at = end + len(end_mark)
                continue
            missing.add(end_mark)
        pattern = _IN_TAG if match[2] else _IN_DECLARATION
        found = None if pattern.pattern in missing else pattern.match(page, at)
        end = found.end() - 1 if found else page.find(">", at)
        if found is None:
            missing.add(pattern.pattern)
        if end < 0:
            break
        tag = (match[2] or "").lower()
        if tag and match[1]:
            text.close(tag)
        elif tag:
            text.open(tag, page[at:end])
            if tag in _RAW and page[end - 1] != "/":
                after = re.compile(f"</{tag}", re.IGNORECASE).search(page, end)
                end = after.start() - 1 if after else len(page)
        at = end + 1
    else:
        text.add(html.unescape(page[at:]))
    text.end_block()
    return "\n\n".join(text.blocks)


class _Text:
    """Gathers what is read into blocks."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self._words: list[str] = []
        self._silent = ""  # the element that is no text and still open, and how deep we are in it
        self._depth = self._same = 0
        self._as_is = self._raised = 0
        self._link: int | None = None  # where in the words a link to a note may have begun
        self._link_raised = False

    def add(self, text: str) -> None:
        """Take characters between tags."""
        if text and not self._silent:
            self._words.append(text if self._as_is else _SPACES.sub(" ", text))

    def open(self, tag: str, attributes: str) -> None:
        """A start tag."""
        empty = attributes.endswith("/") or tag in _VOID
        if self._silent and tag == "body":
            self._silent = ""
        if self._silent:
            ruby = tag in ("rt", "rp")
            self._depth += not empty and not ruby
            self._same += tag == self._silent and not empty and not ruby
            return
        about = _parse(attributes)
        if tag == "br":
            self._words.append("\n")
        elif tag in _BLOCKS:
            self.end_block()
        if not empty and (tag in _SILENT or _is_no_text(about)):
            self._silent, self._depth, self._same = tag, 0, 0
        elif not empty:
            self._as_is += tag == "pre"
            self._raised += tag == "sup"
            if tag == "a" and "#" in about.get("href", ""):
                self._link, self._link_raised = len(self._words), self._raised > 0
            self._link_raised |= tag == "sup"

    def close(self, tag: str) -> None:
        """An end tag."""
        if self._silent:
            self._depth -= 1
            self._same -= tag == self._silent
            if self._same < 0 or self._depth < 0:
                parent, self._silent = tag != self._silent, ""
                if not parent:
                    if tag in _BLOCKS:
                        self.end_block()
                    return
            else:
                return
        if tag == "a" and self._link is not None:
            mark = _RAISED_MARK if self._link_raised else _NOTE_MARK
            if mark.fullmatch("".join(self._words[self._link :])):
                del self._words[self._link :]
            self._link = None
        if tag in _BLOCKS:
            self.end_block()
        self._as_is -= tag == "pre" and self._as_is > 0
        self._raised -= tag == "sup" and self._raised > 0

    def end_block(self) -> None:
        """What was gathered becomes a block, if it is any words."""
        block = "".join(self._words)
        if not self._as_is:
            block = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", block)).strip()
        if block.strip():
            self.blocks.append(block.strip("\n"))
        self._words.clear()
        self._link = None


def _parse(attributes: str) -> dict[str, str]:
    found = _ATTRIBUTES.findall(attributes)
    return {name.lower(): html.unescape(one or two or three) for name, one, two, three in found}


def _is_no_text(about: dict[str, str]) -> bool:
    kinds = about.get("epub:type", "").lower().split()
    kinds += [role.removeprefix("doc-") for role in about.get("role", "").lower().split()]
    return (
        "hidden" in about
        or not _NO_TEXT.isdisjoint(kinds)
        or not _NO_TEXT_CLASSES.isdisjoint(about.get("class", "").lower().split())
        or bool(_HIDDEN.search(about.get("style", "").lower()))
    )
