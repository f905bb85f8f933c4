"""One book cleaned: all rules in their order, each counted and measured, and the books that are
rejected.

A new rule is a function in one of the families in rules/, or of BOOK_RULES here, and a name below.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from gpt1.corpus.document import Document
from gpt1.corpus.rules import boilerplate, markup
from gpt1.corpus.rules.rule import BookRule, Size, TextRule

_SHOWN = 240
_GAPS = re.compile(r"\n(?:[ \t]*\n){2,}")


@dataclass(frozen=True)
class Sample:
    """What a rule did at one place of a book, shortened."""

    rule: str
    book: str
    before: str
    after: str

    @property
    def order(self) -> bytes:
        """The samples with the smallest hashes are those that are shown: nobody chose them, and
        they stay the same.
        """
        key = "\0".join((self.rule, self.book, self.before))
        return sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Cleaned:
    """A book after cleaning: what each rule did to it, and why it is rejected if it is.

    `strikes` and `changes` have an entry for each rule that changed something, in the order of the
    rules; `notes` for each that found what it does not know and left it. A rejected book's text is
    the one it came with.
    """

    book: Document
    before: Size
    after: Size
    strikes: dict[str, int]
    changes: dict[str, Size]
    samples: tuple[Sample, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    rejected: str | None = None
    evidence: str | None = None

    def record(self) -> dict[str, Any]:
        """The book's line in `records/`: which rules touched it, with counts, and sizes before
        and after.
        """
        return {
            "book": self.book.id,
            **{f"{name}_before": value for name, value in vars(self.before).items()},
            **vars(self.after), "rules": self.strikes,
            "changes": {name: vars(size) for name, size in self.changes.items()},
            **({"notes": self.notes} if self.notes else {}),
            "rejected": self.rejected, "evidence": self.evidence,
        }  # fmt: skip

    def rejected_row(self) -> dict[str, Any]:
        """The book as it came, with the rule and its evidence."""
        return {"rule": self.rejected, "evidence": self.evidence, **vars(self.book)}


def clean(book: Document, switches: Mapping[str, bool | int | float] | None = None) -> Cleaned:
    """Apply the rules that are switched on to the complete text of a book.

    `switches`: those that differ from `DEFAULTS`. With every text rule off the text stays as it
    came, to the byte. Sentences without books around them (`Document.form`) get fewer rules.
    """
    chosen = {**DEFAULTS, **(switches or {})}
    text, size = book.text, Size.of(book.text)
    cleaned = Cleaned(book, size, size, {}, {})
    samples: list[Sample] = []
    for rule in TEXT_RULES:
        if not chosen[rule.name] or (book.form == "sentences" and not rule.sentences):
            continue
        done = rule.apply(text)
        if done.note:
            cleaned.notes[rule.name] = done.note
        if done.text != text:
            text, size = done.text, size + done.change
            cleaned.strikes[rule.name], cleaned.changes[rule.name] = done.strikes, done.change
            shown = [Sample(rule.name, book.id, *map(_shorten, place)) for place in done.places]
            samples += sorted(shown, key=lambda sample: sample.order)[:1]
    cleaned = replace(cleaned, book=replace(book, text=text), after=size, samples=tuple(samples))
    for judge in BOOK_RULES:
        value = chosen[judge.setting]
        if not value or (book.form == "sentences" and not judge.sentences):
            continue
        if evidence := judge.judge(text, value):
            return replace(cleaned, book=book, rejected=judge.name, evidence=evidence)
    return cleaned


def _shorten(text: str) -> str:
    """Beginning and end of what is long, and no more than one blank line at a time."""
    text = _GAPS.sub("\n\n", text)
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN * 2 // 3]} […] {text[-_SHOWN // 3 :]}"


# --- Books that are rejected ---

_LETTER = re.compile(r"[^\W\d_]")
_VISIBLE = re.compile(r"\S")
_PIECES, _LENGTH = 25, 1_200


def _sample(text: str) -> str:
    """A complete short text, or 25 pieces of 1,200 characters spread evenly over a long one."""
    if len(text) <= _PIECES * _LENGTH:
        return text
    step = len(text) // _PIECES
    return "\n".join(text[start : start + _LENGTH] for start in range(0, step * _PIECES, step))


def _too_short(text: str, minimum: int) -> str | None:
    """Words between white space, after cleaning."""
    words = len(text.split(None, minimum))  # no further than needed
    return f"{words} words; at least {minimum} wanted" if words < minimum else None


TOO_SHORT = BookRule(
    "too_short", "Reject a book with fewer words after cleaning; 0 keeps all.",
    "minimum_words", 200, _too_short, {"ge": 0, "le": 1_000_000},
)  # fmt: skip

_BROKEN = re.compile(r"[\ufffd\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")
_LETTER_SHARE, _BROKEN_SHARE = 0.7, 0.02
_SHORTEST_WORDS, _LONGEST_WORDS = 2.5, 9.0
_FEWEST_VISIBLE = 200


def _garbled(text: str, on: bool) -> str | None:
    """No prose: leftovers of markup, tables of figures, scanning gone wrong, binary data.

    By the share of letters among the visible characters, of broken characters, and by the words'
    mean length.
    """
    sample = _sample(text)
    visible = len(_VISIBLE.findall(sample))
    if not on or visible < _FEWEST_VISIBLE:
        return None
    letters = len(_LETTER.findall(sample)) / visible
    broken = len(_BROKEN.findall(sample)) / visible
    mean = visible / len(sample.split())
    of_visible = "of the visible characters are"
    if letters < _LETTER_SHARE:
        return f"{letters:.0%} {of_visible} letters; at least {_LETTER_SHARE:.0%} wanted"
    if broken > _BROKEN_SHARE:
        return f"{broken:.1%} {of_visible} broken; at most {_BROKEN_SHARE:.1%} wanted"
    if not _SHORTEST_WORDS <= mean <= _LONGEST_WORDS:
        wanted = f"{_SHORTEST_WORDS} to {_LONGEST_WORDS} wanted"
        return f"words of {mean:.1f} visible characters on average; {wanted}"
    return None


GARBLED = BookRule(
    "garbled", "Books with few letters, many broken characters or implausible words are rejected.",
    "garbled", True, _garbled, sentences=True,
)  # fmt: skip

_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_FEWEST_WORDS = 50
_LATIN_SHARE = 0.8
# About a hundred of the most frequent function words of English, with the pronouns and forms of
# older English; and thirty or so of each other language in the Latin alphabet that books are likely
# to be in.
_FUNCTION_WORDS = """
English: the of and to a in that he was it his i is with as had for at you on her not be but she him
by they have which from this all my me or were so no said there we one an what are when if been who
up would out them their will do then more into some could now has like man did than your its any
very about over only our other such how after before us these upon through down well good made where
every never can little must own should may shall might thy thou thee ye hath unto;
Czech: a se na je že v z s do by ale jako za to co tak jsem když jeho už byl jen nebo podle při není
pro který však;
Danish: og i at det er en til på som på han af for den de med var ikke et jeg der har kan skal vil
også efter men hun blev;
Dutch: de het een van en in is dat op te niet zijn met voor hij er maar om hem dan zou wat mijn ze
uit aan bij ook als nog;
Finnish: ja on ei se että hän oli joka mutta niin kun kuin myös ovat mitä tämä sen siitä hänen minä
ole vain jos sitten;
French: le la les de des et un une il elle que qui dans pour pas ne ce se au du est sur avec plus je
vous nous son sa mais;
German: der die das und ist nicht zu den mit sich auf für er sie es ein eine dem des im auch als wie
aber ich noch nach von;
Hungarian: a az és hogy nem egy is ez meg de csak volt mint már még van azt ki mert ha el minden
vagy sem nagy lett itt fel;
Italian: il la di che e un una per non in con del si le dei da al come più ma sono della nel lo gli
era mi suo anche alla;
Latin: et in non est ut cum ad quod qui quae sed si ab ex nec atque hoc tibi mihi quam ac iam nunc
enim esse aut sunt te se;
Polish: w i z na do to się nie że jest jak o po za ale od tak był co dla czy przez tylko przy jego
już może tym które jej;
Portuguese: o a de que e do da em um uma para com não os as no na por mais se como mas ao ele seu
sua dos das foi era;
Spanish: el la de que y en un una los las por con no para se del al lo como más su pero sus le ya
este sí porque era muy;
Swedish: och att det i en som på är av för med den till inte han var ett om sig jag men hade de så
vi hon från kan när över"""
_OTHERS = {
    name.strip(): frozenset(words.split())
    for name, _, words in (entry.partition(":") for entry in _FUNCTION_WORDS.split(";"))
}
_ENGLISH = _OTHERS.pop("English")


def _not_english(text: str, threshold: float) -> str | None:
    """Too few English function words, or more of another language's that English does not have, or
    too few Latin letters.

    A text of fewer than 50 words is not judged.
    """
    sample = _sample(text)
    letters = len(_LETTER.findall(sample))
    latin = len(_LATIN.findall(sample)) / max(1, letters)
    if latin < _LATIN_SHARE and letters >= 4 * _FEWEST_WORDS:
        return f"{latin:.0%} of the letters are Latin; at least {_LATIN_SHARE:.0%} wanted"
    words = Counter(_WORD.findall(sample.lower()))
    number = words.total()
    if number < _FEWEST_WORDS:
        return None
    english = sum(words[word] for word in _ENGLISH) / number
    shares = {
        name: sum(words[word] for word in some - _ENGLISH) / number
        for name, some in _OTHERS.items()
    }
    other, share = max(sorted(shares.items()), key=lambda item: item[1])
    said = f"{english:.1%} of the words are English function words, {share:.1%} are {other} ones"
    if english < threshold:
        return f"{said}; at least {threshold:.0%} English wanted"
    return f"{said}; more English ones wanted" if share > english else None


NOT_ENGLISH = BookRule(
    "not_english",
    "Reject a book with a smaller share of English function words, or with more of another"
    " language's; 0 keeps all.",
    "english", 0.25, _not_english, {"ge": 0, "le": 1}, sentences=True,
)  # fmt: skip

# --- All rules ---

# Boxes of transcribers' notes are credits before they are tables; entities and tags go before what
# looks at lines; emphasis goes before headings are compared with the contents; lines are joined
# last, when nothing else needs them.
TEXT_RULES: tuple[TextRule, ...] = (
    markup.LINE_ENDS, markup.FTFY, markup.INVISIBLES, boilerplate.GUTENBERG, markup.HTML,
    boilerplate.TITLE_BLOCK, boilerplate.SMASHWORDS, boilerplate.CREDITS, markup.ILLUSTRATIONS,
    markup.FOOTNOTES, markup.PAGE_MARKS, markup.EMPHASIS, markup.HEADINGS, markup.TABLES,
    boilerplate.CONTENTS, markup.SCENE_BREAKS, markup.JOIN_LINES,
)  # fmt: skip
BOOK_RULES: tuple[BookRule, ...] = (TOO_SHORT, GARBLED, NOT_ENGLISH)

DEFAULTS: dict[str, bool | int | float] = {
    **{rule.name: True for rule in TEXT_RULES},
    **{rule.setting: rule.default for rule in BOOK_RULES},
}
"""The switches, as the stage's settings name them."""
