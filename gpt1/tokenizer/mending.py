"""ftfy on a whole text, at the speed of a scan where ftfy has nothing to mend.

ftfy 6.3 mends a text in segments: its lines, each with its `\\n` (a line beyond a million
characters is cut every million). One thing passes from segment to segment: from the segment of the
first `<` on, entities stay as they are. So any run of whole lines may be mended by itself, given
that state. Most lines need none of it, and these are told by their characters:

- Printable ASCII, tab, line feed and form feed pass unchanged, but for an entity (`&...;`).
- A carriage return and the curly quotes are exchanged one by one, whatever stands beside them.
- The letters and signs in `_TAME` pass unchanged, if the line is not `ftfy.badness`'s mojibake.
  Each of its patterns needs two neighbours outside ASCII, or a C1 control, or one of `Â Ã Œ œ`. So
  a line is safe if no such pair is in it; pairs of quotes, dashes and ellipses, and a letter before
  a dash, an apostrophe or an ellipsis, are in no pattern (with `Î Ð Ø Ù` left out).

What else is met sends its whole line to ftfy. `tests/gpt1/tokenizer/` compares all code
points and hostile texts.
"""

from __future__ import annotations

import re
from typing import Literal

from ftfy import fix_text

Entities = Literal["auto", False]

# ftfy's `max_decode_length`.
_SEGMENT = 1_000_000
_COMMON = "’—–―…"
_CURLY = {**dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("“”„‟", '"')}
_QUOTES = "".join(_CURLY)
# Latin-1 and Latin Extended-A but for those that patterns take with an ASCII neighbour or with a
# common sign, and the ligatures.
_LETTERS = "".join(map(chr, [*range(0xA0, 0x100), *range(0x100, 0x180)]))
_TAME = "".join(sign for sign in _LETTERS if sign not in "ÂÃÎÐØÙŒœĲĳŉ") + "†‡•™€′″\ufffd"
_TAME_SIGNS = frozenset(_TAME + "Œœ")
_QUOTES_BUT_COMMON = frozenset(_QUOTES) - frozenset(_COMMON)
_FEW = 32
_PLAIN = bytes([*b"\t\n\x0c", *range(0x20, 0x7F)])
_EXCHANGED = frozenset(_QUOTES + _COMMON + "\r")
_ENTITY = r"#?[0-9A-Za-z]{1,24};"
# One character that may be the start of something to mend, then, looking back at it, whether it is.
# (One leading class is what makes the search fast.)
_SUSPECT = re.compile(
    rf"[^\t\n\r\x0c -%'-~{_COMMON}]"
    rf"(?:(?<=[^&Œœ{_QUOTES}{re.escape(_TAME)}])"
    rf"|(?<=[{re.escape(_TAME)}])(?=[^\x00-\x7f{_COMMON}])"
    rf"|(?<=[{_QUOTES}])(?=[^\x00-\x7f{_COMMON}{_QUOTES}])"
    r"|(?<=[Œœ])(?![A-Za-z])"
    rf"|(?<=&){_ENTITY})"
)
_ANY_ENTITY = re.compile(f"&{_ENTITY}")


def mend(text: str) -> str:
    """What `ftfy.fix_text(text)` returns, character for character."""
    strange = set(
        text.encode("utf-8", "surrogatepass")
        .translate(None, _PLAIN)
        .decode("utf-8", "surrogatepass")
    )
    entities = "&" in text and _ANY_ENTITY.search(text) is not None
    if not strange and not entities:
        return text
    if _has_long_line(text):
        return fix_text(text)
    if entities or not _all_tame(text, strange - _EXCHANGED):
        return _by_lines(text, strange)
    return _exchange(text, strange)


def _all_tame(text: str, signs: set[str]) -> bool:
    """Whether no place of `signs` is a suspect: the same as a search for `_SUSPECT`, faster
    where the signs are few.
    """
    if len(signs) > _FEW or not signs <= _TAME_SIGNS:
        return False
    for sign in signs:
        at = text.find(sign)
        while at >= 0:
            before, after = text[at - 1 : at], text[at + 1 : at + 2]
            if not (after.isascii() or after in _COMMON) or before in _QUOTES_BUT_COMMON:
                return False
            if sign in "Œœ" and not (after.isascii() and after.isalpha()):
                return False
            at = text.find(sign, at + 1)
    return True


def _by_lines(text: str, strange: set[str]) -> str:
    """Runs of lines without a suspect are exchanged at once; lines with one go to ftfy, with the
    state they have in the whole text.
    """
    first_tag = text.find("<")
    parts: list[str] = []
    done = 0
    while suspect := _SUSPECT.search(text, done):
        start = text.rfind("\n", done, suspect.start()) + 1 or done
        end = text.find("\n", suspect.start()) + 1 or len(text)
        entities: Entities = False if 0 <= first_tag < start else "auto"
        parts += (
            _exchange(text[done:start], strange),
            fix_text(text[start:end], unescape_html=entities),
        )
        done = end
    parts.append(_exchange(text[done:], strange))
    return "".join(parts)


def _exchange(text: str, strange: set[str]) -> str:
    """Line ends and curly quotes made plain.

    `strange` has at least the characters of `text` outside plain ASCII.
    """
    if "\r" in strange:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    for curly, straight in _CURLY.items():
        if curly in strange:
            text = text.replace(curly, straight)
    return text


def _has_long_line(text: str) -> bool:
    """Whether ftfy would cut a line, where a carriage return could be parted from its line feed."""
    done = 0
    while len(text) - done > _SEGMENT:
        end = text.rfind("\n", done, done + _SEGMENT)
        if end < 0:
            return True
        done = end + 1
    return False
