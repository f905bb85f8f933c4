"""What of an EPUB is running text, and which of the ways to pack one are read."""

import io
import zipfile
from pathlib import Path
from time import process_time

import pytest

from gpt1.corpus.readers.epub import html_text
from tests.gpt1.corpus.forms_of_books import epub_of, page, read, rules, zip_of

REST = "He heard the drums."
SILENT = {
    "pagebreak": '<span epub:type="pagebreak" title="200">200</span>',
    "pagebreak by role": '<span role="doc-pagebreak">200</span>',
    "pagebreak among others": '<b epub:type="z3998:x pagebreak">200</b>',
    "noteref": '<a href="#n1" epub:type="noteref">1</a>',
    "noteref by role": '<a href="n.xhtml#n1" role="doc-noteref">[1]</a>',
    "noteref raised": '<sup><a href="n.xhtml#n1">12</a></sup>',
    "noteref raised inside": '<a href="#fn1" id="r1"><sup>*</sup></a>',
    "noteref in brackets": '<a href="#Footnote_1">[1]</a>',
    "noteref of Gutenberg": '<a class="fnanchor" href="#f">A</a>',
    "noteref of pandoc": '<a href="#fn1" class="footnote-ref">1</a>',
    "noteref of DAISY": '<noteref idref="#n">1</noteref>',
    "backlink": '<a epub:type="backlink" href="#r1">↩</a>', "arrow": '<a href="#r1">†</a>',
    "page of DAISY": '<pagenum page="normal">7</pagenum>', "line of DAISY": "<linenum>7</linenum>",
    "page by class": '<span class="pagenum">[Pg 7]</span>',
    "hidden": "<span hidden>x</span>", "hidden as XHTML": '<i hidden="hidden">x</i>',
    "not displayed": '<span style="color: red; DISPLAY:none">x</span>',
    "nested": '<span hidden=""><span>a</span> <b>b</b></span>', "script": "<script>a<b</script>",
    "empty script": "<script/>", "comment": "<!-- <p>no</p> -->", "ruby": "<rp>(</rp><rt>x</rt>",
    "drawing": "<svg><title>t</title><text>x</text></svg>", "template": "<template>x</template>",
    "never closed": "<ruby><rt>x</ruby>", "video": "<video><p>no video</p></video>",
}  # fmt: skip
BLOCKS = {
    "note": '<aside epub:type="footnote"><p>A note.</p></aside>',
    "notes": '<section role="doc-endnotes"><h2>Notes</h2><ol><li>A note.</li></ol></section>',
    "contents": '<nav epub:type="toc"><ol><li>One</li></ol></nav>',
    "plain navigation": "<nav><a>Back</a></nav>", "list": '<div epub:type="loi">Pictures</div>',
    "note of DAISY": '<note id="n"><p>A note.</p></note>',
    "imprint": '<section epub:type="imprint"><p>Published by</p></section>',
}
TEXT = {
    "declared": ('<?xml version="1.0"?><!DOCTYPE html [<!ENTITY a "b>">]><p>One.</p>', "One."),
    "characters": ("<p>a &lt; b &amp; c &#8212; d</p>", "a < b & c — d"),
    "stray": ("<p>a < b and 3 <4</p>", "a < b and 3 <4"),
    "data": ("<![CDATA[a <b> c]]>", "a <b> c"),
    "quotes": ('<p title="a > b">One.</p>', "One."),
    "apostrophe": ("<p don't>It's so.</p>", "It's so."),
    "comment without an end": ("<p>One.</p><!-- two <p>Three.</p>", "One.\n\nThree."),
    "head without an end": ("<head><title>no</title><body><p>One.</p>", "One."),
    "link": ('<p>See <a href="#c4">chapter 4</a>, <a href="#c5">5</a>.</p>', "See chapter 4, 5."),
    "raised": ("<p>the 4<sup>th</sup> of 10<sup>3</sup></p>", "the 4th of 103"),
    "glossary": ('<p>A <a epub:type="glossref" href="#g">keel</a>.</p>', "A keel."),
    "aside": ("<p>One.</p><aside><p>Two.</p></aside>", "One.\n\nTwo."),
    "verse": ("<p>One<br/>two</p>", "One\ntwo"),
    "level": ("<level1><h1>A</h1>b</level1>", "A\n\nb"),
    "switch": ("<epub:switch><epub:case>a</epub:case><epub:default>b</epub:default>", "b"),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_what_the_structure_says_is_no_text_is_left_out(name: str) -> None:
    assert html_text(f"<p>He heard the {SILENT[name]} drums.</p><p>b</p>") == f"{REST}\n\nb"
    assert html_text(f"<p>He heard the dr{SILENT[name]}ums.</p>") == REST


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_are_no_text_are_left_out(name: str) -> None:
    assert html_text(f"<body><p>a</p>{BLOCKS[name]}<p>b</p></body>") == "a\n\nb"


@pytest.mark.parametrize("name", TEXT)
def test_the_rest_stays(name: str) -> None:
    markup, wanted = TEXT[name]
    assert html_text(markup) == wanted


MARKUP = [
    "<a ", "<a b='", "<svg>", "<![CDATA[", "<!--", "<!DOCTYPE [", '<a =">" ', "<rt>", "<p hidden>",
    "</p>", "<script>", "<title>", "<a href='#x'><sup>", "&amp", "<", '<a b="c" ', "<!a[", "<pre>",
]  # fmt: skip


@pytest.mark.parametrize("unit", MARKUP)
def test_no_markup_costs_its_square(unit: str) -> None:
    def work(size: int) -> float:
        text, began = unit * (size // len(unit)) + "<rt></rt>", process_time()
        html_text(text)
        return process_time() - began

    ratios = (work(200_000) / max(work(50_000), 0.005) for _ in range(4))
    assert any(ratio < 9 for ratio in ratios)


CONTAINER, PACKAGE, PAGE = "META-INF/container.xml", "OEBPS/book.opf", "OEBPS/text/a.xhtml"
BOOK = epub_of("Emma", "Jane Austen", {"a.xhtml": page("Words.")})


def members(data: bytes = BOOK) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_package(old: str, new: str) -> bytes:
    """The book with other words in its package document."""
    files = members()
    assert old.encode() in files[PACKAGE]
    return zip_of({**files, PACKAGE: files[PACKAGE].replace(old.encode(), new.encode())})


def renamed(old: str, new: str) -> bytes:
    """The book with another name of a file."""
    return zip_of({name.replace(old, new): data for name, data in members().items()})


def replaced(name: str, data: bytes) -> bytes:
    return zip_of({**members(), name: data})


OPF = members()[PACKAGE]
SPINE, XHTML = '<itemref idref="p0"/>', 'media-type="application/xhtml+xml"'
PRODUCERS = {
    "name encoded in the package": with_package("text/a.xhtml", "text/%61.xhtml"),
    "name encoded in the zip": renamed("a.xhtml", "a%2Exhtml"),
    "capitals": renamed("OEBPS/text", "oebps/Text"),
    "container in capitals": renamed("META-INF/c", "Meta-Inf/C"), "backslashes": renamed("/", "\\"),
    "no container": renamed(CONTAINER, "META-INF/none.xml"),
    "container that is no XML": replaced(CONTAINER, b"<a"),
    "space before the declaration": replaced(PACKAGE, b"\n  " + OPF),
    "byte order mark": replaced(PACKAGE, b"\xef\xbb\xbf" + OPF),
    "UTF-16": replaced(PACKAGE, OPF.decode().encode("utf-16")),
    "UTF-16 without a mark": replaced(PACKAGE, OPF.decode().encode("utf-16-be")),
    "an unknown encoding": replaced(PACKAGE, OPF.replace(b'"1.0"?', b'"1.0" encoding="foo"?')),
    "entities of HTML": with_package("<dc:title>Emma", "<dc:title>&nbsp;Emma"),
    "page in Latin-1": replaced(PAGE, page("Words.").encode().replace(b"no", b"\xe9")),
    "page in UTF-16": replaced(PAGE, page("Words.").encode("utf-16")),
    "page twice in the spine": with_package(SPINE, SPINE * 3),
    "other media type": with_package(f'href="text/a.xhtml" {XHTML}', 'href="text/a.xhtml"'),
    "fallback": with_package(f"{SPINE}</spine>", """<itemref idref="p9"/></spine>
<item id="p9" href="x.pdf" media-type="application/pdf" fallback="p0"/>"""),
    "not linear": with_package(SPINE, f'<itemref idref="nav" linear="no"/>{SPINE}'),
}  # fmt: skip
ENTITIES = b'<!DOCTYPE c [<!ENTITY a "%s">%s]><c>&g;</c>' % (b"ha" * 5_000, b"".join(
    b'<!ENTITY %c "%s">' % (98 + at, b"&%c;" % (97 + at) * 20) for at in range(6)
))  # fmt: skip
INVALID = {
    "page that is missing": (renamed("a.xhtml", "b.xhtml"), "text/a.xhtml is not in it"),
    "package that is no XML": (replaced(PACKAGE, b"<a"), "OEBPS/book.opf is not XML"),
    "no package": (renamed("book.opf", "book.xml"), "names no package document"),
    "no page": (with_package(SPINE, ""), "names no page"),
    "circle of fallbacks": (with_package(
        f'href="text/a.xhtml" {XHTML}', 'href="a.pdf" media-type="a/pdf" fallback="p0"'
    ), "names no page"),
    "a million elements": (
        replaced(PACKAGE, b"<a>" + b"<b/>" * 1_000_000 + b"</a>"), "more than 200000 elements"
    ),
    "entities of entities": (replaced(PACKAGE, ENTITIES), "is not XML"),
}  # fmt: skip
DAMAGED = {"no zip": (b"words", "not a zip file"), "cut": (BOOK[:-40], "not a zip file")}


@pytest.mark.parametrize("name", PRODUCERS)
def test_every_way_to_pack_a_book_gives_its_text(name: str) -> None:
    documents, skipped = read(PRODUCERS[name], "b.EPUB")
    assert skipped == []
    [document] = documents.values()
    assert (document.title, document.author, document.text) == ("Emma", "Jane Austen", "Words.")


@pytest.mark.parametrize("name", INVALID | DAMAGED)
def test_a_fault_is_named(name: str) -> None:
    data, found = (INVALID | DAMAGED)[name]
    documents, [skipped] = read(data, "b.epub")
    assert documents == {}
    assert rules([skipped]) == [(None, "invalid_epub" if name in INVALID else "damaged")]
    assert found in skipped.found
    assert ("damaged" in skipped.sentence()) == (name in DAMAGED)


def test_the_spine_of_many_references_is_read_once() -> None:
    [document] = read(with_package(SPINE, SPINE * 50_000), "b.epub")[0].values()
    assert document.text == "Words."


def test_the_case_of_the_epub_samples(shared: Path) -> None:
    data = (shared / "review" / "cases" / "epub_pagebreak_noteref" / "book.epub").read_bytes()
    [document] = read(data, "b.epub")[0].values()
    assert document.text == "He heard the drums beat on the river and stood."
