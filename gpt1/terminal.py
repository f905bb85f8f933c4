"""Text on its way to people. What it quotes may come from a file or a server of a stranger's, and
a terminal obeys what a page merely shows.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, TextIO

LONGEST = 2000  # characters of a message

_ESCAPES = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
_CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
"""All but tabs and newlines; also those that end a line, and those that turn it around."""
_UNSAFE = re.compile(f"{_ESCAPES}|{_CONTROLS}")
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """The text without escape sequences and control characters, tabs and newlines excepted; half a
    character (a surrogate), which no file can hold, as its number.
    """
    return _UNSAFE.sub("", text).encode("utf-8", "backslashreplace").decode("utf-8")


def clean_value(value: Any) -> Any:
    """The same of what a template shows; markup, which is made of clean values, stays as it is."""
    return clean(value) if type(value) is str else value


def one_line(text: object, longest: int = LONGEST) -> str:
    """The text as one clean line, of at most `longest` characters; a longer one says so."""
    line = " ".join(clean(re.sub(r"\t|\r(?!\n)", " ", str(text))).splitlines()).strip()
    if len(line) <= longest:
        return line
    note = f"… ({len(line):,} characters)"
    return line[: longest - len(note)] + note


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON for programs and for people: with the letters of all languages, and with what a terminal
    would obey, or cannot show, as `\\u` and its number.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show(
    text: str = "", end: str = "\n", error: bool = False, stream: TextIO | None = None
) -> None:
    """Print clean text, at once, on standard output; `error`: on standard error.

    What the stream's encoding does not have is shown as its number.
    """
    stream = stream or (sys.stderr if error else sys.stdout)
    encoding = stream.encoding or "utf-8"
    shown = clean(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, end=end, file=stream, flush=True)
