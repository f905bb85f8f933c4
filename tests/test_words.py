"""People read plain American English: messages, templates and pages have no word of WORDS."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

WORDS = {
    r"mend(s|ed|ing)?": "fix, repair", r"told|tells": "say, report, identify",
    r"lies": "is, are", r"stands": "is; means", r"anew": "again", r"storeys?": "layer",
    r"of whom": "whose", r"nobody": "no one", r"so (many|much)": "N, this many",
    r"goes on|went on": "continue, resume", r"taken as": "cached, used as",
    r"left out": "skipped, excluded", r"beside": "next to, with",
    r"whole(?! number)": "complete, entire", r"licences?": "license",
    r"(behavi|col|neighb|hon|fav)our\w*": "-or",
    r"(normal|optim|token|initial|organ|recogn|summar|standard)is(e[drs]?|ers?|ing|ations?)": "z",
}  # fmt: skip
"""Regular expression: what to write instead."""

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
    rows = [(n, put, word.search(text)) for n, text in shown(file) for word, put in TABLE]
    return [f"{file}:{n}: {hit[0]!r}; write {put}" for n, put, hit in rows if hit]


def test_no_page_and_no_message_has_a_word_of_the_list() -> None:
    names = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "workflow.yaml")
    pages = [ROOT / name for name in names]
    pages += (ROOT / "docs").rglob("*.md")
    for layer in ("gpt1", "stages", "pipeline"):
        pages += [file for file in (ROOT / layer).rglob("*") if file.suffix in (".py", ".j2")]
    wrong = [line for page in sorted(pages) for line in found(page)]
    assert not wrong, "\n".join(wrong)


def test_a_planted_word_is_found(tmp_path: Path) -> None:
    for name, text in {"a.py": "x = f'lies {y}'", "a.md": "Mend it.", "a.j2": "stands"}.items():
        (tmp_path / name).write_text(text)
        assert len(found(tmp_path / name)) == 1
    (tmp_path / "a.py").write_text('"""It lies."""\nx = "mend"  # anew')
    assert found(tmp_path / "a.py") == []
