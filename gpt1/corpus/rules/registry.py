"""All rules, in the order in which they are applied.

A new rule is a function in one of the families beside this file and a name here.
"""

from __future__ import annotations

from gpt1.corpus.rules import boilerplate, filters, layout, markup
from gpt1.corpus.rules.rule import BookRule, TextRule

# Boxes of transcribers' notes are credits before they are tables; entities and tags go before what
# looks at lines; emphasis goes before headings are compared with the contents; lines are joined
# last, when nothing else needs them.
TEXT_RULES: tuple[TextRule, ...] = (
    layout.LINE_ENDS, layout.FTFY, layout.INVISIBLES, boilerplate.GUTENBERG, markup.HTML,
    boilerplate.TITLE_BLOCK, boilerplate.SMASHWORDS, boilerplate.CREDITS, markup.ILLUSTRATIONS,
    markup.FOOTNOTES, markup.PAGE_MARKS, markup.EMPHASIS, markup.HEADINGS, markup.TABLES,
    boilerplate.CONTENTS, layout.SCENE_BREAKS, layout.JOIN_LINES,
)  # fmt: skip
BOOK_RULES: tuple[BookRule, ...] = (filters.TOO_SHORT, filters.GARBLED, filters.NOT_ENGLISH)

DEFAULTS: dict[str, bool | int | float] = {
    **{rule.name: True for rule in TEXT_RULES},
    **{rule.setting: rule.default for rule in BOOK_RULES},
}
"""The switches, as the stage's settings name them."""
