"""All rules, in the order in which they are applied.

A new rule is a file beside this one and a line here.
"""

from __future__ import annotations

from gpt1.corpus.rules import (
    contents,
    credits,
    emphasis,
    footnotes,
    garbled,
    gutenberg,
    headings,
    html_tags,
    illustrations,
    join_lines,
    line_ends,
    mend,
    not_english,
    page_marks,
    scene_breaks,
    smashwords,
    tables,
    title_block,
    too_short,
)
from gpt1.corpus.rules.rule import BookRule, TextRule

# Boxes of transcribers' notes are credits before they are tables; entities and tags go before what
# looks at lines; emphasis goes before headings are compared with the contents; lines are joined
# last, when nothing else needs them.
TEXT_RULES: tuple[TextRule, ...] = (
    line_ends.RULE, mend.RULE, gutenberg.RULE, html_tags.RULE, title_block.RULE, smashwords.RULE,
    credits.RULE, illustrations.RULE, footnotes.RULE, page_marks.RULE, emphasis.RULE, headings.RULE,
    tables.RULE, contents.RULE, scene_breaks.RULE, join_lines.RULE,
)
BOOK_RULES: tuple[BookRule, ...] = (too_short.RULE, garbled.RULE, not_english.RULE)

DEFAULTS: dict[str, bool | int | float] = {
    **{rule.name: True for rule in TEXT_RULES},
    **{rule.setting: rule.default for rule in BOOK_RULES},
}
"""The switches, as the stage's settings name them."""
