"""The text of an XHTML page: paragraphs apart by a blank line, no tags, no scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "div", "dl",
    "dt", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header",
    "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "tbody", "td", "tfoot", "th",
    "thead", "tr", "ul",
})  # fmt: skip
_SILENT = frozenset({"head", "script", "style", "svg", "template", "title", "rt", "rp"})
_SPACES = re.compile(r"[ \t\r\n\f]+")


def html_text(page: str) -> str:
    """The words a reader of the page sees, in order.

    Damaged markup is read as browsers do: nothing is refused.
    """
    parser = _Text()
    parser.feed(page)
    parser.close()
    parser.end_block()
    return "\n\n".join(parser.blocks)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._words: list[str] = []
        self._silent: list[str] = []
        self._as_is = 0

    def handle_starttag(
        self,
        tag: str,
        attrs: list[tuple[str, str | None]],  # noqa: ARG002
    ) -> None:
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag == "br":
            self._words.append("\n")
        elif tag in _BLOCKS:
            self.end_block()
        self._as_is += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SILENT:  # `<script/>` and `<title/>` hold nothing
            self.handle_starttag(tag, attrs)
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT and tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag in _BLOCKS:
            self.end_block()
        self._as_is -= tag == "pre" and self._as_is > 0

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._words.append(data if self._as_is else _SPACES.sub(" ", data))

    def end_block(self) -> None:
        """What was gathered becomes a block, if it is any words."""
        block = "".join(self._words)
        if not self._as_is:
            block = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", block)).strip()
        if block.strip():
            self.blocks.append(block.strip("\n"))
        self._words.clear()
