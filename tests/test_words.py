"""People read plain American English: messages, templates and pages have no word of WORDS."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

WORDS = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"told|tells": "say, report, identify",
    r"lies": "is, are",
    r"stands": "is; means",
    r"anew": "again",
    r"store(y|ys|ies) (of|in)|(two|three) storeys": "layer",
    r"of whom": "whose",
    r"nobody": "no one, or name the subject",
    r"so (many|much)": "N, this many",
    r"goes on|went on": "continue, resume",
    r"taken as": "cached, used as",
    r"left out": "skipped, excluded",
    r"beside": "next to, with",
    r"whole(?! number)": "complete, entire",
    r"(behavi|col|neighb|hon|fav)our\w*": "-or",
    r"licences?": "license",
    r"(normal|optim|token|initial|organ|recogn|summar|standard)is(e[drs]?|ers?|ing|ations?)": "-ize",
}
"""Regular expression: what to write instead. The second column is for who reads a failure."""

ALLOWED = ("OpenAI's regexes",)
TABLE = [(re.compile(rf"\b(?:{word})\b", re.IGNORECASE), put) for word, put in WORDS.items()]


def shown(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of what a person may read: strings with a space that are no docstrings."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        yield from enumerate(re.sub(r"\{[{%].*?[}%]\}|`[^`\n]+`", "", text).splitlines(), 1)
        return
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from [] if id(node) in docstrings else [(node.lineno, node.value)]


def found(file: Path) -> list[str]:
    lines = [(n, word, put, text) for n, text in shown(file) for word, put in TABLE]
    return [f"{file}:{n}: {hit[0]!r}: write {put}" for n, word, put, text in lines
            for hit in word.finditer(text)]  # fmt: skip


def test_no_page_and_no_message_has_a_word_of_the_list() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "workflow.yaml"]
    pages += sorted((ROOT / "docs").rglob("*.md"))
    for layer in ("gpt1", "stages", "pipeline"):
        pages += [*sorted((ROOT / layer).rglob("*.py")), *sorted((ROOT / layer).rglob("*.j2"))]
    assert [line for page in pages for line in found(page)] == []


def test_a_planted_word_is_found(tmp_path: Path) -> None:
    for name, text in (("a.py", "raise ValueError('lies in {x}')"), ("a.md", "Mend it."),
                       ("a.html.j2", "<p>{{ x }} stands</p>")):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert len(found(tmp_path / name)) == 1
    (tmp_path / "a.py").write_text('"""Lies."""\nx = "mend"  # anew')
    assert found(tmp_path / "a.py") == []
