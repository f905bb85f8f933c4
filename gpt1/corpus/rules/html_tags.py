"""HTML left in a text: tags, comments, and the entities that ftfy leaves alone where there are
tags.
"""

from __future__ import annotations

import re
from html import unescape

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, chained, edited

_BLOCKS = (
    "p|div|h[1-6]|pre|hr|table|tr|ul|ol|li|blockquote|center|body|html|head|title|dl|dt|dd|section"
    "|article|footer|header|nav"
)
_INLINE = (
    "a|b|i|u|em|strong|span|img|sup|sub|font|small|big|tt|code|cite|abbr|td|th|tbody|thead|meta"
    "|link|q|s|del|ins|mark|ruby"
)
_TAG = re.compile(
    rf"<(?:/?(?:({_BLOCKS})|(br)|(?:{_INLINE}))(?:\s(?=[^<>]{{0,1000}}=)[^<>]{{0,1000}}|\s?)/?>|!--[^<>]{{0,2000}}-->)",
    re.IGNORECASE,
)
_SCRIPT = re.compile(r"<(style|script)\b[^<>]{0,500}>[^<]{0,20000}</\1>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{2,6}|#x[0-9A-Fa-f]{2,5});")


def strip_html(text: str) -> Applied:
    """Known tags go: a block's tag leaves a blank line, `<br>` a line break.

    Other uses of `<` stay.
    """
    if "<" not in text:
        return Applied(text)
    done = chained(text, _scripts, _tags)
    return chained(text, _scripts, _tags, _entities) if done.strikes else done


def _scripts(text: str) -> Applied:
    return edited(text, (Edit(found.start(), found.end()) for found in _SCRIPT.finditer(text)))


def _tags(text: str) -> Applied:
    found = _TAG.finditer(text)
    return edited(
        text,
        (
            Edit(tag.start(), tag.end(), "\n\n" if tag[1] else "\n" if tag[2] else "")
            for tag in found
        ),
    )


def _entities(text: str) -> Applied:
    pairs = ((found, unescape(found.group())) for found in _ENTITY.finditer(text))
    return edited(
        text,
        (
            Edit(found.start(), found.end(), plain)
            for found, plain in pairs
            if plain != found.group()
        ),
    )


RULE = TextRule(
    "html", "HTML tags and comments are removed, and entities in such texts resolved.", strip_html,
    sentences=True,
)
