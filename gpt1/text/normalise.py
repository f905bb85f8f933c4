"""The first two steps from text to ids: ftfy, then the standardising of OpenAI's code (SPEC section 2)."""

from __future__ import annotations

import re

from ftfy import fix_text

# A run of any ONE of these characters gets a space on either side. The backslash is not among them: in OpenAI's code its branch is
# dead, because the pattern there is no raw string.
_PADDED = re.compile(r"""([-~!";?+,)(/*\[\]}{|_])\1*""")
_PLAIN = (("—", "-"), ("–", "-"), ("―", "-"), ("…", "..."), ("´", "'"))
_AROUND_NEWLINE = re.compile(r"\s*\n\s*")
# Runs of white space without a newline, but for the single space, which stays what it is.
_OTHER_SPACE = re.compile(r"[^\S\n ][^\S\n]*| [^\S\n]+")


def fix(text: str) -> str:
    """Mend mojibake, entities, quotes and line ends with ftfy's defaults.

    The granularity is the whole text. Line by line gives other results: `unescape_html="auto"` switches itself off for all that
    follows the first `<`.
    """
    return fix_text(text)


def standardise(text: str) -> str:
    """Dashes, ellipses and accents made plain, punctuation set apart, white space collapsed to ` \\n ` and single spaces."""
    for fancy, plain in _PLAIN:
        text = text.replace(fancy, plain)
    text = _PADDED.sub(lambda run: f" {run.group()} ", text)
    text = _AROUND_NEWLINE.sub(" \n ", text)
    return _OTHER_SPACE.sub(" ", text).strip()
